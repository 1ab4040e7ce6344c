"""Stored baselines: what agrees, what fails and how it says so, and what --rebaseline may move."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.harness import baseline_file
from gia.harness.baseline import (
    Baseline,
    BaselineMissing,
    BaselineNonFinite,
    Baselines,
    RebaselineRefused,
)
from gia.harness.baseline_compare import (
    BaselineBetter,
    BaselineStale,
    BaselineVanished,
    BaselineWorse,
    Comparison,
    prediction_interval,
)
from gia.harness.baseline_file import BaselineCorrupt, Quantity

HERE = {"fingerprint": "aaaa", "threads": "1", "torch": "2.14.1+cu130"}
ELSEWHERE = {"fingerprint": "bbbb", "threads": "1", "torch": "2.14.1+cu130"}
PSNR = [24.0, 25.5, 23.8, 24.9, 25.1, 24.4]  # mean 24.617, standard deviation 0.662
SAMPLE = {"psnr": PSNR, "lpips": [0.2, 0.21, 0.19, 0.2, 0.22, 0.2], "gradient_evaluations": [100.0] * 6}

Values = Mapping[str, Sequence[float]]


def shifted(by: float, metric: str = "psnr") -> Values:
    """The stored sample with one metric moved."""
    return {**SAMPLE, metric: [value + by for value in SAMPLE[metric]]}


def check(baseline: Baseline, values: Values = SAMPLE, cell: str = "op/b1", **options: Any) -> Comparison:
    """One check with the usual arguments."""
    return baseline.check(cell, values, **{"deciding": "psnr", "protocol": "p1", **options})


def store(path: Path, values: Values = SAMPLE, cell: str = "op/b1", **options: Any) -> Comparison:
    """An entry made the way a user makes it, on the machine HERE."""
    writer = Baseline(path, rebaseline=True, reason="first sample", ci=False, machine=HERE, commit="abc1234")
    return check(writer, values, cell, rerun=lambda: values, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the one entry op/b1."""
    store(tmp_path / "batch_size.json")
    return tmp_path / "batch_size.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object], *, forge: bool = False) -> None:
    """Change the entry op/b1 in the file; `forge` recomputes its digest."""
    content = json.loads(path.read_text())
    entry = content["cells"]["op/b1"]
    change(entry)
    if forge:
        body = {field: value for field, value in entry.items() if field != "digest"}
        entry["digest"] = baseline_file._digest("op/b1", body)
    path.write_text(json.dumps(content))


def test_the_same_numbers_on_the_same_machine_agree(path: Path) -> None:
    """A harness that finds fault with an exact repetition would be switched off within a week."""
    comparison = check(Baseline(path, machine=HERE))
    assert comparison.how == "paired"
    assert comparison.means["psnr"] == (np.mean(PSNR), np.mean(PSNR))
    assert str(comparison).startswith("op/b1: psnr 24.62 -> 24.62 dB (paired); gradient_evaluations 100 -> 100; lpips")


def test_an_entry_says_where_its_numbers_come_from(path: Path) -> None:
    """Without setting, machine, commit and reason nobody can tell whether a moved number matters."""
    entry = json.loads(path.read_text())["cells"]["op/b1"]
    assert entry["protocol"] == "p1"
    assert entry["machine"] == HERE
    assert (entry["commit"], entry["reason"], entry["dtype"]) == ("abc1234", "first sample", "float64")
    row = entry["metrics"]["psnr"]
    assert row["values"] == PSNR
    assert row["unit"] == "dB"
    assert row["seed_spread"] == pytest.approx(np.std(PSNR, ddof=1))
    assert (row["tolerance"], row["platform_spread"]) == (1e-5, 1e-6)


def test_files_are_sorted_so_that_a_change_is_a_small_diff(tmp_path: Path) -> None:
    """Two people who store the same cells in another order would otherwise conflict on every line."""
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for target, cells in ((one, ("b", "a")), (other, ("a", "b"))):
        for cell in cells:
            store(target, cell=cell)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("by", [-2e-5, 2e-5])
def test_on_the_same_machine_the_comparison_is_tight(path: Path, by: float) -> None:
    """One seed that moves by 2e-5 dB where arithmetic is equal bit for bit means that the code changed."""
    values = {**SAMPLE, "psnr": [PSNR[0] + by, *PSNR[1:]]}
    with pytest.raises(BaselineBetter if by > 0 else BaselineWorse, match="seed 0 24 -> "):
        check(Baseline(path, machine=HERE), values)


