"""Stored baselines: what a check asks of its sample, what --rebaseline may move, and what a full run reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from gia.harness.baseline import file as baseline_file
from gia.harness.baseline.check import BaselineElsewhere, BaselineMissing, BaselineNonFinite, RebaselineRefused
from gia.harness.baseline.file import BaselineCorrupt
from gia.harness.blocks.block import Block
from gia.numerics import REPEATABLE
from tests.harness.baseline.stored import (
    ELSEWHERE,
    HERE,
    PSNR,
    SAMPLE,
    Values,
    baseline_of,
    check,
    opened,
    shifted,
    store,
)


def test_a_missing_entry_fails_and_leaves_its_values_beside_the_file(file: Path) -> None:
    """A new entry that passes without a baseline would never get one."""
    baseline = baseline_of(file, machine=HERE)
    for entry in ("op/b2", "op/b4"):
        with pytest.raises(BaselineMissing, match=r"values are in batch_size\.obtained\.json.*--gia-rebaseline"):
            check(baseline, entry=entry)
    obtained = baseline_file.load(file.with_name("batch_size.obtained.json"))
    assert sorted(obtained) == ["op/b2", "op/b4"]
    assert sorted(baseline_file.load(file)) == ["op/b1"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rebaseline", [False, True])
def test_a_non_finite_value_fails_and_cannot_be_stored(file: Path, value: float, rebaseline: bool) -> None:
    """NaN compares false with everything, so a plain comparison would let it through."""
    before = file.read_bytes()
    baseline = baseline_of(file, machine=HERE, rebaseline=rebaseline, reason="r", ci=False)
    with pytest.raises(BaselineNonFinite, match=r"lpips is not finite at seeds \[2\]"):
        check(baseline, {**SAMPLE, "lpips": [0.2, 0.2, value, 0.2, 0.2, 0.2]}, rerun=lambda: SAMPLE)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"ssim": [0.5] * 6}, "deciding"),
        ({"psnr": PSNR, "sharpness": PSNR}, "values: expected quantities among .*, got 'sharpness'"),
        ({"psnr": PSNR, "ssim": [0.5] * 5}, "the same seeds everywhere"),
        ({"psnr": PSNR[:3]}, "at least 4"),
    ],
    ids=["deciding", "unit", "uneven", "few"],
)
def test_a_malformed_sample_is_an_error_of_the_test(file: Path, values: Values, named: str) -> None:
    """Three seeds, or a metric nobody has named a unit for, are mistakes in the test and no verdict on the code."""
    with pytest.raises(ValueError, match=named):
        check(baseline_of(file, machine=HERE), values)


def test_an_entry_is_checked_once_a_run(file: Path) -> None:
    """Two tests of one entry would take turns overwriting each other's baseline."""
    baseline = baseline_of(file, machine=HERE)
    check(baseline)
    with pytest.raises(ValueError, match="'op/b1' again"):
        check(baseline)


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_rebaseline_needs_a_reason(file: Path, reason: str | None) -> None:
    """A number that moved without a reason cannot be reviewed."""
    with pytest.raises(RebaselineRefused, match="--gia-reason"):
        baseline_of(file, rebaseline=True, reason=reason, ci=False)


