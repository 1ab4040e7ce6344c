"""How a run ends on the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from claims.report import layout
from gia.harness.decide.record import FIRST
from gia.harness.report.rows import Run
from gia.harness.report.text import MOST_LINES, Closing, matrix_lines
from tests.harness.report.run_folder import LAYOUT, a_verdict

ROOT = Path(__file__).parents[3]


def a_run(number: int, **changes: Any) -> Run:
    """A run with a number of rows."""
    rows = [a_verdict(f"op.row{index}", history="", by_construction=None) for index in range(number)]
    return Run("reduced", {}, rows, not_covered=[], **changes)


def test_a_long_run_ends_within_sixty_lines_and_says_how_to_see_all() -> None:
    """The end of a run of 84 rows had 477 lines, of which nobody reads the first."""
    failed = {f"gen.row{index}": "its test failed" for index in range(100)}
    run = a_run(84, without_verdict=failed, notices=[f"notice {index} " + "word " * 100 for index in range(50)])
    text = Closing(run, LAYOUT["matrix"]).text(100)
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert lines[-1] == "all rows: -v, or the report below"
    assert "84 verdicts in 84 families" in text
    assert "Table I" in lines
    assert "NOT gen.row0: no verdict, its test failed" in lines
    assert re.search(r"\.\.\. and \d+ more rows", text)
    assert max(map(len, lines)) <= 100
    assert max(map(len, Closing(a_run(84)).text(60).splitlines())) <= 60


@pytest.mark.parametrize("number", range(0, 12))
def test_no_run_ends_in_more_than_sixty_lines(number: int) -> None:
    """Rows without a verdict would be listed twice, and push the summary off the screen."""
    failed = {f"gen.row{index}": "its test did not run to its end" for index in range(2 * number)}
    text = Closing(a_run(number, without_verdict=failed), LAYOUT["matrix"]).text(100)
    assert len(text.splitlines()) <= MOST_LINES
    assert "NOT gen.row0: no verdict, its test did not run to its end" in text or not failed


def test_all_rows_are_shown_when_asked_for_and_where_they_fit() -> None:
    """Details of a row that is being worked on would need another option."""
    long = Closing(a_run(84), LAYOUT["matrix"])
    assert "op.row83" not in long.text(100)
    assert "op.row83" in long.text(100, verbose=True)
    assert "op.row1" in Closing(a_run(2), LAYOUT["matrix"]).text(100)


def test_a_row_with_a_users_attack_stands_beside_its_record_in_a_long_run_too() -> None:
    """Whether an attack does better than the paper's would be a search through a second file."""
    rows = [a_verdict(f"op.row{index}", without=None) for index in range(40)]
    rows[3] |= {"without": {"outcome": "refuted", "effect": -1.25}}
    said = "without it: -1.25 dB, refuted (on record); with it: +2 dB, supported"
    for verbose in (False, True):
        text = Closing(Run("reduced", {}, rows, not_covered=[])).text(100, verbose=verbose)
        assert [line.split("op.row3: ")[-1].strip() for line in text.splitlines() if "without it" in line] == [said]


def test_the_matrix_comes_last_and_what_needs_attention_behind_it() -> None:
    """After hundreds of lines, what matters must be where the eye is."""
    rows = [a_verdict(f"op.row{index}") for index in range(40)]
    rows[3] |= {"disagrees": "op.row3: refuted on record (confirm), now supported"}
    rows[4] |= {"notice": "op.row4: refuted on record (claims), now supported on the same blocks"}
    rows[5] |= {"notice": FIRST}
    text = Closing(Run("reduced", {}, rows, not_covered=[]), LAYOUT["matrix"]).text(100, verbose=True)
    assert text.splitlines()[-2:] == [
        "NOT op.row3: op.row3: refuted on record (confirm), now supported",
        "see op.row4: refuted on record (claims), now supported on the same blocks",
    ]


def test_a_sign_says_whether_it_is_this_runs() -> None:
    """A verdict on record would pass for one of this run."""
    now, recorded = (
        {"op.size": "supported"},
        {"op.size": "refuted", "op.size_too": "refuted", "gen.size": "inconclusive"},
    )
    lines = matrix_lines(LAYOUT["matrix"], now, recorded)
    assert lines[-1] == "a cell with several signs: one for each row that measures it, the most important first"
    assert lines[1:-2] == [
        "                  batch",
        "                  size      depth",
        "op: Optimization  yes [+]-  no .",
        "gen: Generation   no ~      yes .",
    ]


def test_colours_are_added_to_the_signs_and_move_nothing() -> None:
    """A table with colours would have crooked columns, or a log would be full of control characters."""
    now, recorded = {"op.size": "supported", "op.depth/2": "refuted"}, {"gen.size": "inconclusive"}
    plain = matrix_lines(LAYOUT["matrix"], now, recorded)
    painted = matrix_lines(LAYOUT["matrix"], now, recorded, coloured=True)
    assert "\x1b[1;32m[+]\x1b[0m" in painted[3]
    assert "\x1b[33m~\x1b[0m" in painted[4]
    assert [re.sub("\x1b\\[[0-9;]*m", "", line) for line in painted] == plain
    assert "\x1b" not in "".join(plain)


def test_the_matrix_of_this_register_fits_a_hundred_columns() -> None:
    """Its lines would be broken in two, and no column could be followed."""
    matrix = layout(ROOT)["matrix"]
    wide, narrow = (matrix_lines(matrix, {"op.fedavg": "supported"}, {}, width=width) for width in (200, 100))
    assert max(map(len, narrow)) <= 100
    assert any(line.startswith("op: OP-GIA ") for line in wide)
    assert any(line.startswith("op  ") for line in narrow)
