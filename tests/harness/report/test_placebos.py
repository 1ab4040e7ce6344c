"""The matrix of placebo runs: what breaks the rule, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gia.harness.report.placebos import broken, main, matrix
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
        {
            "noise": [a_row(), a_row("gen_z.size", "supported", 0.1)],
            "blind": [a_row(outcome=NOT_APPLICABLE, leak=None)],
        }
    )
    lines = [line.split("  ") for line in text.splitlines()]
    assert [part.strip() for part in lines[1] if part] == ["op.size", "inconclusive, leak 0", "not applicable"]
    assert [part.strip() for part in lines[2] if part] == ["gen_z.size", "supported, leak 0.1 (!)", "no verdict"]
    assert "2 verdicts of placebos: 1 break the rule" in text
    assert "gen_z.size under noise: supported without the gradient" in text


@pytest.mark.parametrize(("outcome", "status"), [("refuted", 0), ("supported", 1)])
def test_a_broken_rule_ends_the_command_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: str, status: int
) -> None:
    """CI would stay green."""
    (tmp_path / "verdicts.json").write_text(json.dumps([a_row(outcome=outcome)]), encoding="utf-8")
    assert main([str(tmp_path)]) == status
    assert "op.size" in capsys.readouterr().out


def test_runs_of_another_kind_and_no_runs_are_refused(tmp_path: Path) -> None:
    """A matrix of nothing would pass."""
    assert main([]) == 1
    for rows in ([], [{"id": "op.size"}]):
        (tmp_path / "verdicts.json").write_text(json.dumps(rows), encoding="utf-8")
        with pytest.raises(SystemExit, match="expected the verdicts of a run with --placebo"):
            main([str(tmp_path)])