def test_rebaseline_is_refused_under_ci(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that may move its own baseline has none."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RebaselineRefused, match="CI"):
        baseline_of(file, rebaseline=True, reason="r")
    with pytest.raises(RebaselineRefused, match="CI"):
        opened(file.parent, rebaseline=True, reason="r")


def test_rebaseline_rewrites_only_what_fails(file: Path) -> None:
    """Touching entries that hold would bury the one that moved in a large diff."""
    store(file, entry="op/b2")
    before = baseline_file.load(file)
    baseline = baseline_of(file, machine=HERE, rebaseline=True, reason="faster schedule", ci=False, commit="fff0000")

    def never() -> Values:
        raise AssertionError("an entry that holds is not measured again")

    assert check(baseline, entry="op/b1", rerun=never).how == "paired"
    assert check(baseline, shifted(1.0), entry="op/b2", rerun=lambda: shifted(1.0)).how == "stored now"
    after = baseline_file.load(file)
    assert after["op/b1"] == before["op/b1"]
    assert after["op/b2"]["metrics"]["psnr"]["values"] == shifted(1.0)["psnr"]
    assert (after["op/b2"]["reason"], after["op/b2"]["commit"]) == ("faster schedule", "fff0000")
    check(baseline_of(file, machine=HERE), shifted(1.0), entry="op/b2")


@pytest.mark.parametrize(
    "again", [shifted(1.0001), {**shifted(1.0), "gradient_evaluations": [101.0] * 6}], ids=["psnr", "evaluations"]
)
def test_rebaseline_refuses_what_does_not_repeat(file: Path, again: Values) -> None:
    """A baseline that differs from its own repetition fails at the next run for no change at all."""
    before = file.read_bytes()
    baseline = baseline_of(file, machine=HERE, rebaseline=True, reason="r", ci=False)
    with pytest.raises(RebaselineRefused, match="two runs disagree"):
        check(baseline, shifted(1.0), rerun=lambda: again)
    assert file.read_bytes() == before


def test_rebaseline_refuses_a_check_that_cannot_run_twice(file: Path) -> None:
    """One run cannot show that it repeats."""
    with pytest.raises(RebaselineRefused, match="rerun: expected a function"):
        check(baseline_of(file, machine=HERE, rebaseline=True, reason="r", ci=False), shifted(1.0))


def test_a_full_run_reports_entries_that_nothing_checked(file: Path) -> None:
    """A deleted test would else leave its baseline behind, as if something still held it."""
    store(file, entry="op/b2")
    store(file.with_name("gone.json"))
    file.with_name("reported.json").write_text("{}", encoding="utf-8")
    baselines = opened(file.parent, machine=HERE)
    check(baselines.open("batch_size"), entry="op/b1")
    assert baselines.finish(full=False) == []
    told = [str(error) for error in baselines.finish(full=True)]
    assert [line.split(" is stale")[0] for line in told] == ["batch_size.json: 'op/b2'", "gone.json: 'op/b1'"]
    assert [comparison.entry for comparison in baselines.comparisons] == ["op/b1"]


@pytest.mark.parametrize("full", [False, True])
def test_rebaseline_drops_nothing(file: Path, full: bool) -> None:
    """A selection that looks like a full run would cost the samples of everything that it left out."""
    store(file, entry="op/b2")
    store(file.with_name("gone.json"))
    before = {path: path.read_bytes() for path in file.parent.glob("*.json")}
    baselines = opened(file.parent, machine=HERE, rebaseline=True, reason="entry removed", ci=False)
    check(baselines.open("batch_size"), entry="op/b1")
    assert len(baselines.finish(full=full)) == 2 * full
    assert baselines.drop() == ([], [])
    assert {path: path.read_bytes() for path in file.parent.glob("*.json")} == before


def test_named_entries_are_dropped_unless_a_test_checks_them(file: Path) -> None:
    """Editing the file by hand is refused, so an option has to be able to do it, and only by name."""
    store(file, entry="op/b2")
    store(file.with_name("gone.json"))
    names = ["batch_size/op/b1", "batch_size/op/b2", "gone/op/b1", "gone/op/b3"]
    baselines = opened(file.parent, machine=HERE, drop=names, reason="entry removed", ci=False)
    check(baselines.open("batch_size"), entry="op/b1")
    dropped, errors = baselines.drop()
    assert dropped == names[1:3]
    told = [str(error).split("got ")[1] for error in errors]
    assert told == ["batch_size.json: 'op/b1', checked by a test", "gone.json: 'op/b3', none of []"]
    assert list(baseline_file.load(file)) == ["op/b1"]
    assert not file.with_name("gone.json").exists()
    for reason, ci in ((None, False), ("why", True)):
        with pytest.raises(RebaselineRefused, match="--gia-drop: expected"):
            opened(file.parent, drop=names, reason=reason, ci=ci)


def test_a_corrupt_file_that_no_test_opens_is_reported_by_a_full_run(file: Path) -> None:
    """Nobody would notice it until its module runs again."""
    file.with_name("other.json").write_text("{", encoding="utf-8")
    baselines = opened(file.parent, machine=HERE)
    check(baselines.open("batch_size"))
    assert [type(error) for error in baselines.finish(full=True)] == [BaselineCorrupt]


def test_a_run_that_expects_its_own_machine_fails_on_another_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CI would compare with a hundred thousand times the tolerance, and stay green."""
    assert check(baseline_of(file, machine=ELSEWHERE)).how == "elsewhere"
    with pytest.raises(BaselineElsewhere, match=r"stored with torch 2\.14\.1.*aaaa, this run has .*bbbb"):
        check(baseline_of(file, machine=ELSEWHERE, elsewhere=False))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(BaselineElsewhere):
        check(baseline_of(file, machine=ELSEWHERE))
    assert check(baseline_of(file, machine=ELSEWHERE, elsewhere=True)).how == "elsewhere"
    assert check(baseline_of(file, machine=HERE)).how == "paired"


@pytest.mark.parametrize("by", [0.0, -5.0])
def test_rebaseline_on_another_machine_moves_nothing_unless_that_is_meant(file: Path, by: float) -> None:
    """A file with entries of two machines can be compared bit by bit on neither."""
    before = file.read_bytes()
    options = {"machine": ELSEWHERE, "rebaseline": True, "reason": "r", "ci": False}
    with pytest.raises(BaselineElsewhere):
        check(baseline_of(file, **options), shifted(by), rerun=lambda: shifted(by))
    assert file.read_bytes() == before
    moved = check(baseline_of(file, **options, elsewhere=True), shifted(by), rerun=lambda: shifted(by))
    assert moved.how == "stored now"
    assert baseline_file.load(file)["op/b1"]["machine"] == ELSEWHERE


@pytest.mark.parametrize("name", sorted(REPEATABLE))
def test_rebaseline_is_refused_where_the_arithmetic_is_not_pinned(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The stored fingerprint would be that of a run which nobody else can repeat, and every later comparison wide."""
    for variable, value in REPEATABLE.items():
        monkeypatch.setenv(variable, value)
    options = {"rebaseline": True, "reason": "r", "ci": False, "pinned": None}
    opened(file.parent, **options)
    monkeypatch.delenv(name)
    with pytest.raises(RebaselineRefused, match=f"expected pinned arithmetic.*{name}={REPEATABLE[name]}"):
        opened(file.parent, **options)


def test_the_samples_of_a_run_are_kept_in_the_form_of_baselines(file: Path, tmp_path: Path) -> None:
    """Nobody could measure afterwards how far a machine drifts."""
    check(baseline_of(file, machine=ELSEWHERE, samples=tmp_path / "samples"), shifted(0.1))
    (kept,) = baseline_file.load(tmp_path / "samples" / "batch_size.json").values()
    assert kept["metrics"]["psnr"]["values"] == shifted(0.1)["psnr"]
    assert kept["machine"] == ELSEWHERE


def test_this_machine_is_described_as_attacks_run(tmp_path: Path) -> None:
    """The fingerprint holds the thread count: taken outside `reproducible()` it would describe another machine."""
    import torch

    store(tmp_path / "b.json")
    baseline = baseline_of(tmp_path / "b.json", rebaseline=True, reason="own machine", ci=False, elsewhere=True)
    check(baseline, shifted(9.0), rerun=lambda: shifted(9.0))
    machine = baseline_file.load(tmp_path / "b.json")["op/b1"]["machine"]
    assert machine["threads"] == "1"
    assert machine["torch"] == torch.__version__
    assert check(baseline_of(tmp_path / "b.json"), shifted(9.0)).how == "paired"


class Level(NamedTuple):
    """A pinned level."""

    vary: Mapping[str, Any] = MappingProxyType({})
    dtype: str = "float32"

    def digest(self) -> str:
        """Of what is set."""
        return "d1"


class Result(NamedTuple):
    """What was measured on one seed."""

    values: Mapping[str, float | None]
    counts: Mapping[str, int]


def test_a_level_is_measured_on_six_seeds_in_its_own_setting(tmp_path: Path) -> None:
    """Other blocks or seeds, or a number that is stored under another name, would make every stored sample stale."""
    blocks = []

    def measure(level: Level, block: Block, *, cache: Path | None) -> Result:
        blocks.append(block)
        values = {"psnr": 20.0 + block.index, "ssim": 0.5, "held_out_accuracy": 0.9}
        return Result(values, {"gradient_evaluations": 7, "unmatched": 1})

    options = {"machine": HERE, "measure": measure, "rebaseline": True, "reason": "first", "ci": False}
    comparison = opened(tmp_path, **options).open("toy").check_level("op/b1", Level())
    assert blocks == 2 * [Block("baseline", seed, {}, lane="baseline") for seed in range(6)]
    assert (comparison.deciding, comparison.how) == ("psnr", "stored now")
    stored = baseline_file.load(tmp_path / "toy.json")["op/b1"]
    assert {name: row["values"] for name, row in stored["metrics"].items()} == {
        "psnr": [20.0, 21.0, 22.0, 23.0, 24.0, 25.0],
        "ssim": [0.5] * 6,
        "gradient_evaluations": [7.0] * 6,
    }
    assert (stored["protocol"], stored["dtype"]) == ("d1", "float32")
    counted = stored["metrics"]["gradient_evaluations"]
    assert (counted["unit"], counted["better"], counted["tolerance"]) == ("evaluations", "lower", 0.0)
    assert opened(tmp_path, machine=HERE, measure=measure).open("toy").check_level("op/b1", Level()).how == "paired"


def test_a_level_that_varies_or_lacks_a_value_is_refused(tmp_path: Path) -> None:
    """Six seeds of different settings are no sample, and a metric that is undefined has no number to store."""
    baseline = opened(tmp_path, measure=lambda level, block, cache: Result({"psnr": None}, {})).open("toy")
    with pytest.raises(ValueError, match=r"level: expected nothing that varies in a baseline, got \['width'\]"):
        baseline.check_level("op/b1", Level(vary={"width": [1, 2]}))
    with pytest.raises(ValueError, match="level: expected 'psnr' to be defined for 6 seeds, got 0"):
        baseline.check_level("op/b1", Level())
