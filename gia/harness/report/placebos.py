"""The matrix of placebos, row by placebo: no attacker that ignores the gradient may score, or support a claim."""

from __future__ import annotations

from collections.abc import Sequence

from gia.harness.report.rows import NOT_APPLICABLE, Row

#: It returns the truth at the first level, so what counts is only that no claim is supported.
SABOTEUR = "saboteur"


def broken(row: Row) -> str | None:
    """Why a row of a placebo run breaks the rule; None where it holds.

    A placebo must leak at most half the margin where the metric is a leak, and must support nothing, except what holds
    by construction.

    >>> row = {"placebo": "noise", "outcome": "inconclusive", "by_construction": None, "margin": 0.5}
    >>> broken({**row, "leak": 0.3, "leak_decides": True})
    'leaks 0.3, more than half the margin of 0.5'
    >>> broken({**row, "placebo": "saboteur", "leak": 40.0, "leak_decides": True})
    """
    if row["outcome"] == "supported" and not row["by_construction"]:
        return "supported without the gradient"
    leaks = row["leak_decides"] and row["leak"] is not None and row["leak"] > row["margin"] / 2
    if leaks and row["placebo"] != SABOTEUR:
        return f"leaks {row['leak']:.3g}, more than half the margin of {row['margin']:.3g}"
    return None


def matrix(rows: Sequence[Row]) -> str:
    """One line per claim, one column per placebo: the outcome with the largest median leak, and what breaks the rule.

    >>> row = {"id": "op.size", "outcome": "refuted", "by_construction": None, "leak": 0.0, "leak_decides": True}
    >>> print(matrix([{**row, "margin": 0.5, "placebo": "noise"}]))
    row      noise
    op.size  refuted, leak 0
    1 verdict of placebos: 0 break the rule
    """
    cells = {(row["placebo"], row["id"]): row for row in rows}
    names, ids = (list(dict.fromkeys(keys)) for keys in ((name for name, _ in cells), (id for _, id in cells)))
    table = [["row", *names]]
    table += [[id, *(_cell(cells.get((name, id))) for name in names)] for id in ids]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]
    wrong = [f"{id} under {name}: {why}" for (name, id), row in cells.items() if (why := broken(row))]
    given = sum(row["outcome"] != NOT_APPLICABLE for row in cells.values())
    lines.append(f"{given} {'verdict' if given == 1 else 'verdicts'} of placebos: {len(wrong)} break the rule")
    return "\n".join([*lines, *wrong])


def _cell(row: Row | None) -> str:
    if row is None:
        return "no verdict"
    text = row["outcome"] + (" by construction" if row["by_construction"] and row["outcome"] == "supported" else "")
    if row["leak"] is not None:
        text += f", leak {row['leak']:.3g}"
    return f"{text} (!)" if broken(row) else text
