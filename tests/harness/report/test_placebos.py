"""The matrix of placebos: what breaks the rule."""

from __future__ import annotations

from typing import Any

import pytest

from gia.harness.report.placebos import broken, matrix
from gia.harness.report.rows import NOT_APPLICABLE, Row


def a_row(id: str = "op.size", outcome: str = "inconclusive", leak: float | None = 0.0, **changes: Any) -> Row:
    """What the matrix reads of a row of a run with a placebo."""
    facts = {"placebo": "noise", "by_construction": None, "margin": 0.5, "leak_decides": True}
    return {"id": id, "outcome": outcome, "leak": leak, **facts, **changes}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (a_row(), None),
        (a_row(leak=0.25), None),  # exactly half the margin
        (a_row(leak=0.26), "leaks 0.26"),
        (a_row(leak=0.26, leak_decides=False), None),
        (a_row(leak=60.0, placebo="saboteur"), None),  # its first level returns the truth
        (a_row(outcome="supported"), "supported"),
        (a_row(outcome="supported", placebo="saboteur"), "supported"),
        (a_row(outcome="supported", by_construction="the label is given"), None),
        (a_row(outcome="supported", by_construction="algebra", leak=9.0), "leaks 9"),
        (a_row(outcome="refuted"), None),
        (a_row(outcome=NOT_APPLICABLE, leak=None, margin=None), None),
    ],
)
def test_a_placebo_may_neither_leak_nor_support(row: Row, why: str | None) -> None:
    """A verdict would be reached without the gradient, and nobody would see it."""
    found = broken(row)
    assert (found is None) == (why is None)
    assert why is None or why in str(found)


def test_the_matrix_has_a_cell_for_every_row_and_placebo_and_names_what_is_broken() -> None:
    """A row that a placebo never met would look as if it had passed."""
    text = matrix(
        [
            a_row(),
            a_row("gen_z.size", "supported", 0.1),
            a_row(outcome=NOT_APPLICABLE, leak=None, placebo="blind"),
        ]
    )
    lines = [line.split("  ") for line in text.splitlines()]
    assert [part.strip() for part in lines[1] if part] == ["op.size", "inconclusive, leak 0", "not applicable"]
    assert [part.strip() for part in lines[2] if part] == ["gen_z.size", "supported, leak 0.1 (!)", "no verdict"]
    assert "2 verdicts of placebos: 1 break the rule" in text
    assert "gen_z.size under noise: supported without the gradient" in text
