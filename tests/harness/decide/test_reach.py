"""Reach: what drawn settings show, how often that repeats, and which factor moves it."""

from __future__ import annotations

import numpy as np
import pytest

from gia.harness.decide.reach import Draw, changed, label, shares, strongest_factor


def drawn(*labels: str) -> list[Draw]:
    """Draws with these labels."""
    return [Draw(index, {}, name, None) for index, name in enumerate(labels)]


@pytest.mark.parametrize(
    ("kind", "effect", "name"),
    [
        ("trend", 1.0, "holds"),
        ("trend", 0.99, "no effect"),
        ("trend", -0.99, "no effect"),
        ("paired", -1.0, "reversed"),
        ("affected", -1.0, "holds"),
        ("affected", 0.5, "no effect"),
        ("equivalence", 0.99, "holds"),
        ("equivalence", -1.0, "reversed"),
    ],
)
def test_a_setting_is_labelled_at_the_margin(kind: str, effect: float, name: str) -> None:
    """A setting exactly at the margin would be counted on both sides, or a claim of no effect by its effect."""
    assert label(kind, effect, 1.0, room=True) == name
    assert label(kind, effect, 1.0, room=False) == "dead"
    assert label(kind, None, 1.0, room=False) == "void"


def test_shares_are_of_all_draws_and_of_live_ones_apart() -> None:
    """Dead and void settings would vanish, and a rare effect would look common."""
    found = shares(drawn(*["holds"] * 6, *["no effect"] * 2, *["dead"] * 12, *["void"] * 4))
    assert {name: each["count"] for name, each in found.items()} == {
        "holds": 6,
        "reversed": 0,
        "no effect": 2,
        "dead": 12,
        "void": 4,
    }
    assert sum(each["share"] for each in found.values()) == pytest.approx(1.0)
    assert (found["holds"]["share"], found["holds"]["of_live"], found["dead"]["of_live"]) == (0.25, 0.75, None)
    # Clopper and Pearson's 99 % interval of 6 in 24, by scipy.stats.binomtest(6, 24).proportion_ci(0.99)
    assert found["holds"]["interval"] == pytest.approx([0.06925, 0.53041], abs=1e-4)


def test_labels_that_change_with_the_seed_are_counted() -> None:
    """A share would be read as a property of settings where it is one of draws."""
    assert changed(drawn("holds", "dead", "holds"), drawn("holds", "holds")) == {"settings": 2, "changed": 1}


def effects_of(seed: int, strength: float = 0.0) -> list[Draw]:
    """24 draws of three factors, of which "net" moves the effect by `strength`."""
    rng = np.random.default_rng(seed)
    settings = [{"net": "ab"[rng.integers(2)], "width": int(rng.integers(4)), "tv": 0.1} for _ in range(24)]
    return [
        Draw(index, setting, "holds", strength * (setting["net"] == "b") + float(rng.normal()))
        for index, setting in enumerate(settings)
    ]


def test_the_factor_that_moves_the_effect_is_found_by_name() -> None:
    """What decides whether a claim holds would stay unknown."""
    found = strongest_factor(effects_of(0, strength=4.0))
    assert found is not None
    assert found["factor"] == "net"
    assert found["p"] < 0.001
    assert found["medians"]["b"] - found["medians"]["a"] > 2


def test_a_factor_that_moves_nothing_is_seldom_named() -> None:
    """The largest of many factors always looks large: its p must be that of the largest."""
    p = [found["p"] for seed in range(60) if (found := strongest_factor(effects_of(seed))) is not None]
    assert len(p) == 60
    assert 0.3 < np.mean(p) < 0.7  # uniform
    assert sum(value < 0.05 for value in p) <= 9  # 3 expected; more than 9 of 60 in .1 % of cases


def test_no_factor_is_named_where_nothing_differs() -> None:
    """A constant effect or a single value would be divided by zero."""
    assert strongest_factor([]) is None
    assert strongest_factor([Draw(i, {"net": "a"}, "holds", float(i)) for i in range(8)]) is None
    assert strongest_factor([Draw(i, {"net": "ab"[i % 2]}, "holds", 1.0) for i in range(8)]) is None
    assert strongest_factor([Draw(i, {"net": "ab"[i % 2]}, "void", None) for i in range(8)]) is None