def test_on_the_same_machine_every_metric_is_compared(path: Path) -> None:
    """A change of lpips at an equal psnr is a change of lpips; lower is better there."""
    with pytest.raises(BaselineWorse, match=r"lpips 0\.203333 -> 0\.303333"):
        check(Baseline(path, machine=HERE), shifted(0.1, "lpips"))
    with pytest.raises(BaselineBetter, match="lpips"):
        check(Baseline(path, machine=HERE), shifted(-0.1, "lpips"))


def test_an_improvement_fails_and_says_update_the_baseline(path: Path) -> None:
    """A stored number that is too low lets the next regression pass unseen."""
    with pytest.raises(
        BaselineBetter, match=r"update the baseline: pytest --rebaseline --reason .* 24\.6167 -> 27\.6167"
    ):
        check(Baseline(path, machine=HERE), shifted(3.0))


@pytest.mark.parametrize("machine", [ELSEWHERE, {**HERE, "torch": "2.13.0"}], ids=["machine", "torch"])
def test_another_machine_or_torch_minor_is_held_to_the_prediction_interval(path: Path, machine: dict[str, str]) -> None:
    """Seeds compared one by one across instruction sets fail without a change of the code."""
    # One check: t(5, 0.975) = 2.5706 (table of Student's t), half width 2.5706 * 0.66156 * sqrt(2/6) = 0.98184,
    # and the tolerance of 1e-5.
    low, high = 24.61667 - 0.98185, 24.61667 + 0.98185
    comparison = check(Baseline(path, machine=machine), shifted(0.97))
    assert comparison.how == "prediction interval"
    assert comparison.interval == pytest.approx((low, high), abs=2e-5)
    with pytest.raises(BaselineBetter, match="prediction interval"):
        check(Baseline(path, machine=machine), shifted(0.99))
    with pytest.raises(BaselineWorse, match="prediction interval"):
        check(Baseline(path, machine=machine), shifted(-0.99))


def test_a_patch_release_of_torch_stays_a_paired_comparison(path: Path) -> None:
    """The contract is the minor version; the fingerprint catches a patch that changes arithmetic."""
    assert check(Baseline(path, machine={**HERE, "torch": "2.14.9"})).how == "paired"


def test_more_checks_widen_the_prediction_interval(path: Path) -> None:
    """With 40 checks at 5 % each, every run on another machine would raise two false alarms."""
    with pytest.raises(BaselineWorse):
        check(Baseline(path, machine=ELSEWHERE, checks=1), shifted(-1.5))
    comparison = check(Baseline(path, machine=ELSEWHERE, checks=40), shifted(-1.5))
    assert comparison.interval is not None
    assert comparison.interval[0] < 24.617 - 1.5


def test_on_another_machine_other_metrics_are_shown_and_counts_still_agree(path: Path) -> None:
    """Five noisy metrics tested at once multiply false alarms; a count of evaluations has no noise at all."""
    comparison = check(Baseline(path, machine=ELSEWHERE), shifted(0.5, "lpips"))
    assert comparison.means["lpips"] == pytest.approx((0.20333, 0.70333), abs=1e-5)
    with pytest.raises(BaselineWorse, match="gradient_evaluations 100 -> 101"):
        check(Baseline(path, machine=ELSEWHERE), shifted(1.0, "gradient_evaluations"))


def test_a_metric_without_seed_spread_keeps_its_tolerance_on_another_machine(tmp_path: Path) -> None:
    """Six equal values have a prediction interval of width zero, which the last bit would leave."""
    values = {"psnr": [30.0] * 6}
    store(tmp_path / "b.json", values)
    check(Baseline(tmp_path / "b.json", machine=ELSEWHERE), {"psnr": [30.0 + 5e-6] * 6})
    with pytest.raises(BaselineBetter):
        check(Baseline(tmp_path / "b.json", machine=ELSEWHERE), {"psnr": [30.0 + 5e-5] * 6})


