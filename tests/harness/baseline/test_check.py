"""Stored baselines: what a check asks of its sample, what --rebaseline may move, and what a full run reports."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gia.harness.baseline import file as baseline_file
from gia.harness.baseline.check import Baseline, BaselineMissing, BaselineNonFinite, Baselines, RebaselineRefused
from gia.harness.baseline.compare import prediction_interval
from gia.harness.baseline.file import BaselineCorrupt
from tests.harness.baseline.stored import ELSEWHERE, HERE, PSNR, SAMPLE, Values, check, shifted, store


def test_a_missing_entry_fails_and_leaves_its_values_beside_the_file(file: Path) -> None:
    """A new cell that passes without a baseline would never get one."""
    baseline = Baseline(file, machine=HERE)
    for cell in ("op/b2", "op/b4"):
        with pytest.raises(BaselineMissing, match=r"values are in batch_size\.obtained\.json.*--rebaseline"):
            check(baseline, cell=cell)
    obtained = baseline_file.load(file.with_name("batch_size.obtained.json"))
    assert sorted(obtained) == ["op/b2", "op/b4"]
    assert sorted(baseline_file.load(file)) == ["op/b1"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rebaseline", [False, True])
def test_a_non_finite_value_fails_and_cannot_be_stored(file: Path, value: float, rebaseline: bool) -> None:
    """NaN compares false with everything, so a plain comparison would let it through."""
    before = file.read_bytes()
    baseline = Baseline(file, machine=HERE, rebaseline=rebaseline, reason="r", ci=False)
    with pytest.raises(BaselineNonFinite, match=r"lpips is not finite at seeds \[2\]"):
        check(baseline, {**SAMPLE, "lpips": [0.2, 0.2, value, 0.2, 0.2, 0.2]}, rerun=lambda: SAMPLE)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"ssim": [0.5] * 6}, "deciding"),
        ({"psnr": PSNR, "sharpness": PSNR}, "no unit known for"),
        ({"psnr": PSNR, "ssim": [0.5] * 5}, "the same seeds"),
        ({"psnr": PSNR[:3]}, "at least 4"),
    ],
    ids=["deciding", "unit", "uneven", "few"],
)
def test_a_malformed_sample_is_an_error_of_the_test(file: Path, values: Values, named: str) -> None:
    """Three seeds, or a metric nobody has named a unit for, are mistakes in the test and no verdict on the code."""
    with pytest.raises(ValueError, match=named):
        check(Baseline(file, machine=HERE), values)


def test_a_cell_is_checked_once_a_run(file: Path) -> None:
    """Two tests under one cell name would take turns overwriting each other's baseline."""
    baseline = Baseline(file, machine=HERE)
    check(baseline)
    with pytest.raises(ValueError, match="'op/b1' again"):
        check(baseline)


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_rebaseline_needs_a_reason(file: Path, reason: str | None) -> None:
    """A number that moved without a reason cannot be reviewed."""
    with pytest.raises(RebaselineRefused, match="--reason"):
        Baseline(file, rebaseline=True, reason=reason, ci=False)


