"""The table of a timing run: each number beside its goal, on record before it can fail."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gia.harness.timing import goals
from gia.harness.timing.goals import Timings
from gia.harness.timing.plot import costs
from gia.harness.timing.ratio import Ratio, TimingFailed, TimingInconclusive
from tests.harness.plugin.inner_project import Inner

pytest_plugins = ["pytester"]


def found(low: float, high: float, *, conclusive: bool = True) -> Ratio:
    """A ratio with this interval around its median."""
    return Ratio((low + high) / 2, low, high, 9, 2, 0.04, conclusive, (0.2, 0.1))


@pytest.mark.parametrize(
    ("rule", "cost", "verdict"),
    [
        ("at_most", found(1.8, 2.0), "met"),
        ("at_most", found(1.8, 2.01), "within slack"),
        ("at_most", found(1.8, 2.5), "within slack"),
        ("at_most", found(1.8, 2.51), "missed"),
        ("at_most", found(1.0, 1.1, conclusive=False), "inconclusive"),
        ("at_least", found(2.0, 2.2), "met"),
        ("at_least", found(1.99, 2.2), "within slack"),
        ("at_least", found(1.59, 2.2), "missed"),
        ("at_least", found(9.0, 9.9, conclusive=False), "inconclusive"),
    ],
)
def test_a_goal_is_met_missed_or_within_its_slack_and_recorded_in_any_case(
    rule: str, cost: Ratio, verdict: str
) -> None:
    """A table of what passed alone would be green for ever."""
    timings, info = Timings(), dict[str, Any]()
    raised: type[BaseException] | None = None
    try:
        getattr(timings, rule)("core", "small", cost, 2.0, info)
    except (TimingFailed, TimingInconclusive) as error:
        raised = type(error)
    assert raised is {"missed": TimingFailed, "inconclusive": TimingInconclusive}.get(verdict)
    (row,) = timings.rows
    sign = "<=" if rule == "at_most" else ">="
    assert (row["value"], row["low"], row["high"]) == (cost.median, cost.low, cost.high)
    assert (row["goal"], row["verdict"]) == (f"{sign} 2", verdict)
    assert info["core"]["value"] == cost.median
    assert info["core"]["turns"] == 9


@pytest.mark.parametrize(
    ("rule", "cost", "bound", "goal", "verdict"),
    [
        ("at_most", found(2.5, 2.6), 2.4, "<= 2 (at best 2.4)", "within slack by the bound"),
        ("at_most", found(2.5, 3.1), 2.4, "<= 2 (at best 2.4)", "missed by the bound"),
        ("at_most", found(2.5, 2.6), 1.9, "<= 2", "missed"),
        ("at_least", found(1.5, 1.6), 1.7, ">= 2 (at best 1.7)", "within slack by the bound"),
        ("at_least", found(1.3, 1.6), 1.7, ">= 2 (at best 1.7)", "missed by the bound"),
        ("at_least", found(1.5, 1.6), 2.1, ">= 2", "missed"),
    ],
)
def test_a_goal_beyond_the_bound_is_replaced_by_it(
    rule: str, cost: Ratio, bound: float, goal: str, verdict: str
) -> None:
    """A machine on which no engine could meet the goal would fail for ever, or the goal would be given up elsewhere."""
    timings = Timings()
    hold = partial(getattr(timings, rule), "core", "small", cost, 2.0, {}, bound=lambda: found(bound, bound))
    if verdict.startswith("missed"):
        with pytest.raises(TimingFailed):
            hold()
    else:
        hold()
    assert (timings.rows[0]["goal"], timings.rows[0]["verdict"]) == (goal, verdict)


def test_a_bound_is_not_measured_where_the_goal_is_reached() -> None:
    """Every timing would take twice as long."""
    Timings().at_most("core", "small", found(1.8, 2.4), 2.0, {}, bound=lambda: pytest.fail("measured"))
    Timings().at_least("core", "small", found(1.7, 2.4), 2.0, {}, bound=lambda: pytest.fail("measured"))


def test_a_count_has_no_slack() -> None:
    """What no clock blurs needs none."""
    timings = Timings()
    timings.counted("FLOP", "small", 7.0, 7.0, {}, unit="F")
    with pytest.raises(TimingFailed, match=r"FLOP, R18: expected at most 7F, got 7.001F"):
        timings.counted("FLOP", "R18", 7.001, 7.0, {}, unit="F")
    assert [row["verdict"] for row in timings.rows] == ["met", "missed"]


@pytest.mark.parametrize(
    ("cost", "word"),
    [
        (found(1.11, 1.3), "slower"),
        (found(1.09, 1.3), "unclear"),
        (found(0.92, 1.09), "same"),
        (found(0.80, 1.09), "unclear"),
        (found(0.70, 0.90), "faster"),
        (found(1.20, 1.30, conclusive=False), "inconclusive"),
    ],
)
def test_head_over_base_is_called_what_its_whole_interval_says(cost: Ratio, word: str) -> None:
    """ "Same" on an interval that still holds 1.3 would be a claim that nobody measured."""
    assert goals.compared(cost) == word
    timings = Timings()
    if word == "slower":
        with pytest.raises(TimingFailed, match="core, small: head over base"):
            timings.against("core", "small", cost)
    elif word == "inconclusive":
        with pytest.raises(TimingInconclusive):
            timings.against("core", "small", cost)
    else:
        timings.against("core", "small", cost)
    assert timings.rows[0]["verdict"] == word


@pytest.fixture
def timings() -> Timings:
    """Two measures, one of them for both cases, and a curve of two points."""
    made = Timings()
    made.at_most("core", "small", found(1.8, 2.0), 2.0, {})
    made.at_least("loop", "small", found(2.0, 2.2), 2.5, {})
    made.at_least("loop", "R18", found(3.0, 3.2), 2.5, {})
    made.counted("memory", "R18", 12.345, None, {}, unit=" MiB")
    made.point("width", 32, found(0.8, 1.0), {})
    made.point("width", 64, found(0.9, 1.0), {})
    return made


def test_the_table_has_a_row_for_each_measure_and_a_column_for_each_case(timings: Timings) -> None:
    """A number in the wrong column is a number for another net."""
    lines = goals.terminal(timings).splitlines()
    small, r18 = lines[0].index("small"), lines[0].index("R18")
    table = {line[:6].strip() or f"below {lines[i - 1][:6].strip()}": line for i, line in enumerate(lines[1:], 1)}
    assert table["core"][small:r18].strip() == "1.9 [1.8, 2]"
    assert table["below core"][small:].strip() == "<= 2 met"
    assert table["loop"][small:r18].strip() == "2.1 [2, 2.2]"
    assert table["loop"][r18:] == "3.1 [3, 3.2]"
    assert table["below loop"][small:r18].strip() == ">= 2.5 within slack"
    assert table["memory"][small:].strip() == table["memory"][r18:] == "12.3 MiB"
    assert lines[-2] == "core over a training step by width: 32: 0.9 [0.8, 1], 64: 0.95 [0.9, 1]"
    assert lines[-1].startswith(
        "machine: varied by at most 4.0% within a timing, 45 turns; 10 more measured again; 0 of 5"
    )
    text = goals.markdown(timings, {"torch": "2.14"}, ["images/a.png"])
    assert "| loop | 2.1 [2, 2.2] >= 2.5 within slack | 3.1 [3, 3.2] >= 2.5 met |" in text
    assert "![images/a.png](images/a.png)" in text


def test_the_files_hold_what_the_table_holds(timings: Timings) -> None:
    """Another program compares them; NaN is no JSON."""
    read = json.loads(goals.to_json(timings, {"torch": "2.14"}))
    assert read["facts"] == {"torch": "2.14"}
    assert [row["verdict"] for row in read["rows"]] == ["met", "within slack", "met", ""]
    assert [point["at"] for point in read["points"]] == [32, 64]
    timings.counted("broken", "R18", float("nan"), None, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        goals.to_json(timings, {})


def test_the_facts_name_the_processor_and_torch() -> None:
    """A ratio means little without the machine that it was measured on."""
    assert {"processor", "torch", "capability", "threads"} <= set(goals.facts())


def test_the_plot_has_a_panel_for_each_axis(timings: Timings, tmp_path: Path) -> None:
    """A curve of one axis over another's places, or cut off by the other's height, would be a picture of nothing."""
    costs(tmp_path / "one.png", timings.points, unit="training steps")
    timings.point("trials", 4, found(4.0, 4.0), {})
    costs(tmp_path / "two.png", timings.points, unit="training steps")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width == 2 * one.width
        right = np.asarray(two.convert("RGB"))[:, int(1.2 * one.width) :]
    assert (right == (31, 119, 180)).all(2).sum() > 20  # the marker's colour


TIMED = """
import pytest
from gia.harness.timing.ratio import Ratio

