"""The search loop, on scripted objectives: what it returns, shows, counts and refuses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from gia.attacks import NothingFound
from gia.attacks.matching import CMA, LBFGS, Adam, Interrupted, Langevin, Point, minimize
from gia.attacks.schedules import step_decay


def scripted(*values):
    """An objective that takes the next row of values at each evaluation, whatever the variables; its gradient is 1."""
    rows = iter(torch.tensor(values, dtype=torch.float64))

    def evaluate(variables, trials):
        return Point(next(rows), [torch.ones_like(variable) for variable in variables])

    return evaluate


def downhill(lr=1.0):
    """Each step moves every variable by exactly -lr times the factor."""

    def rule(variables, trials=slice(None)):
        def step(evaluate, factor):
            for variable, gradient in zip(variables, evaluate(variables, slice(None)).gradients, strict=True):
                variable -= lr * factor * gradient

        return step

    return rule


def bowl(center):
    """|x - center|^2 per trial, with its gradient."""

    def evaluate(variables, trials):
        away = variables[0] - center[trials]
        return Point(away.square().flatten(1).sum(1), [2 * away])

    return evaluate


def starts(trials=2):
    """One variable of two entries per trial."""
    return [torch.zeros(trials, 2, dtype=torch.float64)]


def test_the_best_point_of_each_trial_is_returned_and_not_the_last():
    """If it fails, the image returned is not the one with its trial's least objective, or it is another trial's."""
    found = minimize(scripted([5, 5], [3, 6], [4, 1], [9, 2]), starts(), steps=3, update=downhill())
    assert found.values.tolist() == [3, 1]
    assert found.variables[0].tolist() == [[-1, -1], [-2, -2]]


def test_the_last_point_is_a_candidate_and_the_first_of_equals_wins():
    """If it fails, the last step was for nothing, or a plateau returns its far end."""
    found = minimize(scripted([5, 2], [4, 2]), starts(), steps=1, update=downhill())
    assert found.values.tolist() == [4, 2]
    assert found.variables[0].tolist() == [[-1, -1], [0, 0]]


def test_zero_steps_evaluate_the_start_once():
    """If it fails, a search of no steps moves, or has no objective."""
    start = [torch.rand(2, 3, dtype=torch.float64), torch.rand(2, 1, dtype=torch.float64)]
    found = minimize(scripted([5, 7]), start, steps=0, update=downhill())
    assert found.values.tolist() == [5, 7]
    assert all(one.equal(two) for one, two in zip(found.variables, start, strict=True))
    with pytest.raises(ValueError, match="steps: expected at least 0, got -1"):
        minimize(scripted([5, 7]), start, steps=-1, update=downhill())


def test_the_start_is_left_alone():
    """If it fails, a second search with the same start begins where the first one ended."""
    start = starts()
    found = minimize(scripted([5, 5], [4, 4]), start, steps=1, update=downhill())
    assert start[0].tolist() == [[0, 0], [0, 0]]
    assert found.variables[0].data_ptr() != start[0].data_ptr()


def test_the_constraint_holds_at_every_point_but_the_start():
    """If it fails, the search leaves its box between steps, and its best point may lie outside."""
    seen = []

    def evaluate(variables, trials):
        seen.append(variables[0].clone())
        return Point(variables[0].sum(1), [torch.ones_like(variables[0])])

    def clamp(variables):
        variables[0].clamp_(min=-1.5)

    found = minimize(evaluate, starts(), steps=4, update=downhill(), constraint=clamp)
    assert [float(point.min()) for point in seen] == [0, -1, -1.5, -1.5, -1.5]
    assert found.variables[0].min() == -1.5


def test_the_schedule_scales_each_step():
    """If it fails, the step size decays at other steps than the schedule says."""
    positions = []
    minimize(
        scripted(*[[1.0]] * 9),
        starts(1),
        steps=8,
        update=downhill(),
        schedule=step_decay,
        callback=lambda progress: positions.append(float(progress.variables[0][0, 0])),
    )
    moved = [before - after for before, after in pairwise(positions)]
    assert moved == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_callback_comes_before_each_step():
    """If it fails, plots of a search are shifted by a step, or show a best that was not yet seen."""
    seen = []
    minimize(scripted([5, 5], [3, 6], [4, 1]), starts(), steps=2, update=downhill(), callback=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(0, 2), (1, 2)]
    assert [progress.best.tolist() for progress in seen] == [[torch.inf, torch.inf], [5, 5]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_trial_whose_objective_is_not_finite_is_lost_and_the_others_go_on(bad, step):
    """If it fails, one diverged start ends the others, or -inf is the best of all."""
    values = [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]
    values[step][1] = bad
    found = minimize(scripted(*values), starts(), steps=2, update=downhill())
    assert found.values.tolist() == [1.0, torch.inf]
    assert found.lost == [False, True]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_search_whose_trials_are_all_lost_finds_nothing_and_names_the_step(bad, step):
    """If it fails, a search that diverged returns its start."""
    values = [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]
    values[0][0] = torch.nan
    values[step][1] = bad
    with pytest.raises(NothingFound, match=f"none that is finite in all 2 trials by step {step};"):
        minimize(scripted(*values), starts(), steps=2, update=downhill())


def test_an_interrupt_returns_the_best_so_far_with_a_warning():
    """If it fails, Ctrl-C loses the search, or nobody learns that it was cut short."""

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.warns(Interrupted, match="interrupted at step 2 of 9: the best so far is returned"):
        found = minimize(scripted([5, 1], [3, 6]), starts(), steps=9, update=downhill(), callback=stop)
    assert found.values.tolist() == [3, 1]
    assert found.variables[0].tolist() == [[-1, -1], [0, 0]]


def test_any_other_exception_passes():
    """If it fails, an error in a callback or an objective is swallowed."""

    def stumble(progress):
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        minimize(scripted([5, 5]), starts(), steps=3, update=downhill(), callback=stumble)


def test_inner_points_of_a_line_of_steps_are_candidates_too():
    """If it fails, L-BFGS forgets the good point between two outer steps when the next one jumps away."""
    center = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    evaluate, seen = bowl(center), []

    def watched(variables, trials):
        point = evaluate(variables, trials)
        seen.extend(zip(range(2)[trials], point.values.tolist(), strict=True))
        return point

    found = minimize(watched, starts(), steps=1, update=LBFGS())
    for trial in range(2):
        assert float(found.values[trial]) <= min(value for t, value in seen[:-2] if t == trial)


@pytest.mark.parametrize("update", [Adam(0.3, signed=True), Adam(0.3, signed=False), LBFGS()], ids=repr)
def test_trials_do_not_mix(update):
    """If it fails, a trial's result depends on its neighbours by more than rounding: vectorized kernels treat the last
    entries of a buffer apart."""
    center = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = minimize(bowl(center), starts(3), steps=7, update=update)
    for trial in range(3):
        alone = minimize(bowl(center[trial : trial + 1]), starts(1), steps=7, update=update)
        torch.testing.assert_close(alone.values[0], together.values[trial], rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(alone.variables[0][0], together.variables[0][trial], rtol=1e-9, atol=1e-12)


def following(*courses, prior=0.0):
    """Trial t's k-th evaluation has the data term courses[t](k). Returns the objective and the evaluations by trial."""
    asked = [0] * len(courses)

    def evaluate(variables, trials):
        data = []
        for trial in range(len(courses))[trials]:
            data.append(courses[trial](asked[trial]))
            asked[trial] += 1
        data = torch.tensor(data, dtype=torch.float64)
        return Point(data + prior, [torch.ones_like(variable) for variable in variables], data)

    return evaluate, asked


