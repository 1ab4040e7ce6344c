"""The search loop, on scripted objectives: what it returns, shows, counts and refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from gia.attacks.matching import LBFGS, Adam, Interrupted, Point, minimize
from gia.attacks.schedules import step_decay


def scripted(*values):
    """An objective that takes the next row of values at each evaluation, whatever the variables; its gradient is 1."""
    rows = iter(torch.tensor(values, dtype=torch.float64))

    def evaluate(variables, trials):
        return Point(next(rows), [torch.ones_like(variable) for variable in variables])

    return evaluate


def downhill(lr=1.0):
    """Each step moves every variable by exactly -lr times the factor."""

    def rule(variables):
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
    """If it fails, the image returned is not the one with the least objective of its own, or it is another trial's."""
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
def test_an_objective_that_is_not_finite_is_an_error_with_its_step_and_trial(bad, step):
    """If it fails, a diverged trial hides behind an earlier good point, or -inf is the best of all."""
    values = [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]
    values[step][1] = bad
    with pytest.raises(FloatingPointError, match=f"not finite at step {step} in trial 1 of 2"):
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
        seen.append((trials.start or 0, float(point.values[0])))
        return point

    found = minimize(watched, starts(), steps=1, update=LBFGS())
    for trial in range(2):
        assert float(found.values[trial]) <= min(value for t, value in seen[:-1] if t == trial)


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
