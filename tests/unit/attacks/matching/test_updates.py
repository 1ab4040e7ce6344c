"""Update rules against their papers' formulas and against torch's own optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gia.attacks.matching import CMA, LBFGS, Adam, Langevin, Point, minimize

FACTORS = [1.0, 1.0, 0.1, 0.1, 0.01]


def slope(variables, trials=slice(None)):
    """A smooth function of two variables, with gradients whose sizes differ by orders of magnitude."""
    one, two = variables
    leaf = [one.detach().requires_grad_(), two.detach().requires_grad_()]
    with torch.enable_grad():
        values = (100 * leaf[0].square() + leaf[0].sin()).sum(1) + (1e-3 * (leaf[1] - 1) ** 4).sum(1)
        gradients = torch.autograd.grad(values.sum(), leaf)
    return Point(values.detach(), gradients)


def start(trials=2):
    """Two variables per trial."""
    g = torch.Generator().manual_seed(0)
    return [torch.randn(trials, 3, generator=g, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("signed", [True, False])
def test_adam_is_algorithm_1_of_its_paper(signed):
    """Kingma and Ba, 2015, Algorithm 1, in NumPy; on the sign of the gradient in Geiping et al., 2020, Sec. 4. If it
    fails, the step is not the published one: the sign is taken of the step and not of the gradient, or not at all."""
    variables, by_hand = start(), [x.numpy().copy() for x in start()]
    step = Adam(0.1, signed=signed)(variables)
    moments = [(np.zeros((2, 3)), np.zeros((2, 3))) for _ in by_hand]
    for t, factor in enumerate(FACTORS, 1):
        gradients = [g.numpy() for g in slope([torch.from_numpy(x) for x in by_hand]).gradients]
        for i, g in enumerate(np.sign(gradients) if signed else gradients):
            m, v = 0.9 * moments[i][0] + 0.1 * g, 0.999 * moments[i][1] + 0.001 * g**2
            moments[i] = m, v
            by_hand[i] -= 0.1 * factor * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        step(slope, factor)
    for variable, expected in zip(variables, by_hand, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-12)


def test_the_first_signed_step_moves_every_entry_by_the_step_size():
    """If it fails, small gradients move less than large ones, and the sign is lost."""
    variables, before = start(), start()
    Adam(0.1, signed=True)(variables)(slope, 0.5)
    for one, two in zip(variables, before, strict=True):
        assert (one - two).abs().numpy() == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("update", [Adam(0.1, signed=True), Adam(0.1, signed=False), LBFGS()], ids=repr)
def test_the_strides_of_a_gradient_do_not_matter(update):
    """If it fails, a gradient that an engine returns transposed moves other pixels than its own: torch's fused Adam on
    CPUs does that without an error (torch 2.14), and searches of several trials with several images go uphill."""
    center = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for transposed in (False, True):

        def evaluate(variables, trials, transposed=transposed):
            away = 2 * (variables[0] - center[trials])
            strided = away.transpose(1, 2).contiguous().transpose(1, 2) if transposed else away
            return Point(away.square().flatten(1).sum(1), [strided])

        variables = [torch.zeros(2, 3, 4, dtype=torch.float64)]
        step = update(variables)
        for _ in range(3):
            step(evaluate, 1.0)
        found.append(variables[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_lbfgs_is_torchs_on_each_trial_alone():
    """If it fails, trials share curvature, or the settings are not those of DLG: lr 1, history 100, 20 inner steps."""
    variables = start()
    step = LBFGS()(variables)
    for factor in (1.0, 0.5):
        step(lambda at, trials: slope(at), factor)
    for trial in range(2):
        alone = [x[trial : trial + 1].clone() for x in start()]
        optimizer = torch.optim.LBFGS(alone, lr=1.0, history_size=100, max_iter=20)

        def closure(alone=alone):
            point = slope(alone)
            for variable, gradient in zip(alone, point.gradients, strict=True):
                variable.grad = gradient
            return float(point.values)

        optimizer.step(closure)
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step(closure)
        assert all(x[trial].equal(y[0]) for x, y in zip(variables, alone, strict=True))


def uneven(variables, trials=slice(None)):
    """|x - 1|^2 of five trials, |x - 1|^4 for the second and last; the fourth is not finite, and the value of the last
    stands still."""
    powers = torch.tensor([2.0, 4.0, 2.0, 2.0, 4.0])[trials]
    factors = torch.tensor([1.0, 1.0, 1.0, torch.nan, 1.0])[trials]
    away = variables[0] - 1
    values = factors * (away.abs() ** powers[:, None]).sum(1)
    values = torch.where(torch.arange(5)[trials] == 4, 1.0, values)
    return Point(values, [(factors * powers)[:, None] * away.sign() * away.abs() ** (powers[:, None] - 1)])


@pytest.mark.parametrize("inner_steps", [20, 3])
def test_inner_steps_end_where_torchs_do(inner_steps):
    """Five trials: one converges, one falls slowly, one starts at its least value, one is not finite, and the value of
    one stands still. Each asks as often as `torch.optim.LBFGS` calls its closure, and ends at the same bits.

    If it fails, a trial goes on at rounding, costs evaluations that move nothing, or one lost trial moves another."""
    begin = torch.tensor([[3.0, 2.0], [2.5, 1.5], [1.0, 1.0], [0.0, 4.0], [4.0, 0.5]], dtype=torch.float64)
    asked, variable = [0] * 5, begin.clone()

    def evaluate(variables, trials):
        for trial in range(5)[trials]:
            asked[trial] += 1
        return uneven(variables, trials)

    step = LBFGS(inner_steps=inner_steps)([variable])
    for _ in range(3):
        step(evaluate, 1.0)
    counts = []
    single = begin[:1].clone()
    alone = LBFGS(inner_steps=inner_steps)([single])
    for _ in range(3):
        alone(uneven, 1.0)
    assert torch.equal(variable[:1], single)
    for trial in range(5):
        own, calls = begin[trial : trial + 1].clone(), []
        optimizer = torch.optim.LBFGS([own], lr=1.0, history_size=100, max_iter=inner_steps)

        def closure(own=own, calls=calls, trial=trial):
            point = uneven([own], slice(trial, trial + 1))
            own.grad = point.gradients[0]
            calls.append(1)
            return float(point.values)

        for _ in range(3):
            optimizer.step(closure)
        counts.append(len(calls))
        assert torch.equal(variable[trial : trial + 1].nan_to_num(7.0), own.nan_to_num(7.0))
    assert asked == counts
    assert len(set(counts)) >= 3


def test_lbfgs_asks_for_all_trials_at_once_while_they_move():
    """If it fails, restarts cost what they cost one by one, or evaluations are counted for a trial that has ended."""
    asked = []

    def evaluate(variables, trials):
        asked.append((trials.start, trials.stop, len(variables[0])))
        gradient = torch.ones_like(variables[0])
        gradient[[trial == 1 for trial in range(3)[trials]]] = 0.0
        return Point(gradient.sum(1), [gradient])

    LBFGS(inner_steps=3)([torch.zeros(3, 2, dtype=torch.float64)])(evaluate, 1.0)
    assert asked[:3] == [(0, 3, 3), (0, 1, 1), (2, 3, 1)]


def seeded(*seeds):
    """Generators."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def still(variables, trials=slice(None)):
    """A rule that moves nothing."""
    return lambda evaluate, factor: None


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_langevin_noise_has_the_deviation_of_the_step_size(factor):
    """x += lambda(t) * alpha_n * N(0, 1) (Yin et al., 2021, the final update): standard deviation 0.02 at factor 1, so
    variance 4e-4, in 200,000 draws (whose own deviation is within 1 % beyond doubt: 6 sigma). If it fails, the noise's
    variance is taken for its deviation (0.14 or 4e-4), or it does not shrink with the step size."""
    noise = torch.zeros(2, 100_000, dtype=torch.float64)
    Langevin(still, 0.02, seeded(0, 1))([noise])(slope, factor)
    assert float(noise.std()) == pytest.approx(0.02 * factor, rel=0.01)
    assert abs(float(noise.mean())) < 6 * 0.02 * factor / 200_000**0.5
    assert abs(float((noise[0] * noise[1]).mean())) < 6 * (0.02 * factor) ** 2 / 100_000**0.5


