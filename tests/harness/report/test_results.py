"""docs/results.md: what it says of rows with and without records, and that it is made from the files of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gia.harness.decide.ledger import Entry, Ledger
from gia.harness.decide.register import Claim, Register
from gia.harness.report.results import from_files, results

ROOT = Path(__file__).parents[3]

COMMON = ("trend", "leak", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
RECORD = {"outcome": "supported", "effect": 2.0, "interval": [1.5, 2.5], "unit": "dB", "blocks": 16}
SHARES = {"holds": {"count": 18, "share": 0.75, "interval": [0.46, 0.93], "of_live": 0.9}}
REACH = {
    "shares": SHARES,
    "stability": {"settings": 16, "changed": 3},
    "factor": {"factor": "victim.activation", "p": 0.001, "medians": {"relu": 2.0, "silu": 0.1}},
    "unit": "dB",
}


def line_of(id: str, tmp_path: Path, **records: Any) -> str:
    """The line of a row in a document about three rows."""
    claims = [
        Claim("op.size", "More is worse.", *COMMON),
        Claim("op.depth", "Deeper is worse.", *COMMON, paper_says="nothing"),
        Claim("gen_z.label", "The label is right.", *COMMON, by_construction="the label is given"),
    ]
    ledger = Ledger(tmp_path / "ledger.toml", tmp_path / "ledger.json")
    ledger.append(Entry("2026-11-24", ("op.size",), "past", "abc", "", "inconclusive", "supported", "fewer steps"))
    given = {"confirm": {}, "claims": {}, "reached": {}, **records}
    text = results(Register(("reduced", "paper"), claims), ledger, **given)
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{id}`")]
    return f"{text.split('| claim')[0]}{line}"


def test_a_row_shows_its_confirmed_verdict_first_look_reach_and_history(tmp_path: Path) -> None:
    """The published table would say less than what is known."""
    first = {**RECORD, "outcome": "inconclusive", "interval": [-0.5, 2.5], "blocks": 8}
    text = line_of(
        "op.size", tmp_path, confirm={"op.size": RECORD}, claims={"op.size": first}, reached={"op.size": REACH}
    )
    assert "| **supported** +2 [+1.5, +2.5] dB (margin 0.5), 16 blocks | **inconclusive** +2 [-0.5, +2.5]" in text
    assert "holds 75 % [46, 93] of all settings, 90 % of live ones" in text
    assert "victim.activation moves it most (relu +2, silu +0.1 dB, p = 0.001)" in text
    assert "3 of 16 settings change when drawn again" in text
    assert "protocol 2; earlier inconclusive |" in text
    assert "Confirmed: 1 supported, 0 refuted, 0 inconclusive, without the 1 that hold by construction." in text
    assert "2 are not confirmed yet" in text


def test_a_factor_is_named_only_if_its_p_is_small(tmp_path: Path) -> None:
    """The largest of ten factors always looks as if it mattered."""
    chance = {**REACH, "factor": {**REACH["factor"], "p": 0.02}}
    assert "moves it most" not in line_of("op.size", tmp_path, reached={"op.size": chance})


def test_rows_without_records_say_so(tmp_path: Path) -> None:
    """An empty cell would be read as nothing to report."""
    text = line_of("gen_z.label", tmp_path)
    assert "*By construction: the label is given* | not confirmed yet | never run | supported | - | - |" in text
    assert "At paper scale every row was never run." in text


def test_this_repositorys_document_is_what_its_records_give() -> None:
    """Numbers could be edited by hand, or be left behind by a new record. If it fails: the command in the document."""
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == from_files(ROOT)
