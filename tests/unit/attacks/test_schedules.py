"""Step-size schedules at their exact milestones."""

from __future__ import annotations

import doctest
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.attacks import schedules
from gia.attacks.schedules import constant, step_decay


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 1), (8_999, 1), (9_000, 0.1), (14_999, 0.1), (15_000, 0.01), (20_999, 0.01), (21_000, 1e-3), (23_999, 1e-3)],
)
def test_24000_steps_decay_at_9000_15000_and_21000(step, factor):
    """3/8, 5/8 and 7/8 (Geiping et al., 2020). If it fails, milestones come from a float division: the authors' own
    24000 // 2.667, // 1.6, // 1.142 are 8998, 14999 and 21015."""
    assert step_decay(step, 24_000) == factor


@given(steps=st.integers(1, 10**7), data=st.data())
@settings(max_examples=200, deadline=None)
def test_milestones_are_exact_for_any_number_of_steps(steps, data):
    """In rational numbers. If it fails, some number of steps decays a step too early or too late."""
    step = data.draw(st.integers(0, steps - 1) | st.sampled_from([k * steps // 8 for k in (3, 5, 7)]))
    passed = sum(Fraction(step, steps) >= Fraction(eighths, 8) for eighths in (3, 5, 7))
    assert step_decay(step, steps) == [1.0, 0.1, 0.01, 0.001][passed]
    assert constant(step, steps) == 1


def test_the_documented_example_is_true():
    """If it fails, the docstring lies."""
    assert doctest.testmod(schedules).failed == 0
