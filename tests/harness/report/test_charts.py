"""Where the marks of drawings lie."""

from __future__ import annotations

from typing import Any

import pytest

from gia.harness.report import charts
from tests.harness.report.run_folder import reach_of


def places(chart: dict[str, Any], *names: str) -> list[tuple[float, float]]:
    """Every (x, y) below these keys."""
    found: list[tuple[float, float]] = []
    for name in names:
        for each in chart[name]:
            points = each if isinstance(each, list) else [each]
            found += [(p["x"], p["y"]) if isinstance(p, dict) else p for p in points]
    return found


def test_points_of_a_strip_lie_inside_and_apart() -> None:
    """Blocks with the same effect would be drawn as one."""
    chart = charts.strip([1.0] * 8 + [9.0], interval=[1.0, 9.0], effect=1.0, margin=0.5, kind="trend")
    assert chart is not None
    drawn = places(chart, "points")
    assert len(set(drawn)) == 9
    assert all(0 <= x <= chart["width"] and 0 <= y <= chart["height"] for x, y in drawn)
    assert chart["interval"][0] < chart["interval"][1]


@pytest.mark.parametrize(("kind", "limits"), [("trend", 1), ("paired", 1), ("affected", 2), ("equivalence", 2)])
def test_a_claim_with_a_direction_has_one_limit_and_others_have_two(kind: str, limits: int) -> None:
    """A reader would look for the interval on the wrong side of the margin."""
    chart = charts.strip([0.1], interval=None, effect=0.1, margin=0.5, kind=kind)
    assert chart is not None
    assert [line["what"] for line in chart["lines"]] == ["zero"] + ["margin"] * limits
    assert (chart["band"] is not None) == (limits == 2)


def test_higher_values_lie_higher_and_levels_go_to_the_right() -> None:
    """A curve would show the reverse of what was measured."""
    chart = charts.levels(["1", "2"], [[1.0, 5.0], [2.0, 7.0], [3.0, None]], placebo=[[0.5, 0.5]])
    assert chart is not None
    first, second = chart["medians"]
    assert first["x"] < second["x"]
    assert first["y"] > second["y"]
    assert (first["text"], second["text"]) == ("2", "6")  # a missing value is left out
    assert all(y > first["y"] for _, y in chart["placebo"])
    assert charts.levels(["1"], []) is None


def test_ticks_are_round_and_inside() -> None:
    """An axis with 0.333333 on it cannot be read."""
    axis = charts.axis([-3.3, 12.1], 0, 100)
    numbers = [value for value, _ in axis.ticks()]
    assert numbers == [0.0, 5.0, 10.0]
    assert all(axis.low <= value <= axis.high for value in numbers)
    log = charts.axis([0.386, 1.4e5], 0, 100, log=True)
    assert [text for _, text in log.ticks()] == ["1", "10", "10²", "10³", "10⁴", "10⁵"]


def test_every_drawn_setting_has_one_mark_for_each_factor() -> None:
    """The part below the specification curve would not say which setting an effect belongs to."""
    entry = reach_of()
    chart = charts.specification(entry["draws"], entry["margin"])
    assert chart is not None
    assert len(chart["points"]) == 24
    assert sum(len(row["marks"]) for row in chart["rows"]) == 2 * 24
    assert [row["text"] for row in chart["rows"]] == [
        "activation = relu",
        "activation = silu",
        "width = 16",
        "width = 24",
    ]
    live = [point for point in chart["points"] if point["label"] == "holds"]
    assert [point["y"] for point in live] == sorted((point["y"] for point in live), reverse=True)
    assert chart["points"][-1]["label"] == "void"
    assert charts.specification([{"setting": {}, "label": "void", "effect": None}], 0.5) is None


def test_eight_series_differ_without_their_colours() -> None:
    """Two lines of a ROC plot would look the same in print."""
    series = [{"name": str(number), "points": [(0, 0), (1, number)]} for number in range(8)]
    drawn = charts.figure(series, log=False)["series"]
    assert len({(each["style"], each["more"]) for each in drawn}) == 8


def test_only_marked_points_have_a_mark() -> None:
    """Hundreds of marks would hide the curve, and the one that means something."""
    points = [(0.0, 0.0), (0.5, 1.0), (1.0, 1.0)]
    every, one = charts.figure(
        [{"name": "a", "points": points}, {"name": "b", "points": points, "marked": [1], "labels": ["x", "y", "z"]}],
        log=False,
    )["series"]
    assert [(mark["x"], mark["y"]) for mark in every["marks"]] == every["points"]
    assert [(mark["x"], mark["y"], mark["label"]) for mark in one["marks"]] == [(*one["points"][1], "y")]


def test_points_that_nearly_coincide_share_a_label() -> None:
    """Two labels at one place cannot be read."""
    points = [(0.0, 0.0), (0.01, 0.01), (0.0, 1.0), (1.0, 1.0)]
    series = {"name": "a", "points": points, "labels": ["a", "b", "c", "d"], "dots": True}
    (drawn,) = charts.figure([series], log=False)["series"]
    assert [(mark["label"], mark["before"]) for mark in drawn["marks"]] == [
        ("a, b", False),
        ("", False),
        ("c", False),
        ("d", True),
    ]


def test_intervals_of_two_runs_share_an_axis() -> None:
    """Two intervals that overlap could look apart."""
    chart = charts.intervals([([1.0, 3.0], 2.0), ([2.0, 4.0], 3.0)], 0.5)
    assert chart is not None
    first, second = chart["bars"]
    assert first["x"] < second["x"] < first["end"] < second["end"]
    assert first["y"] < second["y"]