def test_a_missing_entry_fails_and_leaves_its_values_beside_the_file(path: Path) -> None:
    """A new cell that passes without a baseline would never get one."""
    baseline = Baseline(path, machine=HERE)
    for cell in ("op/b2", "op/b4"):
        with pytest.raises(BaselineMissing, match=r"values are in batch_size\.obtained\.json.*--rebaseline"):
            check(baseline, cell=cell)
    obtained = baseline_file.load(path.with_name("batch_size.obtained.json"))
    assert sorted(obtained) == ["op/b2", "op/b4"]
    assert sorted(baseline_file.load(path)) == ["op/b1"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"protocol": "p2"}, "protocol p1"),
        ({"dtype": "float32"}, "dtype float64"),
        ({"deciding": "lpips"}, "deciding psnr"),
    ],
)
def test_an_entry_of_another_setting_is_stale(path: Path, options: dict[str, str], named: str) -> None:
    """Numbers of another setting that happen to agree prove nothing."""
    with pytest.raises(BaselineStale, match=f"stored with {named}"):
        check(Baseline(path, machine=HERE), **options)


def test_a_tolerance_changed_in_the_code_is_not_taken_over_silently(path: Path) -> None:
    """Widening a tolerance in the source would else turn a red check green without a trace in baselines/."""
    with pytest.raises(BaselineStale, match=r"psnr tolerance 1e-05, the test has 10"):
        check(Baseline(path, machine=HERE), shifted(3.0), quantities={"psnr": Quantity("dB", tolerance=10.0)})


def test_another_number_of_seeds_is_stale(path: Path) -> None:
    """Fewer seeds is thinner evidence under the same name."""
    with pytest.raises(BaselineStale, match="number of seeds 6, the test has 4"):
        check(Baseline(path, machine=HERE), {metric: values[:4] for metric, values in SAMPLE.items()})


@pytest.mark.parametrize("machine", [HERE, ELSEWHERE], ids=["here", "elsewhere"])
def test_a_metric_may_vanish_on_neither_side(path: Path, machine: dict[str, str]) -> None:
    """A metric that is no longer computed would else never fail again."""
    with pytest.raises(BaselineVanished, match=r"no longer measured: \['lpips'\]"):
        check(Baseline(path, machine=machine), {metric: SAMPLE[metric] for metric in ("psnr", "gradient_evaluations")})
    with pytest.raises(BaselineVanished, match=r"measured but not stored: \['ssim'\]"):
        check(Baseline(path, machine=machine), {**SAMPLE, "ssim": [0.5] * 6})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rebaseline", [False, True])
