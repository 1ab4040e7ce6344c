"""Where the marks of a drawing lie: plain numbers, which the macros of templates/charts.html turn into SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Chart = dict[str, Any]

#: Width of a drawing in its own units; a page scales it.
WIDTH = 460

#: Before a negative number on a page.
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Axis:
    """A scale from numbers to places.

    Args:
        low, high: the numbers at both ends.
        start, end: their places.
        log: whether places follow the logarithm.

    >>> axis = Axis(0.0, 10.0, 100.0, 200.0)
    >>> axis(5.0), axis.ticks()
    (150.0, [(0, '0'), (2, '2'), (4, '4'), (6, '6'), (8, '8'), (10, '10')])
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a number, in hundredths of a unit."""
        low, high, value = (
            (math.log10(each) for each in (self.low, self.high, value))
            if self.log
            else (
                self.low,
                self.high,
                value,
            )
        )
        share = (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Round numbers between both ends, at most the given number, and their texts."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / most))
            return [(10.0**power, _power(power)) for power in range(first, last + 1, every)]
        raw = (self.high - self.low) / max(most - 1, 1)
        base = 10 ** math.floor(math.log10(raw))
        step = next(factor * base for factor in (1, 2, 2.5, 5, 10) if factor * base >= raw * (1 - 1e-9))
        numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(number * step, f"{number * step:.10g}".replace("-", MINUS)) for number in numbers]


def axis(values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Axis:
    """An axis on which all of these values have room; one value alone gets some room around it."""
    low, high = min(values), max(values)
    if log:
        return Axis(low / 1.5, high * 1.5, start, end, log=True)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def strip(
    effects: Sequence[float], *, interval: Sequence[float] | None, effect: float | None, margin: float | None, kind: str
) -> Chart | None:
    """The effect of each block as a point, the interval of their median below, and the margin; None without any.

    >>> strip([1.0, 2.0], interval=[1.0, 2.0], effect=1.5, margin=0.5, kind="trend")["lines"]
    [{'x': 37.14, 'what': 'zero'}, {'x': 133.57, 'what': 'margin'}]
    """
    finite = [value for value in effects if math.isfinite(value)]
    if not finite:
        return None
    limits = [] if margin is None else [margin] if kind in ("trend", "paired") else [-margin, margin]
    scale = axis([*finite, *(interval or []), *limits, 0.0], 14, WIDTH - 14)
    rows: list[float] = []  # the right-most place of each row of points
    points = []
    for value in sorted(finite):
        x = scale(value)
        row = next((number for number, last in enumerate(rows) if x - last >= 9), len(rows))
        rows[row : row + 1] = [x]
        points.append((x, row))
    shown = min(len(rows), 12)
    base = 16 + 9 * shown
    return {
        "width": WIDTH,
        "height": base + 52,
        "points": [{"x": x, "y": base - 6 - 9 * min(row, 11)} for x, row in points],
        "base": base,
        "lines": [{"x": scale(0.0), "what": "zero"}, *({"x": scale(each), "what": "margin"} for each in limits)],
        "band": None if len(limits) < 2 else [scale(limits[0]), scale(limits[1])],
        "interval": None if interval is None else [scale(end) for end in interval],
        "effect": None if effect is None else scale(effect),
        "ticks": [{"x": scale(value), "text": text} for value, text in scale.ticks(7)],
    }


def intervals(both: Sequence[tuple[Sequence[float] | None, float | None]], margin: float | None) -> Chart | None:
    """The intervals of two runs, one below the other; None where one of them has none.

    >>> intervals([([1.0, 2.0], 1.5), (None, None)], 0.5) is None
    True
    """
    found = [(interval, effect) for interval, effect in both if interval is not None and effect is not None]
    if len(found) < len(both):
        return None
    limits = [] if margin is None else [-margin, margin]
    scale = axis([*(end for interval, _ in found for end in interval), *limits, 0.0], 14, WIDTH - 14)
    return {
        "width": WIDTH,
        "height": 92,
        "bars": [
            {"x": scale(interval[0]), "end": scale(interval[1]), "effect": scale(effect), "y": 12 + 22 * number}
            for number, (interval, effect) in enumerate(found)
        ],
        "base": 50,
        "lines": [{"x": scale(0.0), "what": "zero"}, *({"x": scale(each), "what": "margin"} for each in limits)],
        "ticks": [{"x": scale(value), "text": text} for value, text in scale.ticks(7)],
    }


def levels(
    names: Sequence[str], values: Sequence[Sequence[float | None]], *, placebo: Sequence[Sequence[float | None]] = ()
) -> Chart | None:
    """A metric over the levels: a thin line for each block, a thick one through the medians, and the placebo's medians.

    Args:
        names: of the levels.
        values: (blocks, levels).
        placebo: (blocks, levels) of the best placebo in the same metric; may be empty.

    >>> levels(["1", "2"], [[2.0, 1.0], [3.0, 1.5]])["medians"]
    [{'x': 144.5, 'y': 48.4, 'text': '2.5'}, {'x': 337.5, 'y': 111.65, 'text': '1.25'}]
    """
    columns = [_finite(column) for column in zip(*values, strict=True)] if values else []
    if not columns or not any(columns):
        return None
    guesses = [_finite(column) for column in zip(*placebo, strict=True)] if placebo else []
    every = [value for column in [*columns, *guesses] for value in column]
    height, left, bottom = 216, 48, 184
    y = axis([*every, *([0.0] if min(every) > 0 and min(every) < 0.5 * max(every) else [])], bottom, 14)
    step = (WIDTH - left - 26) / len(names)
    places = [round(left + step * (number + 0.5), 2) for number in range(len(names))]

    def line(row: Sequence[float | None]) -> list[tuple[float, float]]:
        pairs = zip(places, row, strict=True)
        return [(x, y(value)) for x, value in pairs if value is not None and math.isfinite(value)]

    medians = [(x, median(column)) for x, column in zip(places, columns, strict=True) if column]
    guessed = [(x, median(column)) for x, column in zip(places, guesses, strict=True) if column] if guesses else []
    return {
        "width": WIDTH,
        "height": height,
        "left": left,
        "bottom": bottom,
        "blocks": [drawn for row in values if (drawn := line(row))],
        "medians": [{"x": x, "y": y(value), "text": _number(value)} for x, value in medians],
        "placebo": [(x, y(value)) for x, value in guessed],
        "x": [{"x": x, "text": name} for x, name in zip(places, names, strict=True)],
        "y": [{"y": y(value), "text": text} for value, text in y.ticks(5)],
    }


def bars(numbers: Mapping[str, float]) -> Chart | None:
    """The paper's numbers, name -> number, as a line of dots on an axis of their own; names that are numbers in order.

    >>> [each["text"] for each in bars({"1": 0.8, "16": 0.5, "4": 0.7})["medians"]]
    ['0.8', '0.7', '0.5']
    """
    try:
        names = sorted(numbers, key=float)
    except ValueError:
        names = list(numbers)
    return levels(names, [[numbers[name] for name in names]]) if numbers else None


def figure(series: Sequence[Mapping[str, Any]], *, log: bool) -> Chart:
    """Lines, or dots with labels, in one pair of axes. Up to eight series look different without their colour, too.

    >>> chart = figure([{"name": "a", "points": [(0, 0), (1, 2), (2, 2)], "marked": [1]}], log=False)
    >>> len(chart["series"][0]["points"]), len(chart["series"][0]["marks"])
    (3, 1)
    """
    height, left, bottom = 260, 52, 226
    points = [point for each in series for point in each["points"]]
    x = axis([point[0] for point in points], left + 6, WIDTH - 14, pad=0.02)
    y = axis([point[1] for point in points], bottom, 14, log=log)
    return {
        "width": WIDTH,
        "height": height,
        "left": left,
        "bottom": bottom,
        "series": [
            {
                "name": each["name"],
                "points": [(x(a), y(b)) for a, b in each["points"]],
                "marks": _marks([(x(a), y(b)) for a, b in each["points"]], each),
                "dots": each.get("dots", False),
                "style": number % 4,
                "more": " more" if number % 8 >= 4 else "",
            }
            for number, each in enumerate(series)
        ],
        "x": [{"x": x(value), "text": text} for value, text in x.ticks(8)],
        "y": [{"y": y(value), "text": text} for value, text in y.ticks(6)],
    }


def specification(draws: Sequence[Mapping[str, Any]], margin: float | None) -> Chart | None:
    """The effects of all drawn settings in rising order, and below them which value each setting has; None without any.

    A setting without an effect stands at the right-hand end, on the zero line.
    """
    effects = [draw["effect"] for draw in draws if draw["effect"] is not None]
    if not effects:
        return None
    order = sorted(draws, key=lambda draw: (draw["effect"] is None, draw["effect"] or 0.0))
    left, top, bottom, row = 150, 12, 150, 13
    limits = [] if margin is None else [-margin, margin]
    y = axis([*effects, *limits, 0.0], bottom, top)
    step = (WIDTH - left - 10) / len(order)
    places = [round(left + step * (number + 0.5), 2) for number in range(len(order))]
    drawn = {(name, str(value)): value for draw in draws for name, value in draw["setting"].items()}
    values = sorted(drawn, key=lambda pair: (pair[0], _number_first(drawn[pair])))
    factors = sorted({factor for factor, _ in values})
    rows = [
        {
            "y": bottom + 22 + row * number,
            "text": f"{factor.rpartition('.')[2]} = {value}",
            "shaded": factors.index(factor) % 2 == 0,
            "marks": [x for x, draw in zip(places, order, strict=True) if str(draw["setting"].get(factor)) == value],
        }
        for number, (factor, value) in enumerate(values)
    ]
    return {
        "width": WIDTH,
        "height": bottom + 30 + row * len(rows),
        "left": left,
        "row": row,
        "points": [
            {"x": x, "y": y(draw["effect"] or 0.0), "label": draw["label"]}
            for x, draw in zip(places, order, strict=True)
        ],
        "lines": [{"y": y(0.0), "what": "zero"}, *({"y": y(each), "what": "margin"} for each in limits)],
        "y": [{"y": y(value), "text": text} for value, text in y.ticks(5)],
        "rows": rows,
    }


def _marks(places: Sequence[tuple[float, float]], series: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points of a series that have a mark, each with its label; points that nearly coincide share one label.

    A label stands to the right of its mark, or in the right half of the drawing to its left.
    """
    labels = series.get("labels", ())
    marks: list[dict[str, Any]] = []
    for index in series.get("marked", range(len(places))):
        x, y = places[index]
        mark = {"x": x, "y": y, "label": labels[index] if labels else "", "before": x > WIDTH / 2}
        near = [each for each in marks if each["label"] and abs(each["x"] - x) < 28 and abs(each["y"] - y) < 14]
        if mark["label"] and near:
            near[0]["label"], mark["label"] = f"{near[0]['label']}, {mark['label']}", ""
        marks.append(mark)
    return marks


def _finite(column: Sequence[float | None]) -> list[float]:
    return [value for value in column if value is not None and math.isfinite(value)]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", MINUS)


def _power(power: int) -> str:
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return {0: "1", 1: "10"}.get(power, f"10{digits}")


def _number_first(value: Any) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, and behind them everything else by its text."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)
