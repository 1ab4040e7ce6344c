"""Rows of verdicts in words: what the terminal, Markdown and JSON say, and never say."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gia.harness.report import rows
from gia.harness.report.markdown import markdown
from gia.harness.report.rows import Row, Run
from gia.harness.report.text import terminal


def a_row(id: str = "op.batch_size", outcome: str = "supported", paper_says: str = "supported", **changes: Any) -> Row:
    """A row as `rows.row` makes it."""
    return {
        "id": id,
        "outcome": outcome,
        "paper_says": paper_says,
        "recorded": None,
        "disagrees": "",
        "notice": "",
        "by_construction": None,
        "history": "",
        "reach": None,
        "direction": "",
        "why": "",
        "statement": "Larger batches reconstruct worse.",
        "kind": "trend",
        "metric": "psnr",
        "effect": 1.93,
        "unit": "dB per doubling",
        "interval": [1.21, 2.62],
        "margin": 0.5,
        "blocks": 8,
        "void": 0,
        "cached": 0,
        "look": 1,
        "p": 0.001,
        "p_name": "Page",
        "source": "Fig. 3a",
        "paper": "SSIM .765 to .513",
        "measured": "PSNR 24.1 22.0 20.1 18.2 dB",
        "scale": "reduced",
        "seconds": 12.0,
        "tables": [],
        "pictures": [],
        "torch": "2.14.1",
        **changes,
    }


def a_run(*listed: Row, **changes: Any) -> Run:
    """A run with these rows."""
    return Run(scale="reduced", environment={"scale": "reduced", "torch": "2.14.1"}, rows=listed, **changes)


@pytest.mark.parametrize(
    ("outcome", "says", "words"),
    [
        ("supported", "supported", "supported"),
        ("refuted", "refuted", "refuted"),
        ("refuted", "supported", "refuted (paper: supported)"),
        ("supported", "refuted", "supported (paper: refuted)"),
        ("inconclusive", "supported", "inconclusive (paper: supported)"),
        ("inconclusive", "nothing", "inconclusive"),
    ],
)
def test_an_outcome_reads_with_what_the_paper_says(outcome: str, says: str, words: str) -> None:
    """A reader could not tell where this project and the paper differ."""
    row = a_row(outcome=outcome, paper_says=says)
    assert rows.outcome(row) == words
    assert f" {words}:" in terminal(a_run(row))
    assert f"| {words} |" in markdown(a_run(row))


def test_only_a_contradicted_record_marks_a_row() -> None:
    """A refuted claim would look like a failure, or a verdict that changed like a success."""
    refuted, changed = (
        a_row(outcome="refuted"),
        a_row(disagrees="op.batch_size: supported on record (claims), now refuted"),
    )
    assert terminal(a_run(refuted)).startswith("ok ")
    assert terminal(a_run(changed)).startswith("NOT")
    assert "supported on record (claims), now refuted" in terminal(a_run(changed))
    assert "**supported**" in markdown(a_run(changed))


def test_a_verdict_stands_beside_its_record_reach_and_history() -> None:
    """A verdict of the median setting would be read as one of all settings, or as the first that was reached."""
    holds = {"count": 18, "share": 0.75, "interval": [0.46, 0.93], "of_live": 0.9}
    none = {"count": 0, "share": 0.0, "interval": [0.0, 0.2], "of_live": 0.0}
    row = a_row(
        recorded={"outcome": "supported", "commit": "ab12"},
        reach={"holds": holds, "reversed": none},
        history="protocol 3; earlier inconclusive, supported",
        by_construction="algebra",
    )
    for text in (terminal(a_run(row), width=200), markdown(a_run(row))):
        assert "record: supported (ab12)" in text
        assert "reach: holds 75 % [46, 93] of all settings, 90 % of live ones" in text
        assert "reversed" not in text
        assert "history: protocol 3; earlier inconclusive, supported" in text
        assert "supported (by construction)" in text


def test_a_certain_direction_without_a_size_is_said() -> None:
    """An inconclusive size would hide a direction that is beyond doubt."""
    assert rows.outcome(a_row(outcome="inconclusive", direction="certain", paper_says="nothing")) == (
        "inconclusive (direction certain, size not)"
    )


def test_rows_by_construction_are_counted_apart_and_rows_that_share_blocks_as_one_family() -> None:
    """Algebra, and one experiment that is asked twice, would count as evidence."""

    def tables(*experiments: str) -> list[dict[str, Any]]:
        return [
            {
                "experiment": name,
                "levels": [],
                "medians": {},
                "void": {},
                "controls": {},
                "behind": {},
                "seconds_per_look": [0.0],
            }
            for name in experiments
        ]

    listed = [
        a_row("a", tables=tables("x")),
        a_row("b", tables=tables("y")),
        a_row("c", outcome="refuted", tables=tables("x", "z")),
        a_row("d", tables=tables("z", "y")),
        a_row("e"),
        a_row("f", by_construction="algebra", tables=tables("x")),
    ]
    assert rows.families(listed[:3]) == [{"b"}, {"a", "c"}]
    assert {frozenset(family) for family in rows.families(listed[:5])} == {frozenset("abcd"), frozenset("e")}
    said = "5 verdicts in 2 families: 4 supported, 1 refuted, 0 inconclusive; and 1 by construction: 1 supported"
    assert said in terminal(a_run(*listed))
    assert said in markdown(a_run(*listed))


def test_the_terminal_table_shows_effect_interval_margin_blocks_and_both_numbers() -> None:
    """A reader could not judge the verdict, or would take our numbers for the paper's."""
    text = terminal(a_run(a_row(void=2, cached=3, look=2)))
    for part in ("+1.93", "[+1.21, +2.62]", "dB per doubling", "margin 0.5", "8 blocks, 2 void, 3 cached, second look"):
        assert part in text
    assert "paper: SSIM .765 to .513  [Fig. 3a]" in text
    assert "here, reduced: PSNR 24.1 22.0 20.1 18.2 dB" in text