def test_a_non_finite_value_fails_and_cannot_be_stored(path: Path, value: float, rebaseline: bool) -> None:
    """NaN compares false with everything, so a plain comparison would let it through."""
    before = path.read_bytes()
    baseline = Baseline(path, machine=HERE, rebaseline=rebaseline, reason="r", ci=False)
    with pytest.raises(BaselineNonFinite, match=r"lpips is not finite at seeds \[2\]"):
        check(baseline, {**SAMPLE, "lpips": [0.2, 0.2, value, 0.2, 0.2, 0.2]}, rerun=lambda: SAMPLE)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "<<<<<<< HEAD\n",
        "[]",
        '{"cells": [], "format": 1}',
        '{"cells": {}, "format": 2}',
        '{"cells": {}, "cells": {}, "format": 1}',
        '{"cells": {"a": NaN}, "format": 1}',
        '{"cells": {"a": {"protocol": "p1"}}, "format": 1}',
    ],
    ids=["empty", "cut", "conflict", "list", "cells", "format", "repeated", "nan", "fields"],
)
@pytest.mark.parametrize("rebaseline", [False, True])
def test_a_corrupt_file_is_refused_on_load_and_never_overwritten(path: Path, text: str, rebaseline: bool) -> None:
    """Taking a broken file for an empty one would turn every lost baseline into a missing one that is stored anew."""
    path.write_text(text)
    with pytest.raises(BaselineCorrupt, match=r"batch_size\.json.*Restore the file"):
        Baseline(path, machine=HERE, rebaseline=rebaseline, reason="r", ci=False)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["metrics"]["psnr"]["values"].__setitem__(0, 24.1),
        lambda entry: entry["metrics"]["psnr"].update(tolerance=1.0),
        lambda entry: entry["metrics"].pop("lpips"),
        lambda entry: entry.update(protocol="p2"),
        lambda entry: entry.update(reason="a better story"),
    ],
    ids=["value", "tolerance", "metric", "protocol", "reason"],
)
def test_an_edit_by_hand_is_refused(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A number typed in is not a measurement."""
    edit(path, change)
    with pytest.raises(BaselineCorrupt, match="edited by hand"):
        Baseline(path, machine=HERE)


def test_an_entry_moved_to_another_name_is_refused(path: Path) -> None:
    """Renaming a cell in the file would hand one cell the numbers of another."""
    path.write_text(path.read_text().replace("op/b1", "op/b2"))
    with pytest.raises(BaselineCorrupt, match=r"'op/b2'.*edited by hand"):
        Baseline(path, machine=HERE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda entry: entry["metrics"]["psnr"].update(tolerance=1e-7),
            "psnr: tolerance 1e-07 is below the recorded spread",
        ),
        (lambda entry: entry["metrics"]["psnr"].update(seed_spread=5.0), "seed spread 5.0 does not follow"),
        (lambda entry: entry["metrics"]["psnr"]["values"].pop(), "different numbers of seeds"),
        (lambda entry: entry["metrics"]["psnr"].pop("unit"), "the fields"),
        (lambda entry: entry["metrics"].pop("psnr"), "'psnr' among them"),
    ],
    ids=["tolerance", "spread", "seeds", "field", "deciding"],
)
def test_an_entry_is_validated_even_if_its_digest_fits(path: Path, change: Any, named: str) -> None:
    """Whoever recomputes the digest still cannot store a tolerance without its basis."""
    edit(path, change, forge=True)
    with pytest.raises(BaselineCorrupt, match=named):
        Baseline(path, machine=HERE)


def test_a_tolerance_below_the_platform_spread_cannot_be_declared() -> None:
    """It would raise alarms on the next processor."""
    with pytest.raises(ValueError, match=r"tolerance: expected at least the platform spread 0\.1, got 0\.01"):
        Quantity("dB", tolerance=0.01, platform_spread=0.1)


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
def test_a_malformed_sample_is_an_error_of_the_test(path: Path, values: Values, named: str) -> None:
    """Three seeds, or a metric nobody has named a unit for, are mistakes in the test and no verdict on the code."""
    with pytest.raises(ValueError, match=named):
        check(Baseline(path, machine=HERE), values)


def test_a_cell_is_checked_once_a_run(path: Path) -> None:
    """Two tests under one cell name would take turns overwriting each other's baseline."""
    baseline = Baseline(path, machine=HERE)
    check(baseline)
    with pytest.raises(ValueError, match="'op/b1' again"):
        check(baseline)


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_rebaseline_needs_a_reason(path: Path, reason: str | None) -> None:
    """A number that moved without a reason cannot be reviewed."""
    with pytest.raises(RebaselineRefused, match="--reason"):
        Baseline(path, rebaseline=True, reason=reason, ci=False)


def test_rebaseline_is_refused_under_ci(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that may move its own baseline has none."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RebaselineRefused, match="CI"):
        Baseline(path, rebaseline=True, reason="r")
    with pytest.raises(RebaselineRefused, match="CI"):
        Baselines(path.parent, rebaseline=True, reason="r")


def test_rebaseline_rewrites_only_what_fails(path: Path) -> None:
    """Touching entries that hold would bury the one that moved in a large diff."""
    store(path, cell="op/b2")
    before = baseline_file.load(path)
    baseline = Baseline(path, machine=HERE, rebaseline=True, reason="faster schedule", ci=False, commit="fff0000")

    def never() -> Values:
        raise AssertionError("a cell that holds is not measured again")

    assert check(baseline, cell="op/b1", rerun=never).how == "paired"
    assert check(baseline, shifted(1.0), cell="op/b2", rerun=lambda: shifted(1.0)).how == "stored anew"
    after = baseline_file.load(path)
    assert after["op/b1"] == before["op/b1"]
    assert after["op/b2"]["metrics"]["psnr"]["values"] == shifted(1.0)["psnr"]
    assert (after["op/b2"]["reason"], after["op/b2"]["commit"]) == ("faster schedule", "fff0000")
    check(Baseline(path, machine=HERE), shifted(1.0), cell="op/b2")


@pytest.mark.parametrize(
    "again", [shifted(1.0001), {**shifted(1.0), "gradient_evaluations": [101.0] * 6}], ids=["psnr", "evaluations"]
)
def test_rebaseline_refuses_what_does_not_repeat(path: Path, again: Values) -> None:
    """A baseline that differs from its own repetition fails at the next run for no change at all."""
    before = path.read_bytes()
    baseline = Baseline(path, machine=HERE, rebaseline=True, reason="r", ci=False)
    with pytest.raises(RebaselineRefused, match="two runs disagree"):
        check(baseline, shifted(1.0), rerun=lambda: again)
    assert path.read_bytes() == before


def test_rebaseline_refuses_a_check_that_cannot_run_twice(path: Path) -> None:
    """One run cannot show that it repeats."""
    with pytest.raises(RebaselineRefused, match="without rerun="):
        check(Baseline(path, machine=HERE, rebaseline=True, reason="r", ci=False), shifted(1.0))


def test_a_full_run_reports_entries_that_nothing_checked(path: Path) -> None:
    """A deleted test would else leave its baseline behind, as if something still held it."""
    store(path, cell="op/b2")
    store(path.with_name("gone.json"))
    path.with_name("reported.json").write_text("{}")
    baselines = Baselines(path.parent, machine=HERE)
    check(baselines.open("batch_size"), cell="op/b1")
    assert baselines.finish(full=False) == []
    told = [str(error) for error in baselines.finish(full=True)]
    assert [line.split(" is stale")[0] for line in told] == ["batch_size.json: 'op/b2'", "gone.json: 'op/b1'"]
    assert [comparison.cell for comparison in baselines.comparisons] == ["op/b1"]


def test_a_full_rebaseline_drops_stale_entries(path: Path) -> None:
    """Editing the file by hand is refused, so the command has to be able to do it."""
    store(path, cell="op/b2")
    store(path.with_name("gone.json"))
    baselines = Baselines(path.parent, machine=HERE, rebaseline=True, reason="cell removed", ci=False)
    check(baselines.open("batch_size"), cell="op/b1")
    assert baselines.finish(full=True) == []
    assert list(baseline_file.load(path)) == ["op/b1"]
    assert not path.with_name("gone.json").exists()


def test_a_corrupt_file_that_no_test_opens_is_reported_by_a_full_run(path: Path) -> None:
    """Nobody would notice it until its module runs again."""
    path.with_name("other.json").write_text("{")
    baselines = Baselines(path.parent, machine=HERE)
    check(baselines.open("batch_size"))
    assert [type(error) for error in baselines.finish(full=True)] == [BaselineCorrupt]


def test_all_entries_of_the_folder_count_as_checks(path: Path) -> None:
    """The level of one check must not hang on which module it happens to stand in."""
    for cell in ("a", "b", "c"):
        store(path.with_name("other.json"), cell=cell)
    comparison = check(Baselines(path.parent, machine=ELSEWHERE).open("batch_size"))
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


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=12),
    st.floats(1e-6, 0.5),
)
def test_every_storable_sample_survives_the_file_bit_for_bit(sample: list[float], alpha: float) -> None:
    """A value rounded by the file would break the paired comparison; an interval without its centre any other."""
    known = {"psnr": Quantity("dB")}
    stored = baseline_file.entry(
        "cell",
        {"psnr": sample},
        known,
        deciding="psnr",
        protocol="p",
        dtype="float64",
        machine=HERE,
        commit="c",
        reason="",
    )
    assert json.loads(json.dumps(stored)) == stored
    assert baseline_file._problem("cell", json.loads(json.dumps(stored))) is None
    low, high = prediction_interval(sample, len(sample), alpha)
    assert low <= np.mean(sample) <= high