def test_rebaseline_is_refused_under_ci(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that may move its own baseline has none."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RebaselineRefused, match="CI"):
        Baseline(file, rebaseline=True, reason="r")
    with pytest.raises(RebaselineRefused, match="CI"):
        Baselines(file.parent, rebaseline=True, reason="r")


def test_rebaseline_rewrites_only_what_fails(file: Path) -> None:
    """Touching entries that hold would bury the one that moved in a large diff."""
    store(file, cell="op/b2")
    before = baseline_file.load(file)
    baseline = Baseline(file, machine=HERE, rebaseline=True, reason="faster schedule", ci=False, commit="fff0000")

    def never() -> Values:
        raise AssertionError("a cell that holds is not measured again")

    assert check(baseline, cell="op/b1", rerun=never).how == "paired"
    assert check(baseline, shifted(1.0), cell="op/b2", rerun=lambda: shifted(1.0)).how == "stored anew"
    after = baseline_file.load(file)
    assert after["op/b1"] == before["op/b1"]
    assert after["op/b2"]["metrics"]["psnr"]["values"] == shifted(1.0)["psnr"]
    assert (after["op/b2"]["reason"], after["op/b2"]["commit"]) == ("faster schedule", "fff0000")
    check(Baseline(file, machine=HERE), shifted(1.0), cell="op/b2")


@pytest.mark.parametrize(
    "again", [shifted(1.0001), {**shifted(1.0), "gradient_evaluations": [101.0] * 6}], ids=["psnr", "evaluations"]
)
def test_rebaseline_refuses_what_does_not_repeat(file: Path, again: Values) -> None:
    """A baseline that differs from its own repetition fails at the next run for no change at all."""
    before = file.read_bytes()
    baseline = Baseline(file, machine=HERE, rebaseline=True, reason="r", ci=False)
    with pytest.raises(RebaselineRefused, match="two runs disagree"):
        check(baseline, shifted(1.0), rerun=lambda: again)
    assert file.read_bytes() == before


def test_rebaseline_refuses_a_check_that_cannot_run_twice(file: Path) -> None:
    """One run cannot show that it repeats."""
    with pytest.raises(RebaselineRefused, match="without rerun="):
        check(Baseline(file, machine=HERE, rebaseline=True, reason="r", ci=False), shifted(1.0))


def test_a_full_run_reports_entries_that_nothing_checked(file: Path) -> None:
    """A deleted test would else leave its baseline behind, as if something still held it."""
    store(file, cell="op/b2")
    store(file.with_name("gone.json"))
    file.with_name("reported.json").write_text("{}")
    baselines = Baselines(file.parent, machine=HERE)
    check(baselines.open("batch_size"), cell="op/b1")
    assert baselines.finish(full=False) == []
    told = [str(error) for error in baselines.finish(full=True)]
    assert [line.split(" is stale")[0] for line in told] == ["batch_size.json: 'op/b2'", "gone.json: 'op/b1'"]
    assert [comparison.cell for comparison in baselines.comparisons] == ["op/b1"]


def test_a_full_rebaseline_drops_stale_entries(file: Path) -> None:
    """Editing the file by hand is refused, so the command has to be able to do it."""
    store(file, cell="op/b2")
    store(file.with_name("gone.json"))
    baselines = Baselines(file.parent, machine=HERE, rebaseline=True, reason="cell removed", ci=False)
    check(baselines.open("batch_size"), cell="op/b1")
    assert baselines.finish(full=True) == []
    assert list(baseline_file.load(file)) == ["op/b1"]
    assert not file.with_name("gone.json").exists()


def test_a_corrupt_file_that_no_test_opens_is_reported_by_a_full_run(file: Path) -> None:
    """Nobody would notice it until its module runs again."""
    file.with_name("other.json").write_text("{")
    baselines = Baselines(file.parent, machine=HERE)
    check(baselines.open("batch_size"))
    assert [type(error) for error in baselines.finish(full=True)] == [BaselineCorrupt]


def test_all_entries_of_the_folder_count_as_checks(file: Path) -> None:
    """The level of one check must not hang on which module it happens to stand in."""
    for cell in ("a", "b", "c"):
        store(file.with_name("other.json"), cell=cell)
    comparison = check(Baselines(file.parent, machine=ELSEWHERE).open("batch_size"))
    assert comparison.interval is not None
    assert comparison.interval[0] + 1e-5 == pytest.approx(prediction_interval(PSNR, 6, 0.05 / 4)[0])


def test_this_machine_is_described_as_attacks_run(tmp_path: Path) -> None:
    """The fingerprint holds the thread count: taken outside `reproducible()` it would describe another machine."""
    import torch

    store(tmp_path / "b.json")
    baseline = Baseline(tmp_path / "b.json", rebaseline=True, reason="own machine", ci=False)
    check(baseline, shifted(9.0), rerun=lambda: shifted(9.0))
    machine = baseline_file.load(tmp_path / "b.json")["op/b1"]["machine"]
    assert machine["threads"] == "1"
    assert machine["torch"] == torch.__version__
    assert check(Baseline(tmp_path / "b.json"), shifted(9.0)).how == "paired"
