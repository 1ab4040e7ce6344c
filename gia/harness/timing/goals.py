"""The table of a timing run: each number with its goal, as text, JSON and Markdown. Nothing here measures.

`Timings` is the fixture `timings`: it records a number, also in `benchmark.extra_info`, before it compares it with its
goal, so that a missed goal is in the table too.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from gia.harness.timing.ratio import Ratio, TimingFailed
from gia.numerics import environment

Row = dict[str, Any]
Info = MutableMapping[str, Any]  # of a benchmark
Bound = Callable[[], Ratio]

#: Head over base is a regression if the whole interval lies above 1 plus this.
BY = 0.1


class Timings:
    """The numbers of one session.

    Attributes:
        rows: measure, case, value, low, high, goal, verdict, and how it was measured.
        points: axis, at, and the ratio there.

    >>> timings = Timings()
    >>> timings.counted("FLOP", "small", 6.5, 7.0, {}, unit="F")
    >>> print(terminal(timings))
          small
    FLOP  6.5F
          <= 7 met
    machine: nothing was timed
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.points: list[Row] = []

    def at_most(
        self, measure: str, case: str, cost: Ratio, goal: float, info: Info, *, bound: Bound | None = None
    ) -> None:
        """Record a cost and compare it with its goal; raises as `Ratio.at_most` does.

        `bound` measures the lowest possible cost, and is called if the goal is missed. If this machine cannot reach the
        goal, the bound takes its place, with the same slack.
        """
        self._compare(measure, case, cost, goal, info, bound, upper=True)

    def at_least(
        self, measure: str, case: str, gain: Ratio, goal: float, info: Info, *, bound: Bound | None = None
    ) -> None:
        """Record a gain and compare it with its goal, or with `bound`; raises as `Ratio.at_least` does."""
        self._compare(measure, case, gain, goal, info, bound, upper=False)

    def _compare(
        self, measure: str, case: str, cost: Ratio, goal: float, info: Info, bound: Bound | None, *, upper: bool
    ) -> None:
        text, limit = f"{'<=' if upper else '>='} {goal:g}", goal
        verdict = _verdict(cost, goal, upper)
        if verdict == "missed" and bound is not None:
            best = bound().median
            if best > goal if upper else best < goal:
                verdict, limit = f"{_verdict(cost, best, upper)} by the bound", best
                text += f" (at best {best:.3g})"
        self._ratio(measure, case, cost, text, verdict, info)
        (cost.at_most if upper else cost.at_least)(limit)

    def counted(self, measure: str, case: str, value: float, goal: float | None, info: Info, unit: str = "") -> None:
        """Record a number that is counted, not timed. Raises TimingFailed above the goal, which has no slack."""
        within = goal is None or value <= goal
        text = "" if goal is None else f"<= {goal:g}"
        verdict = "" if goal is None else "met" if within else "missed"
        self._add(info, measure=measure, case=case, value=value, goal=text, verdict=verdict, unit=unit)
        if not within:
            raise TimingFailed(f"{measure}, {case}: expected at most {goal:g}{unit}, got {value:.3f}{unit}")

    def point(self, axis: str, at: int, cost: Ratio, info: Info) -> None:
        """Record one point of a curve: the cost of the core, in training steps per trial, at one place of an axis."""
        self.points.append({"axis": axis, "at": at, **cost.row()})
        info[f"{axis} {at}"] = cost.row()

    def against(self, measure: str, case: str, cost: Ratio) -> None:
        """Record head over base; raises TimingFailed if the whole interval says that the head is over 10 % slower."""
        self._ratio(measure, case, cost, "", compared(cost), {})
        if cost.slower(by=BY):
            raise TimingFailed(f"{measure}, {case}: head over base {cost}; lower end above {1 + BY:g}")

    def _ratio(self, measure: str, case: str, cost: Ratio, goal: str, verdict: str, info: Info) -> None:
        row = cost.row()
        self._add(info, measure=measure, case=case, value=row.pop("median"), goal=goal, verdict=verdict, **row)

    def _add(self, info: Info, **row: Any) -> None:
        self.rows.append(row)
        info[row["measure"]] = {name: value for name, value in row.items() if name not in ("measure", "case")}


