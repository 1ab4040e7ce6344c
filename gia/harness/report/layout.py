"""How a report is arranged: plain data that a project hands to the harness, which knows nothing of what is measured.

The option `claims_report` of pytest names a module with a function `layout(root) -> Layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Cell(TypedDict):
    """One cell of a matrix: its entry in the paper, and the rows that measure it, the most important first."""

    mark: str
    rows: Sequence[str]


class Matrix(TypedDict):
    """A table of the paper that rows measure again.

    Attributes:
        title: such as "Table I".
        text: what a mark means, in a sentence.
        rows: key -> name and note of each line.
        columns: key -> name.
        cells: key of the line -> key of the column -> cell.
    """

    title: str
    text: str
    rows: Mapping[str, tuple[str, str]]
    columns: Mapping[str, str]
    cells: Mapping[str, Mapping[str, Cell]]


class Series(TypedDict, total=False):
    """A line of a figure, or dots without a line.

    Attributes:
        labels: the names of the points, in their order.
        dots: whether there is no line.
        marked: indices of the points that have a mark; all of them without it.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str]
    dots: bool
    marked: Sequence[int]


class Figure(TypedDict):
    """A drawing with one pair of axes; `log` asks for a logarithmic vertical axis."""

    title: str
    text: str
    x: str
    y: str
    log: bool
    series: Sequence[Series]


class Group(TypedDict, total=False):
    """A part of the report: the rows whose id begins with one of `prefixes`, and its figures.

    `short` is its name in the list of parts at the top, where it is left out without one.
    """

    title: str
    short: str
    text: str
    prefixes: Sequence[str]
    figures: Sequence[Figure]


class Inconsistency(TypedDict):
    """Where the paper disagrees with itself.

    Attributes:
        paper: what stands there.
        rows: ids that it concerns.
        numbers: where they are printed -> the numbers, as text.
        measured: what was found here; may be empty.
    """

    title: str
    paper: str
    rows: Sequence[str]
    numbers: Mapping[str, str]
    measured: str


class Layout(TypedDict, total=False):
    """All of it. `title` is the report's heading, and `text` the sentence below it."""

    title: str
    text: str
    matrix: Matrix
    groups: Sequence[Group]
    inconsistencies: Sequence[Inconsistency]


def group_of(id: str, groups: Sequence[Mapping[str, Any]]) -> int | None:
    """Which group a row belongs to, by the longest of the prefixes that fit; None if there is none.

    A prefix fits an id that is the prefix, or goes on with a dot or a slash behind it.

    >>> groups = [{"prefixes": ["op"]}, {"prefixes": ["op.size"]}]
    >>> group_of("op.size/2", groups), group_of("op.sizes", groups), group_of("opening", groups)
    (1, 0, None)
    """
    fitting = [
        (len(prefix), number)
        for number, group in enumerate(groups)
        for prefix in group.get("prefixes", ())
        if id == prefix or id.startswith((f"{prefix}.", f"{prefix}/"))
    ]
    return max(fitting)[1] if fitting else None
