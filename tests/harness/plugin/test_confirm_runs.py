"""Confirm runs: announced in the ledger, of code under git, and held to more than a first look."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gia.harness.decide.ledger import Entry, Ledger
from gia.harness.plugin.lanes import Lane
from gia.harness.report.results import from_files
from tests.harness.plugin.inner_project import CONFIRM, RECORD, Inner, announce, row, set_slope, trend

pytest_plugins = ["pytester"]


def confirm_folder(inner: Inner) -> Path:
    """The folder of the last confirm run."""
    return max((inner.path / ".gia" / "runs").glob("*-confirm"))


def test_a_confirm_run_is_announced_first_then_run_once(inner: Inner) -> None:
    """A verdict could be taken from the blocks that happened to be kind, or be tried until it fits."""
    inner.write(row("toy.a"), row("toy.b"), tests=trend("toy.a") + trend("toy.b", 0.0))
    inner.commit()
    unannounced = inner.run(CONFIRM)
    unannounced.assert_outcomes(skipped=2)
    unannounced.stdout.fnmatch_lines(["NOT toy.a: no verdict, not confirmed yet: no run was announced*"])

    frozen = announce(inner)
    assert inner.computed == []
    assert [(entry["kind"], entry["rows"], entry["commit"]) for entry in inner.ledger] == [
        ("opened", ["toy.a"], frozen),
        ("opened", ["toy.b"], frozen),
    ]
    inner.run(CONFIRM, "-k", "toy_a").assert_outcomes(passed=1, deselected=1)
    assert inner.records("confirm")["toy.a"]["outcome"] == "supported"
    assert inner.records("confirm")["toy.a"]["frozen"] == frozen
    assert (inner.ledger[-1]["kind"], inner.ledger[-1]["after"]) == ("confirmed", "supported")

    before = len(inner.computed)
    resumed = inner.run(CONFIRM)  # the working tree has what the first run wrote, and nothing else
    resumed.assert_outcomes(passed=1, skipped=1)
    assert inner.records("confirm")["toy.b"]["outcome"] == "refuted"
    assert not [line for line in inner.computed[before:] if line.startswith("toy.a")]
    inner.commit()
    inner.run(CONFIRM, "--gia-open")
    assert len(inner.ledger) == 4  # nothing is left to announce
    inner.run(CONFIRM).assert_outcomes(skipped=2)


def test_the_salt_of_confirm_blocks_is_that_of_the_frozen_commit_and_the_claim() -> None:
    """Whoever knows the blocks could choose a setting for them."""
    expected = hashlib.sha256(f"{'a' * 40} op.size".encode()).hexdigest()
    assert Lane("confirm").of_blocks("op.size", "a" * 40) == f"confirm:{expected}"
    with pytest.raises(ValueError, match="frozen: expected the commit"):
        Lane("confirm").of_blocks("op.size", None)


def test_another_confirm_run_of_a_row_is_another_try(inner: Inner) -> None:
    """A row could be run again until it fits."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    inner.run(CONFIRM)
    first = inner.records("confirm")["toy.a"]["digest"]
    set_slope(inner, "toy.a", 2.5)
    announce(inner)
    inner.run(CONFIRM)
    second = inner.records("confirm")["toy.a"]
    assert second["digest"] != first
    assert [entry["kind"] for entry in inner.ledger] == ["opened", "confirmed", "opened", "confirmed"]
    # The second try of a row has no first look, so that both together err as seldom as one.
    assert (second["look"], second["blocks"]) == (2, 16)