def test_metrics_that_do_not_decide_void_blocks_and_further_looks_are_shown() -> None:
    """A metric could be chosen afterwards; nobody would know why blocks are missing, or where the time went."""
    table = {
        "experiment": "op.batch_size",
        "levels": ["1", "2"],
        "medians": {"psnr": [24.0, 22.0], "ssim": [0.8123, 0.7], "lpips": [None, None]},
        "void": {"3": "failed: PSNR 9.10 dB against 11.00 dB blind"},
        "void_shares": {"batch.data": {"faces": [1, 3], "photos": [0, 5]}},
        "controls": {"ambiguous": 3, "not found": 5},
        "behind": {"images": 21, "shared attackers": 0},
        "seconds": 90.0,
        "seconds_per_look": [49.0, 30.0, 11.0],
    }
    row = a_row(tables=[table])
    for text in (terminal(a_run(row), width=200), markdown(a_run(row))):
        assert "shown, op.batch_size at 1/2: ssim 0.812/0.7, lpips n/a" in text
        assert "void block 3: failed: PSNR 9.10 dB against 11.00 dB blind" in text
        assert 'conditional on "the path works"; void of drawn: batch.data faces 1/3' in text
        assert "searches of the controls, 8 in all: 3 ambiguous, 5 not found" in text
        assert "behind it: 8 blocks, each with its own victim; 21 images" in text
        assert "0 shared attackers" not in text
        assert "further looks added, in seconds of computing: op.batch_size 41 s" in text


def test_further_levels_of_a_pair_show_the_metric_that_decides() -> None:
    """The numbers that tell why a pair differs would be in no report."""
    table = {
        "experiment": "toy",
        "medians": {"psnr": [20.0, 12.5, 15.0]},
        "void": {},
        "controls": {},
        "behind": {},
        "seconds_per_look": [0.0],
    }
    row = a_row(kind="paired", tables=[{**table, "levels": ["strong", "none", "weak"]}])
    assert "psnr 20/12.5/15" in terminal(a_run(row))
    pair = a_row(kind="paired", tables=[{**table, "levels": ["strong", "none"], "medians": {"psnr": [20.0, 12.5]}}])
    assert "psnr 20/12.5" not in terminal(a_run(pair))


def test_rows_without_a_test_are_named_as_not_covered_in_groups() -> None:
    """A row that nothing measures would pass unseen."""
    text = terminal(a_run(a_row(), not_covered=["gen_z.batch_size", "gen_z.noise", "prop1"]))
    assert "not covered (no test yet): 3 rows: gen_z.{batch_size,noise} prop1" in text
    assert "passed" not in text
    assert "skip" not in text


def test_a_partial_run_does_not_claim_to_know_what_is_not_covered() -> None:
    """With -k, every row that was left out would be called untested."""
    text = terminal(a_run(a_row(), not_covered=None))
    assert "not covered (" not in text
    assert "selected a part" in text


def test_a_test_without_a_verdict_is_listed_as_such() -> None:
    """A crash would leave no trace in the table."""
    run = a_run(without_verdict={"op.fedavg": "its test failed"})
    assert "NOT op.fedavg: no verdict, its test failed" in terminal(run)
    assert "**no verdict** on `op.fedavg`: its test failed" in markdown(run)


def test_markdown_is_one_table_whose_cells_cannot_break_it() -> None:
    """A bar or a line break in a statement would shift every column after it."""
    text = markdown(
        a_run(a_row(statement="a | b\nc"), a_row(id="thm1.printed", effect=None, interval=None, margin=None))
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.replace("\\|", "").count("|") for line in table} == {8}
    assert "at reduced scale" in text


def test_markdown_shows_the_pictures_of_a_row() -> None:
    """Reconstructions would be drawn and never seen."""
    text = markdown(a_run(a_row(pictures=["images/op.batch_size.png"])))
    assert "![op.batch_size](images/op.batch_size.png)" in text


def test_json_is_a_list_of_rows_and_refuses_what_json_cannot_hold() -> None:
    """NaN is not JSON: another reader would fail on the file, or read a hole as a number."""
    assert json.loads(rows.to_json([a_row()]))[0]["interval"] == [1.21, 2.62]
    with pytest.raises(ValueError, match="JSON"):
        rows.to_json([a_row(effect=math.nan)])


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("trend", "+1.93 [+1.21, +2.62]"), ("equivalence", "+1.93 [+1.21, +2.62]"), ("count", "1.93 [1.21, 2.62]")],
)
def test_an_effect_has_a_sign_only_for_kinds_whose_sign_means_something(kind: str, shown: str) -> None:
    """A plus before a counted number would read as a difference from the claimed one."""
    for text in (terminal(a_run(a_row(kind=kind))), markdown(a_run(a_row(kind=kind)))):
        assert f" {shown} dB per doubling" in text
    assert "positive in the claimed direction" in markdown(a_run(a_row(kind=kind)))


def test_reports_are_made_without_the_test_tools() -> None:
    """In a fresh process. If it fails, an audit that is no test needs pytest and hypothesis for its report."""
    code = """
import sys
sys.modules["pytest"] = sys.modules["hypothesis"] = None
from gia.harness.report import markdown, rows, text
run = rows.Run("small", {}, [])
assert text.terminal(run) and markdown.markdown(run)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=Path(__file__).parents[3], check=True)
