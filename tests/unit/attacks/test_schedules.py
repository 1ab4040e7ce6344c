"""Step-size schedules at their exact milestones."""

from __future__ import annotations

import doctest
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.attacks import schedules
from gia.attacks.schedules import constant, cosine_decay, step_decay


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


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 1 / 50), (24, 0.5), (48, 49 / 50), (49, 1), (50, 1), (50 + 19_950 // 3, 0.75), (10_025, 0.5), (13_350, 0.25)],
)
def test_20000_steps_rise_for_50_and_fall_along_a_cosine(step, factor):
    """Thirds of the way down, where the cosine is 1/2, 0 and -1/2. If it fails, "the paper's settings" are not."""
    assert cosine_decay(step, 20_000) == pytest.approx(factor, rel=1e-12)


@given(steps=st.integers(1, 10**5), warmup=st.integers(0, 200), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_cosine_rises_once_and_falls_once_and_stays_positive(steps, warmup, data):
    """Also in searches shorter than the warm-up. If it fails, some number of steps divides by zero or steps back."""
    step = data.draw(st.integers(0, steps - 1))
    here, after = (cosine_decay(at, steps, warmup=warmup) for at in (step, min(step + 1, steps - 1)))
    assert 0 < here <= 1
    assert after >= here if step + 1 < warmup else after <= here


def test_the_documented_example_is_true():
    """If it fails, a docstring lies."""
    assert doctest.testmod(schedules).failed == 0
