"""Theorem 1's bound as printed and as corrected: values computed by hand, ranges, bad arguments."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.theory import corrected_bound, theorem1_bound

PRINTED = {
    "mu": 1.0,
    "smoothness": 1.0,
    "iterations": 2,
    "initial_error": 4.0,
    "kappa": 3.0,
    "batch_size": 1,
    "image_shape": (1, 1, 1),
}
CORRECTED = {"mu": 1.0, "smoothness": 3.0, "step_size": 0.5, "iterations": 2, "initial_error": 4.0, "kappa": 3.0}


def test_the_printed_bound_has_the_value_worked_out_by_hand():
    """If this fails, the formula of Theorem 1 was mistyped: (1/2)^2 * 4 + sqrt(2*2)/1 * 3 = 7."""
    assert theorem1_bound(**PRINTED) == pytest.approx(7.0, rel=1e-15)


def test_the_printed_bound_of_the_paper_s_own_counterexample_is_386_thousandths():
    """If this fails, the contraction is not 1 - mu/(mu+L): by hand, (10/11)^10 = .386 for mu=1, L=10, I=10."""
    bound = theorem1_bound(**PRINTED | {"smoothness": 10.0, "iterations": 10, "initial_error": 1.0, "kappa": 0.0})
    assert bound == pytest.approx(0.3855, abs=5e-5)


@settings(settings.get_profile("unit"))
@given(st.integers(1, 64), st.tuples(st.integers(1, 3), st.integers(1, 64), st.integers(1, 64)))
def test_the_printed_bound_grows_with_the_root_of_all_pixels_of_the_batch(batch_size, shape):
    """If this fails, batch size, channels, height and width do not enter alike, as 2*B*C*H*W says."""
    bound = theorem1_bound(**PRINTED | {"initial_error": 0.0, "batch_size": batch_size, "image_shape": shape})
    unit = theorem1_bound(**PRINTED | {"initial_error": 0.0})
    assert bound == pytest.approx(unit * math.sqrt(batch_size * math.prod(shape)), rel=1e-12)


def test_the_corrected_bound_has_the_value_worked_out_by_hand():
    """If this fails, the correction was mistyped: (1/2)^2 * 4 + 3 * (1 - 1/4) = 3.25."""
    assert corrected_bound(**CORRECTED) == pytest.approx(3.25, rel=1e-15)


@settings(settings.get_profile("unit"))
@given(st.floats(0.01, 100), st.floats(1, 100), st.floats(0.01, 1), st.floats(0, 10), st.floats(0, 10))
def test_the_corrected_bound_moves_from_the_initial_error_to_kappa_over_mu(mu, ratio, fraction, initial, kappa):
    """If this fails, the bound is not a mixture of where descent starts and where its error leaves it."""
    smoothness = mu * ratio
    step = fraction * 2 / (mu + smoothness)
    values = [
        corrected_bound(mu=mu, smoothness=smoothness, step_size=step, iterations=i, initial_error=initial, kappa=kappa)
        for i in (0, 1, 10, 10**7)
    ]
    assert values[0] == initial
    assert values == sorted(values, reverse=initial > kappa / mu)
    assert values[-1] == pytest.approx(kappa / mu, rel=1e-9, abs=1e-9)


def test_the_largest_step_allowed_is_two_over_mu_plus_l():
    """If this fails, the bound is offered for steps on which it is false, or refused at the end of its range."""
    assert corrected_bound(**CORRECTED | {"step_size": 2 / (1 + 3)}) > 0
    with pytest.raises(
        ValueError, match=r"step_size: expected a number in \(0, 2/\(mu\+L\)\] = \(0, 0\.5\], got 0\.5001"
    ):
        corrected_bound(**CORRECTED | {"step_size": 0.5001})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mu", 0.0),
        ("mu", -1.0),
        ("mu", math.nan),
        ("smoothness", 0.5),
        ("smoothness", math.inf),
        ("iterations", -1),
        ("iterations", 1.5),
        ("initial_error", -1.0),
        ("kappa", -1.0),
        ("kappa", math.nan),
    ],
)
def test_an_argument_out_of_range_is_named(name, value):
    """If this fails, a bound is computed from constants that no function has."""
    for bound, arguments in ((theorem1_bound, PRINTED), (corrected_bound, CORRECTED)):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            bound(**arguments | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("batch_size", True), ("image_shape", (3, 32)), ("image_shape", (3, 0, 32))],
)
def test_an_impossible_batch_or_image_is_named(name, value):
    """If this fails, the printed bound accepts a batch without pixels."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        theorem1_bound(**PRINTED | {name: value})


@pytest.mark.parametrize("step_size", [0.0, -0.1, math.nan, math.inf])
def test_a_step_size_that_is_not_positive_and_finite_is_refused(step_size):
    """If this fails, the corrected bound is given for a descent that does not move or that climbs."""
    with pytest.raises(ValueError, match="step_size"):
        corrected_bound(**CORRECTED | {"step_size": step_size})