def moves(evaluate, **settings):
    """How far each step moved the first trial."""
    positions = []
    found = minimize(
        evaluate,
        starts(1),
        update=downhill(),
        callback=lambda progress: positions.append(float(progress.variables[0][0, 0])),
        **settings,
    )
    return [before - after for before, after in pairwise(positions)], found


def falling_until(step, by=0.9):
    """1, 0.9, 0.81, ... until a step, and the same value from there on."""
    return lambda k: by ** min(k, step)


def test_a_converged_trial_decays_in_three_stages_for_a_third_of_its_steps():
    """Nothing falls from the start, so the first check after 20 steps ends the constant phase; 7 steps are a third of
    these, rounded up. If it fails, the decay is another one than the rule's, or the last point is not evaluated."""
    evaluate, asked = following(lambda k: 1.0)
    moved, found = moves(evaluate, steps=300, converged=0.01, least=20)
    assert moved == pytest.approx([1] * 20 + [0.1] * 3 + [0.01] * 2 + [0.001])  # and a last one of 0.001, unseen
    assert asked == [28]
    assert found.converged == [True]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 7, 41, 100])
def test_a_trial_that_still_falls_decays_from_three_quarters_of_its_cap(steps):
    """If it fails, the cap is exceeded or not used, or a search that ended there is called converged."""
    evaluate, asked = following(lambda k: 0.5**k)
    moved, found = moves(evaluate, steps=steps, converged=0.01)
    assert asked == [steps + 1]
    assert found.converged == [False]
    assert moved[: steps - steps // 4 - 1] == pytest.approx([1] * (steps - steps // 4 - 1))
    assert moved[steps - steps // 4 :] == sorted(moved[steps - steps // 4 :], reverse=True)
    assert all(one < 0.2 for one in moved[steps - steps // 4 :])


def test_the_last_fifth_of_the_steps_decides():
    """The data term halves at evaluation 81 and stands still otherwise. After 100 steps the last fifth begins behind
    it; the check at 85 to 95 must not end the phase. If it fails, another window is asked."""
    evaluate, asked = following(lambda k: 1.0 - 0.005 * min(k, 78) - 0.3 * (k >= 81))
    moves(evaluate, steps=1000, converged=0.01, least=20)
    ended = next(n for n in range(20, 750, 5) if fell(lambda k: 1.0 - 0.005 * min(k, 78) - 0.3 * (k >= 81), n) < 0.01)
    assert ended == 105
    assert asked == [ended + math.ceil(ended / 3) + 1]


def fell(course, n):
    """Share by which the best of n evaluations is below the best of all but the last fifth."""
    before, now = (min(course(k) for k in range(m)) for m in (n - n // 5, n))
    return (before - now) / before


def test_the_data_term_decides_and_not_the_priors():
    """A constant of 1000 is added: the sum falls by less than 1 % from the start, its data term by 10 % in each step.
    If it fails, a strong prior ends a search whose images still change."""
    for prior in (0.0, 1000.0):
        evaluate, asked = following(falling_until(60), prior=prior)
        moves(evaluate, steps=1000, converged=0.01, least=20)
        assert asked == [80 + 27 + 1]  # the last fifth of 80 steps is behind step 60


def test_a_data_term_at_rounding_is_converged_though_it_falls():
    """eps squared of float64 is 4.9e-32, reached by 0.1**k at k = 32. If it fails, the last bits are searched."""
    evaluate, asked = following(lambda k: 0.1**k)
    moves(evaluate, steps=1000, converged=0.01, least=20)
    assert asked == [35 + 12 + 1]


RULES = {
    "signed": lambda generators: Adam(0.3, signed=True),
    "adam": lambda generators: Adam(0.3, signed=False),
    "noise": lambda generators: Langevin(Adam(0.3, signed=False), 0.01, generators),
    "lbfgs": lambda generators: LBFGS(lr=0.02, inner_steps=3),
    "cma": lambda generators: CMA(1.0, 4, None, generators),
}


@pytest.mark.parametrize("name", RULES)
def test_a_trial_ends_as_it_does_alone_bit_for_bit(name):
    """Four trials of which two are near their center, so that they end at other steps, with three entries each, which
    no vector of a CPU holds. If it fails, a result depends on what else was searched, or a finished trial goes on."""
    center = torch.tensor([[1e-3] * 3, [20.0, -30.0, 7.0], [1e-2] * 3, [3.0, 2.0, -50.0]], dtype=torch.float64)
    asked = [0] * 4

    def evaluate(variables, trials):
        for trial in range(4)[trials]:
            asked[trial] += 1
        away = variables[0] - center[trials]
        values = torch.stack([(one.square() + 1).sum() for one in away])  # the same order of sums for any number
        return Point(values, [2 * away])

    def search(chosen):
        generators = [torch.Generator().manual_seed(trial) for trial in range(4)]
        rule = RULES[name](generators[chosen])
        start = [torch.zeros(4, 3, dtype=torch.float64)[chosen]]
        return minimize(
            lambda variables, trials: evaluate(
                variables, slice(*(range(4)[chosen][trials].start, range(4)[chosen][trials].stop))
            ),
            start,
            steps=400,
            update=rule,
            converged=0.01,
            least=20,
        ), [float(torch.rand(1, generator=generator)) for generator in generators[chosen]]

    together, drawn = search(slice(0, 4))
    counts, asked[:] = list(asked), [0] * 4
    for trial in range(4):
        alone, own = search(slice(trial, trial + 1))
        assert alone.variables[0][0].equal(together.variables[0][trial])
        assert alone.values[0] == together.values[trial]
        assert alone.converged == together.converged[trial : trial + 1]
        assert own == drawn[trial : trial + 1]
    assert asked == counts
    assert len(set(counts)) > 1


def test_a_rule_that_asks_twice_gets_the_second_value_of_its_own_trial_too():
    """If it fails, the rule of one trial follows the objective of another one."""
    asked, center = [], torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)

    def evaluate(variables, trials):
        asked.append((trials.start, trials.stop))
        return bowl(center)(variables, trials)

    def rule(variables, trials=slice(None)):
        def step(evaluate, factor):
            evaluate(variables, slice(None))
            variables[0].sub_(0.1 * factor * evaluate(variables, slice(0, 1)).gradients[0])

        return step

    minimize(evaluate, starts(), steps=6, update=rule, converged=0.01, least=5)
    assert asked[:3] == [(0, 2), (0, 1), (1, 2)]


def test_trials_that_depend_on_each_other_end_together():
    """Two pairs: the first has one trial that falls for 60 steps. If it fails, a group loses a member on its way."""
    evaluate, asked = following(falling_until(0), falling_until(60), falling_until(0), falling_until(0))
    found = minimize(evaluate, starts(4), steps=1000, update=downhill(), converged=0.01, least=20, together=2)
    assert asked == [108, 108, 28, 28]
    assert found.converged == [True] * 4


def test_an_interrupted_search_has_not_converged():
    """If it fails, Ctrl-C passes for convergence."""

    def stop(progress):
        if progress.step == 22:
            raise KeyboardInterrupt

    evaluate, _ = following(lambda k: 1.0)
    with pytest.warns(Interrupted):
        found = minimize(evaluate, starts(1), steps=99, update=downhill(), converged=0.01, least=20, callback=stop)
    assert found.converged == [False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"converged": 0.0}, "converged: expected a share between 0 and 1, or None, got 0.0"),
        ({"converged": 1}, "converged: expected a share between 0 and 1, or None, got 1"),
        ({"converged": 0.01, "least": 4}, "least: expected at least 5, got 4"),
        ({"converged": 0.01, "schedule": step_decay}, "schedule: expected the default beside converged"),
    ],
)
def test_settings_of_convergence_out_of_range_are_named(settings, message):
    """If it fails, a search that can never converge runs to its cap, or a schedule is ignored in silence."""
    with pytest.raises(ValueError, match=message):
        minimize(following(lambda k: 1.0)[0], starts(1), steps=9, update=downhill(), **settings)