def compared(cost: Ratio) -> str:
    """Head over base in a word: "slower", "faster" and "same" need the whole interval, otherwise it is "unclear".

    >>> compared(Ratio(1.3, 1.2, 1.4, 13, 0, 0.02, True, (0.13, 0.1)))
    'slower'
    """
    if not cost.conclusive:
        return "inconclusive"
    if cost.low > 1 + BY:
        return "slower"
    if cost.high < 1 / (1 + BY):
        return "faster"
    return "same" if cost.low >= 1 / (1 + BY) and cost.high <= 1 + BY else "unclear"


def facts() -> dict[str, str]:
    """What a ratio may depend on: processor, versions, instruction set, threads."""
    return {"processor": _processor(), **environment()}


def terminal(timings: Timings) -> str:
    """A row per measure, a column per case: the number with its interval, then the goal and the verdict below."""
    cases, measures = _cases(timings.rows), _by_measure(timings.rows)
    first = max(map(len, measures), default=0)
    lines = [" " * first + "".join(f"  {case:<{_COLUMN}}" for case in cases)] if cases else []
    for measure, rows in measures.items():
        for text in (_number, _judged):
            cells = [text(rows[case]) if case in rows else "" for case in cases]
            lines.append(f"{measure if text is _number else '':<{first}}" + "".join(f"  {c:<{_COLUMN}}" for c in cells))
    lines = [line.rstrip() for line in (*lines, *_curves(timings.points), machine(timings))]
    return "\n".join(line for line in lines if line)


def markdown(timings: Timings, about: Mapping[str, str], pictures: Sequence[str] = ()) -> str:
    """The same as a Markdown document."""
    cases = _cases(timings.rows)
    table = [["", *cases], ["---"] * (len(cases) + 1)]
    for measure, rows in _by_measure(timings.rows).items():
        cells = [f"{_number(rows[case])} {_judged(rows[case])}".strip() if case in rows else "" for case in cases]
        table.append([measure, *cells])
    parts = [
        "# What things cost",
        " · ".join(f"{name} {text}" for name, text in about.items() if text),
        "\n".join("| " + " | ".join(cells) + " |" for cells in table),
        *_curves(timings.points),
        *(f"![{picture}]({picture})" for picture in pictures),
        machine(timings),
    ]
    return "\n\n".join(parts) + "\n"


def to_json(timings: Timings, about: Mapping[str, str]) -> str:
    """{"facts", "rows", "points"}; a number that is not finite raises ValueError."""
    content = {"facts": dict(about), "rows": timings.rows, "points": timings.points}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def machine(timings: Timings) -> str:
    """How steady the machine was, in one line."""
    timed = [row for row in (*timings.rows, *timings.points) if "state" in row]
    if not timed:
        return "machine: nothing was timed"
    dropped, turns = (sum(row[name] for row in timed) for name in ("dropped", "turns"))
    unsteady = sum(not row["conclusive"] for row in timed)
    return (
        f"machine: varied by at most {max(row['state'] for row in timed):.1%} within a timing, {turns} turns; "
        f"{dropped} more measured again; {unsteady} of {len(timed)} timings inconclusive"
    )


_COLUMN = 22


def _cases(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in rows))


def _curves(points: Sequence[Row]) -> list[str]:
    """The curves in words, one line each."""
    return [
        f"core over a training step by {axis}: "
        + ", ".join(
            f"{point['at']}: {point['median']:.3g} [{point['low']:.3g}, {point['high']:.3g}]"
            for point in points
            if point["axis"] == axis
        )
        for axis in dict.fromkeys(point["axis"] for point in points)
    ]


def _by_measure(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    measures: dict[str, dict[str, Row]] = {}
    for row in rows:
        measures.setdefault(row["measure"], {})[row["case"]] = row
    return measures


def _number(row: Row) -> str:
    interval = f" [{row['low']:.3g}, {row['high']:.3g}]" if "low" in row else row["unit"]
    return f"{row['value']:.3g}{interval}"


def _judged(row: Row) -> str:
    return f"{row['goal']} {row['verdict']}".strip()


def _verdict(cost: Ratio, goal: float, upper: bool) -> str:
    if not cost.conclusive:
        return "inconclusive"
    if cost.high <= goal if upper else cost.low >= goal:
        return "met"
    try:
        (cost.at_most if upper else cost.at_least)(goal)
    except TimingFailed:
        return "missed"
    return "within slack"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