@pytest.mark.timing
@pytest.mark.parametrize("high", [1.0, 9.0])
def test_goal(timings, high):
    timings.at_most("core", f"up to {high:g}", Ratio(1.0, 1.0, high, 9, 0, 0.01, True, (0.1, 0.1)), 1.0, {})
    timings.point("width", 32, Ratio(1.0, 1.0, high, 9, 0, 0.01, True, (0.1, 0.1)), {})

@pytest.mark.timing
def test_compared(base, timings):
    timings.against("core", base, Ratio(1.0, 1.0, 1.0, 9, 0, 0.01, True, (0.1, 0.1)))

@pytest.fixture
def base(request):
    return request.config.option.gia_base

def test_other():
    pass
"""


def test_a_timing_run_ends_with_its_table_and_leaves_files(inner: Inner) -> None:
    """The numbers would scroll by, and a missed goal would be a traceback without its neighbours."""
    inner.write(tests=TIMED)
    result = inner.run("-m", "timing")
    result.assert_outcomes(passed=1, failed=1, deselected=2)
    result.stdout.fnmatch_lines(
        ["*what things cost*", "*up to 1 * up to 9*", "core * 1 *1, 1* 1 *1, 9*", "*<= 1 met*missed*"]
    )
    rows = json.loads((inner.folder / "bench.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows] == ["met", "missed"]
    assert "![images/bench-cost.png]" in (inner.folder / "bench.md").read_text(encoding="utf-8")
    assert (inner.folder / "images" / "bench-cost.png").stat().st_size > 5000


def test_with_a_base_only_what_compares_with_it_is_timed(inner: Inner) -> None:
    """The goals would be timed once more, or the comparison would fail for want of a base in every other run."""
    inner.write(tests=TIMED)
    for command in ("init --quiet", "add .", "-c user.name=a -c user.email=a@b commit -qm a"):
        subprocess.run(["git", *command.split()], cwd=inner.path, check=True)
    result = inner.run("--gia-base=HEAD", "--gia-run-dir=out")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["*this working tree over HEAD*", "*same*"])
    read = json.loads((inner.path / "out" / "base.json").read_text(encoding="utf-8"))
    assert read["facts"]["base"] == "HEAD"
    assert read["rows"][0]["case"] == "HEAD"
    assert not (inner.path / "out" / "bench.json").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--gia-base=nowhere", "*--gia-base: expected a commit, branch or tag of *, got 'nowhere'*"),
        ("--gia-repeats=0", "*--gia-repeats: expected at least 1, got 0*"),
    ],
)
def test_a_wrong_option_of_the_comparison_stops_the_run(inner: Inner, option: str, message: str) -> None:
    """A long run would end with what its first second could have shown."""
    inner.write(tests=TIMED)
    result = inner.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
