"""The functions on which the bounds are tested have the constants and the minimizer that they state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.theory import landscapes

SHIFT, MINIMIZER = np.array([0.0, 0.7, -2.0]), np.array([1.0, -1.0, 0.5])
HESSIANS = [np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 4.0]])]
MINIMIZERS = [np.array([1.0, 2.0]), np.array([-3.0, 0.5])]
CONSTANTS = {"mu": 0.5, "smoothness": 8.0}


def made(name, rng) -> landscapes.StronglyConvex:
    """One function of each kind; the random ones are drawn from the generator."""
    size = int(rng.integers(1, 5))
    return {
        "quadratic": lambda: landscapes.quadratic(HESSIANS[0], MINIMIZERS[0]),
        "softened": lambda: landscapes.softened(0.5, 8.0, sharpness=3.0, shift=SHIFT, minimizer=MINIMIZER),
        "mean": lambda: landscapes.mean_of_quadratics(HESSIANS, MINIMIZERS),
        "drawn quadratic": lambda: landscapes.draw_function("quadratic", size=size, rng=rng, **CONSTANTS),
        "drawn softened": lambda: landscapes.draw_function("softened", size=size, rng=rng, **CONSTANTS),
        "one round": lambda: landscapes.draw_rounds(3, size=size, rng=rng, **CONSTANTS)[0],
        "all rounds": lambda: landscapes.draw_rounds(3, size=size, rng=rng, **CONSTANTS)[1],
    }[name]()


KINDS = ("quadratic", "softened", "mean", "drawn quadratic", "drawn softened", "one round", "all rounds")


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_vanishes_at_the_stated_minimizer(name):
    """If this fails, distances are measured to a point that descent does not approach."""
    function = made(name, np.random.default_rng(0))
    np.testing.assert_allclose(function.gradient(function.minimizer), 0, atol=1e-13)


@settings(settings.get_profile("unit"), max_examples=150)
@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.floats(1e-3, 10))
def test_the_gradient_is_mu_monotone_and_l_lipschitz(name, seed, distance):
    """If this fails, a function is not as strongly convex or as smooth as it says, and a bound is blamed for it."""
    rng = np.random.default_rng(seed)
    function = made(name, rng)
    x, y = function.minimizer + distance * rng.standard_normal((2, function.minimizer.size))
    change = function.gradient(x) - function.gradient(y)
    apart = np.linalg.norm(x - y)
    assert change @ (x - y) >= function.mu * apart**2 * (1 - 1e-9)
    assert np.linalg.norm(change) <= function.smoothness * apart * (1 + 1e-9)


def test_the_softened_function_reaches_both_of_its_curvatures():
    """If this fails, the non-quadratic test is easier than it says: curvature L at the kink, mu far away."""
    function = landscapes.softened(0.5, 8.0, sharpness=3.0, shift=np.zeros(1), minimizer=np.zeros(1))

    def curvature(at: float) -> float:
        return float(function.gradient(np.array([at + 1e-6]))[0] - function.gradient(np.array([at - 1e-6]))[0]) / 2e-6

    assert curvature(0.0) == pytest.approx(8.0, rel=1e-6)
    assert curvature(50.0) == pytest.approx(0.5, rel=1e-6)


def test_a_drawn_quadratic_has_both_extreme_curvatures():
    """If this fails, the bounds are tested on functions that are better conditioned than they say."""
    function = landscapes.draw_function("quadratic", size=4, rng=np.random.default_rng(3), **CONSTANTS)
    columns = [function.gradient(function.minimizer + axis) for axis in np.eye(4)]
    values = np.linalg.eigvalsh(np.stack(columns))
    assert (values[0], values[-1]) == pytest.approx((0.5, 8.0), rel=1e-9)


def test_the_mean_of_the_rounds_has_the_mean_of_their_gradients():
    """If this fails, x*, mu and L are not those of the mean of the f_t, as Theorem 1 needs them."""
    mean, x = landscapes.mean_of_quadratics(HESSIANS, MINIMIZERS), np.array([0.3, -0.8])
    rounds = [landscapes.quadratic(h, m).gradient(x) for h, m in zip(HESSIANS, MINIMIZERS, strict=True)]
    np.testing.assert_allclose(mean.gradient(x), np.mean(rounds, axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: landscapes.quadratic(np.array([[1.0, 2.0], [0.0, 1.0]]), np.zeros(2)),
            "hessian: expected a symmetric",
        ),
        (lambda: landscapes.quadratic(np.diag([1.0, 0.0]), np.zeros(2)), "hessian: expected a positive definite"),
        (lambda: landscapes.quadratic(np.eye(2), np.zeros(3)), r"hessian: expected shape \(3, 3\), got \(2, 2\)"),
        (lambda: landscapes.softened(2.0, 1.0, sharpness=1.0, shift=SHIFT, minimizer=SHIFT), "^mu: expected"),
        (lambda: landscapes.softened(1.0, 2.0, sharpness=0.0, shift=SHIFT, minimizer=SHIFT), "^sharpness: expected"),
        (
            lambda: landscapes.draw_function("cubic", size=1, rng=np.random.default_rng(0), **CONSTANTS),
            "^kind: expected",
        ),
    ],
)
def test_an_impossible_function_is_refused(call, message):
    """If this fails, a claim is tested on something that is not strongly convex."""
    with pytest.raises(ValueError, match=message):
        call()
