"""The ledger: entries are only added, and a row's history is what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gia.harness.decide.ledger import Entry, Ledger, LedgerError

ROOT = Path(__file__).parents[3]


def entry(kind: str = "changed", before: str = "", after: str = "", **changes: Any) -> Entry:
    """An entry on op.size."""
    fields = {"date": "2026-11-24", "rows": ("op.size",), "commit": "abc", "digest": "", "reason": "planted"}
    return Entry(**{**fields, "kind": kind, "before": before, "after": after, **changes})


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A ledger of three entries, and its witness."""
    both = tmp_path / "ledger.toml", tmp_path / "baselines" / "ledger.json"
    both[0].write_text("# A comment stays.\n", encoding="utf-8")
    Ledger(*both).append(
        entry("past", "", "inconclusive"),
        entry("past", "inconclusive", "supported", rows=("op.size", "op.depth"), reason='150 "steps"\nto 100 \\ µ'),
    )
    Ledger(*both).append(entry("opened", commit="f" * 40, digest="d1"))
    return both


def test_entries_are_read_as_they_were_added(paths: tuple[Path, Path]) -> None:
    """Quotes, line breaks or other letters of a reason would make the file unreadable."""
    found = Ledger(*paths).entries
    assert [each.kind for each in found] == ["past", "past", "opened"]
    assert found[1].rows == ("op.size", "op.depth")
    assert found[1].reason == '150 "steps"\nto 100 \\ µ'
    assert paths[0].read_text(encoding="utf-8").startswith("# A comment stays.\n")
    assert json.loads(paths[1].read_text(encoding="utf-8")) == [each.chain for each in found]


def edited(text: str) -> str:
    """Another outcome before."""
    return text.replace('before = "inconclusive"', 'before = "refuted"')


def moved(text: str) -> str:
    """The first two entries exchanged."""
    head, first, second, third = text.split("[[entry]]")
    return "[[entry]]".join([head, second, first, third])


def without_the_first(text: str) -> str:
    """The first entry gone."""
    head, _, second, third = text.split("[[entry]]")
    return "[[entry]]".join([head, second, third])


def without_the_last(text: str) -> str:
    """The last entry gone, which no later chain misses."""
    return "[[entry]]".join(text.split("[[entry]]")[:-1])


@pytest.mark.parametrize("change", [edited, moved, without_the_first, without_the_last])
def test_an_entry_cannot_change_move_or_vanish(paths: tuple[Path, Path], change: Any) -> None:
    """An unwelcome verdict could be taken out of the history."""
    text = paths[0].read_text(encoding="utf-8")
    assert change(text) != text
    paths[0].write_text(change(text), encoding="utf-8")
    with pytest.raises(LedgerError, match="expected"):
        Ledger(*paths)


FIELDS = 'kind = "past"\ncommit = ""\ndigest = ""\nbefore = ""\nafter = ""\nreason = "x"\nchain = ""\n'


@pytest.mark.parametrize(
    "text",
    [
        "entry = 1",
        "entry = [1]",
        "[entry]\nkind = 1",
        f"[[entry]]\ndate = 2026-11-24\nrows = ['a']\n{FIELDS}",
        f"[[entry]]\ndate = 'today'\nrows = [['a']]\n{FIELDS}",
        pytest.param(f"entry = {'[' * 20_000}{']' * 20_000}", id="deep"),
    ],
)
def test_a_malformed_ledger_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    """If it fails, a bad merge of the ledger ends a run in a TypeError or RecursionError that names no file."""
    path = tmp_path / "ledger.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LedgerError, match=r"ledger\.toml: .*"):
        Ledger(path, tmp_path / "ledger.json")


@pytest.mark.parametrize("text", ["{", "1", pytest.param("[" * 100_000, id="deep")])
def test_a_malformed_witness_is_an_error_that_names_the_file(paths: tuple[Path, Path], text: str) -> None:
    """If it fails, a bad merge of the witness ends a run in an error that names no file."""
    paths[1].write_text(text, encoding="utf-8")
    with pytest.raises(LedgerError, match=r"ledger\.json: expected a list of chains, got"):
        Ledger(*paths)


def test_an_entry_without_its_witness_is_refused(paths: tuple[Path, Path]) -> None:
    """A history that was rewritten with all of its chains would pass."""
    paths[1].write_text(json.dumps(json.loads(paths[1].read_text(encoding="utf-8"))[:-1]), encoding="utf-8")
    with pytest.raises(LedgerError, match=r"2 entries that .* lists, got 3"):
        Ledger(*paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ()}, "rows: expected at least one id"),
        ({"kind": "guessed"}, "kind: expected one of"),
        ({"reason": " "}, "reason: expected a sentence"),
    ],
)
def test_an_entry_names_its_rows_kind_and_reason(changes: dict[str, Any], message: str) -> None:
    """An entry that explains nothing would look like an explanation."""
    with pytest.raises(ValueError, match=message):
        entry(**changes)


def test_a_history_counts_protocols_and_names_outcomes_before_the_last(tmp_path: Path) -> None:
    """A reader of a verdict would not learn that there was another one before."""
    ledger = Ledger(tmp_path / "ledger.toml", tmp_path / "ledger.json")
    assert ledger.history("op.size") == ""
    ledger.append(entry("past", "", "inconclusive"))
    assert ledger.history("op.size") == ""  # a first run is no change
    ledger.append(entry("past", "inconclusive", "supported"), entry("rules"))
    assert ledger.history("op.size") == "protocol 3; earlier inconclusive, supported"
    ledger.append(entry("opened", commit="f" * 40), entry("confirmed", after="refuted"), entry("opened"))
    assert ledger.history("op.size") == "protocol 3; earlier inconclusive, supported, refuted; confirm run 2"
    assert ledger.history("op.depth") == ""
    assert ledger.history("op.size/2") == "protocol 4; earlier inconclusive, supported, refuted"


def test_a_change_of_a_row_ends_its_announcement(tmp_path: Path) -> None:
    """A row could be confirmed with a protocol that was made after the announcement."""
    ledger = Ledger(tmp_path / "ledger.toml", tmp_path / "ledger.json")
    ledger.append(entry("opened", commit="f" * 40))
    assert ledger.opened("op.size") is not None
    ledger.append(entry("confirmed", after="refuted"))
    assert ledger.opened("op.size") is not None
    assert not ledger.outdated("op.size")
    ledger.append(entry("changed"))
    assert ledger.opened("op.size") is None
    assert ledger.outdated("op.size")
    assert ledger.tries("op.size") == 1
    ledger.append(entry("opened", commit="e" * 40))
    assert not ledger.outdated("op.size")
    assert not ledger.outdated("op.depth")


def test_this_repositorys_ledger_is_as_it_was_written_and_holds_the_past() -> None:
    """What changed after a verdict was known could be forgotten."""
    ledger = Ledger(ROOT / "claims" / "ledger.toml", ROOT / "baselines" / "ledger.json")
    assert ledger.history("op.resolution").startswith("protocol ")
    # The rows whose outcome changed with the protocol, by git log -p claims/claims.toml.
    flipped = ("op.resolution", "thm1.empirical", "prop1.ordering", "gen_w.architecture", "gen_inv.same_labels")
    for id in flipped:
        assert ("inconclusive", "supported") in {(each.before, each.after) for each in ledger.of(id, "past")}
