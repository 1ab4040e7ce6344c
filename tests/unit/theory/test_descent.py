"""The functions that the bounds are tried on have the constants they state, and descent takes the steps it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.theory import descent

SHIFT, MINIMIZER = np.array([0.0, 0.7, -2.0]), np.array([1.0, -1.0, 0.5])
HESSIANS = [np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 4.0]])]
MINIMIZERS = [np.array([1.0, 2.0]), np.array([-3.0, 0.5])]


def made() -> dict[str, descent.StronglyConvex]:
    """One function of each kind."""
    return {
        "quadratic": descent.quadratic(HESSIANS[0], MINIMIZERS[0]),
        "softened": descent.softened(0.5, 8.0, sharpness=3.0, shift=SHIFT, minimizer=MINIMIZER),
        "mean": descent.mean_of_quadratics(HESSIANS, MINIMIZERS),
    }


@pytest.mark.parametrize("name", made())
def test_the_gradient_vanishes_at_the_stated_minimizer(name):
    """If this fails, distances are measured to a point that descent does not seek."""
    function = made()[name]
    np.testing.assert_allclose(function.gradient(function.minimizer), 0, atol=1e-14)


@settings(settings.get_profile("unit"))
@given(st.sampled_from(sorted(made())), st.integers(0, 2**32 - 1), st.floats(1e-3, 10))
def test_the_gradient_is_mu_monotone_and_l_lipschitz(name, seed, distance):
    """If this fails, a function is not as strongly convex or as smooth as it says, and a bound is blamed for it."""
    function = made()[name]
    rng = np.random.default_rng(seed)
    x, y = function.minimizer + distance * rng.standard_normal((2, function.minimizer.size))
    change = function.gradient(x) - function.gradient(y)
    apart = np.linalg.norm(x - y)
    assert change @ (x - y) >= function.mu * apart**2 * (1 - 1e-9)
    assert np.linalg.norm(change) <= function.smoothness * apart * (1 + 1e-9)


def test_the_softened_function_reaches_both_of_its_curvatures():
    """If this fails, the non-quadratic test is easier than it says: curvature L at the kink, mu far away."""
    function = descent.softened(0.5, 8.0, sharpness=3.0, shift=np.zeros(1), minimizer=np.zeros(1))

    def curvature(at: float) -> float:
        return float(function.gradient(np.array([at + 1e-6]))[0] - function.gradient(np.array([at - 1e-6]))[0]) / 2e-6

    assert curvature(0.0) == pytest.approx(8.0, rel=1e-6)
    assert curvature(50.0) == pytest.approx(0.5, rel=1e-6)


def test_the_mean_of_the_rounds_has_the_mean_of_their_gradients():
    """If this fails, x*, mu and L are not those of the mean of the f_t, as Theorem 1 needs them."""
    mean, x = made()["mean"], np.array([0.3, -0.8])
    rounds = [descent.quadratic(h, m).gradient(x) for h, m in zip(HESSIANS, MINIMIZERS, strict=True)]
    np.testing.assert_allclose(mean.gradient(x), np.mean(rounds, axis=0), rtol=1e-12)


def test_descent_takes_the_steps_worked_out_by_hand():
    """If this fails, x_{i+1} is not x_i - eta * gradient(x_i): on x^2/2 from 4 with eta 1/2 come 2, then 1."""
    seen = descent.run(descent.quadratic(np.eye(1), np.zeros(1)), np.array([4.0]), step_size=0.5, iterations=2)
    assert (seen.initial_error, seen.final_error, seen.kappa) == (4.0, 1.0, 0.0)
    assert (seen.mu, seen.smoothness, seen.step_size, seen.iterations) == (1.0, 1.0, 0.5, 2)


def test_the_start_is_left_as_it_was():
    """If this fails, descent writes into its caller's array."""
    start = np.array([4.0, -1.0])
    descent.run(made()["quadratic"], start, step_size=0.1, iterations=3)
    assert start.tolist() == [4.0, -1.0]


def test_slack_is_the_share_of_the_bound_that_is_left():
    """If this fails, a margin is not 1 - error/bound: eta = 1/2 meets both bounds, eta = 1/4 has error 3 for printed 2."""
    seen = descent.run(descent.quadratic(np.eye(1), np.zeros(1)), np.array([4.0]), step_size=0.5, iterations=2)
    assert seen.corrected_slack() == pytest.approx(0.0, abs=1e-11)
    assert seen.printed_slack(batch_size=1, image_shape=(1, 1, 1)) == pytest.approx(0.0, abs=1e-11)
    slow = descent.run(descent.quadratic(np.eye(1), np.zeros(1)), np.array([4.0]), step_size=0.25, iterations=1)
    assert slow.printed_slack(batch_size=1, image_shape=(1, 1, 1)) == pytest.approx(1 - 3 / 2, abs=1e-11)


def test_rounding_excuses_no_visible_error():
    """If this fails, the allowance for rounding could hide a broken bound: it stays below 1e-10 of the start."""
    seen = descent.run(made()["mean"], np.array([30.0, -20.0]), step_size=0.1, iterations=30)
    assert 0 < seen.rounding < 1e-10 * seen.initial_error


@settings(settings.get_profile("unit"))
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.floats(0.01, 10))
def test_the_worst_error_has_norm_kappa_and_points_away(offset, kappa):
    """If this fails, the tightness of the bound is tried with an error that is too small, too large or harmless."""
    x = MINIMIZER + np.array(offset)
    error = descent.worst_error(kappa, MINIMIZER)(x)
    assert np.linalg.norm(error) == pytest.approx(kappa, rel=1e-12)
    assert -error @ (x - MINIMIZER) == pytest.approx(kappa * np.linalg.norm(x - MINIMIZER), rel=1e-12, abs=1e-300)


def test_kappa_is_taken_over_every_point_that_is_stepped_from_and_no_other():
    """If this fails, kappa misses a step or counts the end: along -x from 1 the gaps to x are 2, then 4."""
    function = descent.quadratic(np.eye(1), np.zeros(1))
    seen = descent.run(function, np.ones(1), step_size=1.0, iterations=2, followed=lambda x: -x)
    assert (seen.kappa, seen.final_error) == (4.0, 4.0)
    assert descent.run(function, np.ones(1), step_size=1.0, iterations=0, followed=lambda x: -x).kappa == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: descent.quadratic(np.array([[1.0, 2.0], [0.0, 1.0]]), np.zeros(2)), "hessian must be symmetric"),
        (lambda: descent.quadratic(np.diag([1.0, 0.0]), np.zeros(2)), "positive definite"),
        (lambda: descent.quadratic(np.eye(2), np.zeros(3)), "hessian must be symmetric and fit"),
        (lambda: descent.softened(2.0, 1.0, sharpness=1.0, shift=SHIFT, minimizer=SHIFT), "^mu must"),
        (lambda: descent.softened(1.0, 2.0, sharpness=0.0, shift=SHIFT, minimizer=SHIFT), "^sharpness must"),
        (lambda: descent.run(made()["softened"], SHIFT, step_size=0.0, iterations=1), "^step_size must"),
        (lambda: descent.run(made()["softened"], SHIFT, step_size=1.0, iterations=-1), "^iterations must"),
    ],
)
def test_a_function_that_cannot_be_is_refused(call, message):
    """If this fails, a claim is tried on something that is not strongly convex."""
    with pytest.raises(ValueError, match=message):
        call()
