"""The report on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gia.harness.report.rows import (
    Run,
    attention,
    blocks,
    effect,
    other_metrics,
    outcome,
    remarks,
    standing,
    summary,
    with_and_without,
)

#: The end of a run takes at most this number of lines unless all is asked for.
MOST_LINES = 60

#: Outcome -> its sign in the matrix, and its colour on a terminal (SGR).
_SIGNS = {"supported": ("+", "32"), "refuted": ("-", "31"), "inconclusive": ("~", "33")}
_LEGEND = "+ supported, - refuted, ~ inconclusive, . no verdict; [ ] this run's, else the one on record"
_SEVERAL = "a cell with several signs: one for each row that measures it, the most important first"


@dataclass(frozen=True)
class Closing:
    """How a run ends on the terminal.

    Attributes:
        matrix: the table of the paper that rows measure (`gia.harness.report.layout.Matrix`); None without one.
        recorded: claim id -> its outcome on record.
    """

    run: Run
    matrix: Mapping[str, Any] | None = None
    recorded: Mapping[str, str] | None = None

    def text(self, width: int = 100, *, verbose: bool = False, coloured: bool = False) -> str:
        """Every row where `verbose`, or where they fit in `MOST_LINES`; then the matrix and what needs attention.

        >>> print(Closing(Run("small", {}, [], without_verdict={"op.size": "its test failed"}, not_covered=[])).text())
        NOT op.size: no verdict, its test failed
        Every row of the register has a test.
        """
        matrix = [] if self.matrix is None else self._matrix(width, coloured)
        whole = terminal(self.run, width).split("\n")
        noted = self._attention(width) if len(whole) > MOST_LINES // 2 else []
        if verbose or len(whole) + len(matrix) + len(noted) <= MOST_LINES:
            return "\n".join([*whole, *matrix, *noted])
        said = [f"{row['id']}: {with_and_without(row)}" for row in self.run.rows if row.get("without")]
        for text in (summary(self.run.rows) if self.run.rows else "", *remarks(self.run), *self._baselines()):
            said += textwrap.wrap(text, width, subsequent_indent="    ", max_lines=3) if text else []
        room = MOST_LINES - len(matrix) - 2
        noted = self._attention(width)
        said = _cut(said, max(room - len(noted), 8), "lines")
        noted = _cut(noted, room - len(said), "rows")
        return "\n".join([*said, *matrix, *noted, "all rows: -v, or the report below"])

    def _matrix(self, width: int, coloured: bool) -> list[str]:
        if self.matrix is None:
            return []
        return ["", *matrix_lines(self.matrix, self._now, self.recorded or {}, width=width, coloured=coloured)]

    @property
    def _now(self) -> dict[str, str]:
        return {row["id"]: row["outcome"] for row in self.run.rows}

    def _attention(self, width: int) -> list[str]:
        """One line for each row that needs attention."""
        lines = [f"NOT {name}: no verdict, {why}" for name, why in self.run.without_verdict.items()]
        lines += [f"NOT {row['id']}: {row['disagrees']}" for row in self.run.rows if row["disagrees"]]
        lines += [f"see {text}" for row in self.run.rows if not row["disagrees"] for text in attention(row)]
        return [textwrap.shorten(line, max(width, 40), placeholder=" ...") for line in lines]

    def _baselines(self) -> list[str]:
        number = len(self.run.baselines)
        return [f"{number} comparisons with stored baselines"] if number else []


def terminal(run: Run, width: int = 100) -> str:
    """The verdicts as text: for each row the verdict, then the paper's numbers and ours.

    >>> print(terminal(Run("small", {}, [], without_verdict={"op.size": "its test failed"}, not_covered=[])))
    NOT op.size: no verdict, its test failed
    Every row of the register has a test.
    """
    longest = max((len(row["id"]) for row in run.rows), default=0)
    lines = []
    for row in run.rows:
        mark = "NOT" if row["disagrees"] else "ok "
        verdict = ": ".join(filter(None, (outcome(row), effect(row))))
        lines.append(f"{mark} {row['id']:<{longest}}  {verdict}; {blocks(row)}")
        paper, here = f"paper: {row['paper']}  [{row['source']}]", f"here, {run.scale}: {row['measured']}"
        for text in (paper, here, *standing(row), *other_metrics(row)):
            lines += textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="        ")
    lines += [f"NOT {name}: no verdict, {why}" for name, why in run.without_verdict.items()]
    lines += [summary(run.rows)] if run.rows else []
    for text in (*remarks(run), *(f"baseline {text}" for text in run.baselines)):
        lines += textwrap.wrap(text, width, subsequent_indent="    ") if text else [""]
    return "\n".join(lines)


def matrix_lines(
    matrix: Mapping[str, Any],
    now: Mapping[str, str],
    recorded: Mapping[str, str],
    *,
    width: int = 100,
    coloured: bool = False,
) -> list[str]:
    """The matrix: what the paper says in each cell, where it is short, and a sign for each row that measures it.

    Args:
        matrix: a `gia.harness.report.layout.Matrix`. A line has its key, and its name where there is room.
        now: claim id -> its outcome in this run.
        recorded: claim id -> its outcome on record.
        width: of the terminal; a wide matrix has less space between its columns.
        coloured: whether the terminal shows colours.

    >>> cells = {"op": {"size": {"mark": "yes", "rows": ["op.size", "op.size_too"]}}}
    >>> table = {"title": "Table I", "rows": {"op": ("Optimization", "IG")}, "columns": {"size": "batch size"}}
    >>> lines = matrix_lines({**table, "cells": cells}, {"op.size": "supported"}, {"op.size_too": "refuted"})
    >>> print("\\n".join(lines[1:4]))
                      batch
                      size
    op: Optimization  yes [+]-
    """
    table = []  # cells as (text, the same with colours)
    for key in matrix["rows"]:
        cells = [matrix["cells"][key][column] for column in matrix["columns"]]
        table.append([_cell(cell["mark"], cell["rows"], now, recorded, coloured) for cell in cells])
    heads = [name.split() for name in matrix["columns"].values()]
    widths = [
        max(len(text) for text in (*(line[number][0] for line in table), *head)) for number, head in enumerate(heads)
    ]
    names, gap = _fitting({key: name for key, (name, _) in matrix["rows"].items()}, widths, width)
    height = max(map(len, heads))
    padded = [[""] * (height - len(head)) + head for head in heads]
    lines = [matrix["title"]]
    for level in range(height):
        texts = (head[level].ljust(width) for head, width in zip(padded, widths, strict=True))
        lines.append(f"{'':<{len(names[0])}}{gap}{gap.join(texts)}".rstrip())
    for name, line in zip(names, table, strict=True):
        texts = (shown + " " * (width - len(plain)) for (plain, shown), width in zip(line, widths, strict=True))
        lines.append(f"{name}{gap}{gap.join(texts)}".rstrip())
    several = any(len(cell["rows"]) > 1 for columns in matrix["cells"].values() for cell in columns.values())
    return [*lines, _LEGEND, *([_SEVERAL] if several else [])]


def _cell(
    mark: str, rows: Sequence[str], now: Mapping[str, str], recorded: Mapping[str, str], coloured: bool
) -> tuple[str, str]:
    """One cell without and with colours."""
    mark = mark if len(mark) <= 4 else ""
    signs = [_sign(now.get(id), recorded.get(id)) for id in rows]
    plain = " ".join(filter(None, (mark, "".join(text for text, _ in signs))))
    painted = " ".join(filter(None, (mark, "".join(f"\x1b[{colour}m{text}\x1b[0m" for text, colour in signs))))
    return plain, painted if coloured else plain


def _fitting(rows: Mapping[str, str], widths: Sequence[int], width: int) -> tuple[list[str], str]:
    """What stands before each line, padded, and the space between columns: the roomiest that fits, or the tightest.

    Args:
        rows: key -> name of each line.
    """
    both, keys = [f"{key}: {name}" for key, name in rows.items()], list(rows)
    for shown, gap in ((both, "  "), (keys, "  "), (keys, " ")):
        first = max(map(len, shown))
        if first + sum(widths) + len(gap) * len(widths) <= width:
            break
    return [name.ljust(first) for name in shown], gap


def _sign(now: str | None, recorded: str | None) -> tuple[str, str]:
    """The sign of a row and its colour; this run's are bold."""
    sign, colour = _SIGNS.get(now or recorded or "", (".", "2"))
    return (f"[{sign}]", f"1;{colour}") if now else (sign, colour)


def _cut(lines: Sequence[str], most: int, what: str) -> list[str]:
    """The first of these lines, and how many more there are."""
    return list(lines) if len(lines) <= most else [*lines[: most - 1], f"... and {len(lines) - most + 1} more {what}"]