def test_false_alarms_of_the_prediction_interval_stay_at_their_level() -> None:
    """An interval that is too narrow cries wolf on every new processor; one too wide guards nothing.

    40 checks a run at a family level of 5 %: alarms per run, over 4000 simulated runs with fresh seeds on both sides.
    """
    draw = np.random.default_rng(20260)
    runs, checks, seeds = 4000, 40, 6
    factor = (prediction_interval(PSNR, seeds, 0.05 / checks)[1] - np.mean(PSNR)) / np.std(PSNR, ddof=1)

    def alarms(old: np.ndarray, new: np.ndarray) -> float:
        return float((abs(new.mean(-1) - old.mean(-1)) > factor * old.std(-1, ddof=1)).any(-1).mean())

    size = (2, runs, checks, seeds)
    normal = draw.standard_normal(size)
    # Binomial error of a rate of 0.05 over 4000 runs is 0.0034; four of them are allowed.
    assert 0.036 <= alarms(*normal) <= 0.064
    # Off the normal shape the level is not kept, but stays near: 0.087 and 0.12 over 20000 runs of another seed.
    assert alarms(*draw.uniform(size=size)) <= 0.11
    assert alarms(*draw.gumbel(size=size)) <= 0.15
    # What happens in practice: the same seeds elsewhere, correlated with the stored ones.
    assert alarms(normal[0], 0.9 * normal[0] + math.sqrt(1 - 0.9**2) * normal[1]) <= 0.001