def test_a_change_of_a_row_ends_its_confirmed_verdict(inner: Inner) -> None:
    """Code that is no longer there would have a published verdict, to which later runs of other code are held."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    inner.run(*RECORD)
    announce(inner)
    inner.run(CONFIRM)
    assert "1 supported" in from_files(inner.path)
    set_slope(inner, "toy.a", 0.0)
    contradicted = inner.run()
    contradicted.assert_outcomes(failed=1)
    contradicted.stdout.fnmatch_lines(["*supported on record (confirm), now refuted*"])
    inner.run(*RECORD).assert_outcomes(passed=1)
    inner.run().assert_outcomes(passed=1)
    assert "0 supported, 0 refuted" in from_files(inner.path)
    assert "1 is not confirmed yet" in from_files(inner.path)
    announce(inner)
    inner.run(CONFIRM)
    assert "0 supported, 1 refuted" in from_files(inner.path)


def test_a_row_whose_code_changed_is_announced_again(inner: Inner) -> None:
    """A change that no protocol shows, such as one of an attack, would leave its row without a verdict for ever."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    inner.run(CONFIRM)
    ledger = Ledger(inner.path / "claims" / "ledger.toml", inner.path / "baselines" / "ledger.json")
    ledger.append(Entry("2026-11-24", ("toy.a",), "changed", "abc1234", "", "", "", "the attack was mended"))
    announce(inner)
    assert [entry["kind"] for entry in inner.ledger] == ["opened", "confirmed", "changed", "opened"]
    inner.run(CONFIRM).assert_outcomes(passed=1)
    assert [entry["kind"] for entry in inner.ledger][4:] == ["confirmed"]


def test_a_dirty_tree_or_code_that_changed_since_is_refused(inner: Inner) -> None:
    """A confirmed verdict would be of code that nobody can look up."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    source = (inner.path / "planted.py").read_text(encoding="utf-8")
    (inner.path / "planted.py").write_text(source + "# edited\n", encoding="utf-8")
    dirty = inner.run(CONFIRM)
    assert dirty.ret == pytest.ExitCode.USAGE_ERROR
    dirty.stderr.fnmatch_lines(["*--gia-lane=confirm: expected a working tree without changes, got * planted.py*"])
    inner.commit()
    moved = inner.run(CONFIRM)
    moved.assert_outcomes(errors=1)  # it was announced, and has no verdict
    moved.stdout.fnmatch_lines(
        ["*a skip without a known reason: not confirmed yet: announced at *planted.py changed since*"]
    )
    assert inner.computed == []


def test_a_confirm_run_may_look_three_times(inner: Inner) -> None:
    """A true effect that eight blocks cannot show would stay inconclusive, or one look more would be taken."""
    inner.write(
        row("toy.late"),
        row("toy.never"),
        tests=trend("toy.late", measure="one_undecided") + trend("toy.never", measure="always_undecided"),
    )
    announce(inner)
    inner.run(CONFIRM).assert_outcomes(passed=2)
    found = inner.records("confirm")
    assert (found["toy.late"]["outcome"], found["toy.late"]["look"]) == ("supported", 2)
    assert (found["toy.never"]["outcome"], found["toy.never"]["look"]) == ("inconclusive", 3)
    assert found["toy.never"]["blocks"] == 32
    assert len(inner.computed) == len(set(inner.computed))  # each look keeps the blocks before it


@pytest.mark.parametrize(("longer", "outcome"), [(0.0, "inconclusive"), (1.5, "supported")])
def test_a_confirmed_effect_must_hold_at_four_times_the_budget(inner: Inner, longer: float, outcome: str) -> None:
    """An artefact of too few steps would be a fact."""
    tests = """
class Searched(Level):
    def with_budget(self, factor):
        assert factor == 4
        return replace(self, attack="longer", slope={longer})

@pytest.mark.claim("toy.a")
def test_a(claims):
    claims.trend("toy.a", Searched(control=fails_at_first, void=2), levels=(1, 2, 4), change=batch, x=math.log2)
""".replace("{longer}", str(longer))
    inner.write(row("toy.a"), tests=tests)
    announce(inner)
    inner.run(CONFIRM).assert_outcomes(passed=1)
    assert inner.records("confirm")["toy.a"]["outcome"] == outcome
    (found,) = json.loads((confirm_folder(inner) / "verdicts.json").read_text(encoding="utf-8"))
    assert (found["why"].startswith("budget-dependent")) == (outcome == "inconclusive")
    # 8 valid and 2 void blocks; again at four times the budget, where the void ones are not attacked either.
    assert len(inner.computed) == 2 * 8 * 3


def test_a_confirm_run_of_another_protocol_than_the_announced_one_is_not_made(inner: Inner) -> None:
    """The ledger would announce one experiment, and confirm.json would hold another one's verdict."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    result = inner.run(CONFIRM, "--gia-data=elsewhere")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*not confirmed yet: announced with another protocol*"])
    assert inner.computed == []
    inner.run(CONFIRM).assert_outcomes(passed=1)
