"""The tests of Theorem 1 find the known counterexamples, and none where the bound is proved."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gia.theory import theorem1

ONE_PIXEL = {"batch_size": 1, "image_shape": (1, 1, 1)}
DRAWN = {
    "kind": st.sampled_from(["quadratic", "softened", "rounds"]),
    "ratio": st.floats(1, 50),
    "iterations": st.integers(0, 20),
    "kappa": st.floats(0, 5),
    "seed": st.integers(0, 2**32 - 1),
}


def test_the_paper_s_range_of_steps_lets_descent_diverge():
    """If this fails, a known counterexample is lost: ten steps grow the error by 3.26^10, the bound allows .386."""
    constants = {"mu": 1.0, "ratio": 10.0, "curvature": 1.0, "share": 1.0, "iterations": 10, "kappa": 0.0}
    error, bound = (10 * math.sqrt(2 / 11) - 1) ** 10, (10 / 11) ** 10
    assert error == pytest.approx(1.4e5, rel=0.05)
    assert theorem1.printed_margin(**constants, **ONE_PIXEL) == pytest.approx(1 - error / bound, rel=1e-9)


def test_the_paper_s_range_of_steps_holds_steps_too_small_to_contract():
    """If this fails, the other half of the counterexamples is lost: x^2/2, eta = 1/4, one step leaves 3/4, not 1/2."""
    constants = {"mu": 1.0, "ratio": 1.0, "curvature": 0.0, "share": 0.25, "iterations": 1, "kappa": 0.0}
    assert theorem1.printed_margin(**constants, **ONE_PIXEL) == pytest.approx(-0.5, abs=1e-9)


def test_the_printed_margin_sees_a_bound_that_holds():
    """If this fails, the test would refute any bound: x^2/2 with eta = 3/4 leaves 1/4 of the allowed 1/2."""
    constants = {"mu": 1.0, "ratio": 1.0, "curvature": 0.0, "share": 0.75, "iterations": 1, "kappa": 0.0}
    assert theorem1.printed_margin(**constants, **ONE_PIXEL) == pytest.approx(0.5, abs=1e-9)


@settings(settings.get_profile("unit"))
@given(mu=st.floats(0.01, 10), share=st.floats(1e-6, 1), size=st.integers(1, 4), **DRAWN)
def test_no_drawn_function_breaks_the_corrected_bound(**drawn):
    """If this fails, the correction is wrong, too loose, or a drawn function lacks its constants."""
    assert 0 <= theorem1.corrected_margin(**drawn) <= 1 - theorem1.TIGHTNESS + 1e-12


@settings(settings.get_profile("unit"))
@given(excess=st.floats(1, 100), share=st.floats(0.5, 1), batch_size=st.integers(1, 2), **DRAWN)
def test_no_drawn_function_breaks_the_repaired_bound(**drawn):
    """If this fails, the conditions under which the printed bound holds are stated too wide."""
    margin = theorem1.repaired_margin(image_shape=(1, 2, 1), **drawn)
    assume(margin is not None)
    assert margin >= 0


def test_the_repaired_bound_needs_both_of_its_conditions():
    """If this fails, the test does not see where the printed bound is violated, and supports it everywhere."""
    constants = {"kind": "quadratic", "ratio": 1.0, "iterations": 20, "seed": 1, "batch_size": 1}
    shape = {"image_shape": (1, 1, 1)}
    assert theorem1.repaired_margin(excess=1.0, share=0.5, kappa=5.0, **constants, **shape) >= 0
    assert theorem1.repaired_margin(excess=1.0, share=0.4, kappa=0.0, **constants, **shape) < 0
    assert theorem1.repaired_margin(excess=0.5, share=0.5, kappa=5.0, **constants, **shape) < 0


def test_a_mean_of_rounds_outside_the_range_gives_none():
    """If this fails, the repaired bound is tested on a mean whose constants it does not cover."""
    constants = {"kind": "rounds", "ratio": 40.0, "share": 1.0, "iterations": 5, "kappa": 0.0, "batch_size": 1}
    seen = {theorem1.repaired_margin(excess=1.0, seed=s, image_shape=(1, 1, 2), **constants) is None for s in range(20)}
    assert seen == {True, False}


def test_scaling_is_measured_on_the_printed_bound():
    """If this fails, the exact claim compares other numbers than sqrt(2) and 2: here both are met to rounding."""
    error = theorem1.scaling_error(mu=0.5, ratio=7.0, kappa=2.0, batch_size=3, image_shape=(3, 4, 5))
    assert error < 1e-14


def test_scaling_does_not_hold_without_a_gradient_error():
    """If this fails, the test reports sqrt(2) for any input: a bound of 0 has no ratio."""
    with pytest.raises(ZeroDivisionError):
        theorem1.scaling_error(mu=0.5, ratio=7.0, kappa=0.0, batch_size=3, image_shape=(3, 4, 5))
