"""A descent takes the right steps and is measured by the quantities of Theorem 1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.theory import descent, landscapes

PARABOLA = landscapes.quadratic(np.eye(1), np.zeros(1))
MINIMIZER = np.array([1.0, -1.0, 0.5])


def test_descent_takes_the_steps_worked_out_by_hand():
    """If this fails, x_{i+1} is not x_i - eta * gradient(x_i): on x^2/2 from 4 with eta 1/2 come 2, then 1."""
    seen = descent.run(PARABOLA, np.array([4.0]), step_size=0.5, iterations=2)
    assert (seen.initial_error, seen.final_error, seen.kappa) == (4.0, 1.0, 0.0)
    assert (seen.mu, seen.smoothness, seen.step_size, seen.iterations) == (1.0, 1.0, 0.5, 2)


def test_the_start_is_not_changed():
    """If this fails, descent writes into its caller's array."""
    start = np.array([4.0])
    descent.run(PARABOLA, start, step_size=0.1, iterations=3)
    assert start.tolist() == [4.0]


def test_slack_is_one_minus_the_error_as_a_share_of_the_bound():
    """If this fails, a margin is not 1 - error/bound: eta 1/2 meets both bounds, eta 1/4 has error 3 for printed 2."""
    seen = descent.run(PARABOLA, np.array([4.0]), step_size=0.5, iterations=2)
    assert seen.corrected_slack() == pytest.approx(0.0, abs=1e-11)
    assert seen.printed_slack(batch_size=1, image_shape=(1, 1, 1)) == pytest.approx(0.0, abs=1e-11)
    slow = descent.run(PARABOLA, np.array([4.0]), step_size=0.25, iterations=1)
    assert slow.printed_slack(batch_size=1, image_shape=(1, 1, 1)) == pytest.approx(1 - 3 / 2, abs=1e-11)


def test_rounding_excuses_no_visible_error():
    """If this fails, the allowance for rounding could hide a broken bound: it stays below 1e-10 of the start."""
    function = landscapes.quadratic(np.diag([1.0, 2.0, 4.0]), MINIMIZER)
    seen = descent.run(function, np.array([30.0, -20.0, 1.0]), step_size=0.1, iterations=30)
    assert 0 < seen.rounding < 1e-10 * seen.initial_error


@settings(settings.get_profile("unit"))
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.floats(0.01, 10))
def test_the_worst_error_has_norm_kappa_and_points_away(offset, kappa):
    """If this fails, the tightness of the bound is tested with an error that is too small, too large or harmless."""
    x = MINIMIZER + np.array(offset)
    error = descent.worst_error(kappa, MINIMIZER)(x)
    assert np.linalg.norm(error) == pytest.approx(kappa, rel=1e-12)
    assert -error @ (x - MINIMIZER) == pytest.approx(kappa * np.linalg.norm(x - MINIMIZER), rel=1e-12, abs=1e-300)


def test_kappa_is_taken_over_every_point_that_is_stepped_from_and_no_other():
    """If this fails, kappa misses a step or counts the end: along -x from 1 the gaps to x are 2, then 4."""
    seen = descent.run(PARABOLA, np.ones(1), step_size=1.0, iterations=2, followed=lambda x: -x)
    assert (seen.kappa, seen.final_error) == (4.0, 4.0)
    assert descent.run(PARABOLA, np.ones(1), step_size=1.0, iterations=0, followed=lambda x: -x).kappa == 0.0


@pytest.mark.parametrize(("name", "value"), [("step_size", 0.0), ("iterations", -1)])
def test_a_descent_that_does_not_move_forward_is_refused(name, value):
    """If this fails, a descent that does not move or goes backwards is compared with the bound."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        descent.run(PARABOLA, np.ones(1), **{"step_size": 1.0, "iterations": 1} | {name: value})
