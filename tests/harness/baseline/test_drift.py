"""Drift between machines: what is kept of it, what it allows, and what a planted loss does then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gia.harness.baseline import file as baseline_file
from gia.harness.baseline.check import BaselineElsewhere
from gia.harness.baseline.compare import BaselineWorse
from gia.harness.baseline.drift import Allowed, Drift, main, power, stored_entries
from gia.harness.baseline.file import BaselineCorrupt, BaselineError
from tests.harness.baseline.stored import ELSEWHERE, PSNR, SAMPLE, baseline_of, check, shifted, store

CELL = "batch_size/op/b1"


def measure(file: Path, psnr: list[float], name: str = "torch 2.6.0") -> None:
    """Measure the entry op/b1 elsewhere, and keep its drift."""
    samples = file.parent / "samples"
    check(baseline_of(file, machine=ELSEWHERE, samples=samples, drop=()), SAMPLE)
    moved = {**SAMPLE, "psnr": [was + by for was, by in zip(PSNR, psnr, strict=True)]}
    other = {"machine": ELSEWHERE, "rebaseline": True, "reason": "r", "ci": False}
    (samples / file.name).unlink()
    check(baseline_of(samples / file.name, **other), moved, rerun=lambda: moved)
    assert main([f"{name}={samples}", f"--baselines={file.parent}"]) == 0


@pytest.mark.parametrize(
    ("psnr", "allowed"),
    [
        ([1e-7, 0.0, -1e-6, 0.0, 0.0, 0.0], ("each seed", 0.25)),
        ([0.0, 0.0, 0.049, 0.0, 0.0, 0.0], ("each seed", 0.25)),  # a fifth of the limit
        ([0.0, 0.0, 0.06, 0.0, 0.0, 0.0], ("median", 0.25)),
        ([-4.0, 3.0, 0.0, 0.0, 0.0, 0.0], ("median", 0.25)),
        ([0.2] * 6, ("median", 1.0)),  # five times the largest median
    ],
)
def test_the_rule_of_a_cell_follows_from_its_drift(
    file: Path, psnr: list[float], allowed: tuple[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit would come from nowhere: too wide for a cell that repeats, or an alarm for one that cannot."""
    entries = stored_entries(file.parent)
    assert Drift(file.parent).allowed(CELL, entries[CELL]) == ("median", 0.25)  # nothing was measured
    measure(file, psnr)
    drift = Drift(file.parent)
    found = drift.allowed(CELL, entries[CELL])
    assert found == (allowed[0], pytest.approx(allowed[1]))
    assert drift.environments == {"torch 2.6.0": ELSEWHERE}
    assert f"| {CELL} | 1 |" in capsys.readouterr().out


def test_the_largest_drift_of_all_environments_counts(file: Path) -> None:
    """The last environment that was measured would decide for all."""
    measure(file, [-0.2] * 6, name="first")
    measure(file, [0.0] * 6, name="second")
    assert Drift(file.parent).allowed(CELL, stored_entries(file.parent)[CELL]) == ("median", pytest.approx(1.0))


def test_drift_of_an_entry_that_was_stored_again_counts_no_more(file: Path) -> None:
    """Differences from other numbers would widen a limit, or narrow it."""
    measure(file, [0.2] * 6)
    store(file, shifted(1.0), setting="p2")
    entry = baseline_file.load(file)["op/b1"]
    assert Drift(file.parent).measured(CELL, entry) == {}
    assert Drift(file.parent).allowed(CELL, entry) == ("median", 0.25)


def test_a_cell_that_repeats_elsewhere_catches_a_loss_of_one_seed(file: Path) -> None:
    """The median of six seeds would let two of them fail completely."""
    values = {**SAMPLE, "psnr": [PSNR[0] - 2, *PSNR[1:]]}
    assert check(baseline_of(file, machine=ELSEWHERE), values).how == "elsewhere"  # not measured yet
    measure(file, [0.0] * 6)
    with pytest.raises(BaselineWorse, match=r"each seed within 0\.25 dB"):
        check(baseline_of(file, machine=ELSEWHERE), values)


def test_ci_on_another_processor_holds_each_seed_of_a_cell_that_repeats(file: Path) -> None:
    """A gate that only opens on one processor is switched off by whoever has another one."""
    ci = {"machine": ELSEWHERE, "elsewhere": False}
    with pytest.raises(BaselineElsewhere):
        check(baseline_of(file, **ci))  # nothing was measured
    measure(file, [0.0] * 6)
    assert check(baseline_of(file, **ci)).how == "elsewhere"
    for loss in (0.3, -0.3):
        with pytest.raises(BaselineError, match=r"each seed within 0\.25 dB"):
            check(baseline_of(file, **ci), {**SAMPLE, "psnr": [PSNR[0] - loss, *PSNR[1:]]})
    with pytest.raises(BaselineElsewhere):
        check(baseline_of(file, **ci, pinned=False))
    with pytest.raises(BaselineElsewhere):
        check(baseline_of(file, machine={**ELSEWHERE, "torch": "2.15.0"}, elsewhere=False))
    measure(file, [0.2, 0.0, 0.0, 0.0, 0.0, 0.0])  # a chaotic search, whose median may stay
    with pytest.raises(BaselineElsewhere):
        check(baseline_of(file, **ci))


@pytest.mark.parametrize(
    "damage",
    [
        *("{", "[]", '{"format": 2}', '{"format": 1, "environments": {}, "cells": {"a": 1}}'),
        '{"format": 1, "environments": {}, "cells": {"a": {"differences": {}}}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_file_of_drift_is_an_error(file: Path, damage: str) -> None:
    """Limits would silently be those of cells that nobody measured."""
    (file.parent / "drift.json").write_text(damage, encoding="utf-8")
    with pytest.raises(BaselineCorrupt, match=r"drift\.json is not readable"):
        baseline_of(file)


@pytest.mark.parametrize(
    ("rule", "spread", "caught", "third"),
    [
        (Allowed("each seed", 0.25), 0.02, 1.0, 1.0),
        (Allowed("median", 0.25), 0.15, 0.95, 0.0),  # drift of .3 dB a seed, by the factor two of the simulation
    ],
)
def test_a_loss_of_half_a_decibel_is_caught_and_drift_alone_is_not(
    rule: Allowed, spread: float, caught: float, third: float
) -> None:
    """The gate would be open, as a prediction interval over six values is: 5.7 dB wide for the cell op/B=1."""
    moves = list(np.random.default_rng(1).normal(0, spread / 2, 600))
    found = power({"a": rule, "b": rule}, {"a": moves, "b": moves}, loss=0.5)
    assert found["any cell"].false <= 0.01
    assert found["a"].every >= caught
    assert found["a"].third >= third


def test_the_stored_samples_catch_a_loss_of_half_a_decibel() -> None:
    """The table of baselines/README.md would be of other samples than those in the folder."""
    folder = Path(__file__).parents[3] / "baselines"
    drift, entries = Drift(folder), stored_entries(folder)
    measured = {cell: entry for cell, entry in entries.items() if drift.measured(cell, entry)}
    assert len(measured) >= 3
    for cell, entry in measured.items():
        assert drift.allowed(cell, entry).limit == 0.25, cell
        assert json.dumps(entry["deciding"]) == '"psnr"'