def test_langevin_moves_as_its_rule_and_then_adds_what_the_generators_give():
    """If it fails, the noise replaces the step, enters the gradient, or is one draw for all trials and steps."""
    variables, plain = start(), start()
    noisy, step = Langevin(Adam(0.1, signed=False), 0.5, seeded(3, 4))(variables), Adam(0.1, signed=False)(plain)
    noisy(slope, 0.5)
    step(slope, 0.5)
    generators = seeded(3, 4)
    for variable, without in zip(variables, plain, strict=True):
        drawn = torch.stack([torch.randn(3, generator=g) for g in generators]).double()
        torch.testing.assert_close(variable, without + 0.25 * drawn, rtol=1e-12, atol=0)


def test_each_trial_has_its_own_noise():
    """If it fails, the noise of a trial depends on the other trials."""
    together, alone = start(), [x[1:].clone() for x in start()]
    for variables, generators in ((together, seeded(3, 4)), (alone, seeded(4))):
        step = Langevin(still, 0.5, generators)(variables)
        step(slope, 1.0)
        step(slope, 1.0)
    for one, two in zip(together, alone, strict=True):
        assert one[1:].equal(two)


def distance(variables, trials=slice(None)):
    """Squared distance to (1, 2, 3); no gradient."""
    return Point((variables[0] - torch.tensor([1.0, 2.0, 3.0])).square().flatten(1).sum(1), [])


def test_evolution_finds_the_least_value_within_its_bound():
    """One trial's bound is out of reach of the minimum, so it stops at the corner. If it fails, candidates get each
    other's values, or the bound is on something else."""
    for bound, expected in ((None, [1.0, 2.0, 3.0]), (2.0, [1.0, 2.0, 2.0])):
        rule = CMA(1.0, 8, bound, seeded(0, 1))
        found = minimize(distance, [torch.zeros(2, 3, dtype=torch.float64)], steps=600, update=rule)
        torch.testing.assert_close(found.variables[0], torch.tensor([expected] * 2).double(), atol=1e-2, rtol=0)


def test_evolution_starts_from_normal_candidates_around_its_mean():
    """A hundred first generations: mean 5, deviation 0.5. If it fails, a start is not what the rule says."""
    variable = torch.full((100, 4), 5.0, dtype=torch.float64)
    CMA(0.5, 4, None, seeded(*range(100)))([variable])
    assert abs(variable.mean() - 5) < 0.1
    assert abs(variable.std() - 0.5) < 0.05


def test_evolution_asks_for_one_value_a_step():
    """If it fails, a budget of evaluations is overspent."""
    asked = []

    def counted(variables, trials):
        asked.append(len(variables[0]))
        return distance(variables, trials)

    minimize(counted, [torch.zeros(2, 3)], steps=11, update=CMA(1.0, 4, None, seeded(0, 1)))
    assert asked == [2] * 12
