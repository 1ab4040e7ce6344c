"""A look that ends where more blocks cannot change what is on record."""

from __future__ import annotations

import json

import pytest

from tests.harness.plugin.inner_project import CONFIRM, RECORD, Inner, row, set_slope, trend

pytest_plugins = ["pytester"]


def computed(inner: Inner) -> list[int]:
    """The blocks that were computed since this was asked last."""
    log = inner.path / "computed.txt"
    blocks = sorted({int(line.split()[1]) for line in log.read_text(encoding="utf-8").splitlines()})
    log.unlink()
    return blocks


def test_a_look_ends_early_only_where_the_record_says_what_is_certain(inner: Inner, monkeypatch) -> None:
    """CI would pay for blocks that change nothing, or a row that has moved would be said to agree after two blocks."""
    monkeypatch.setenv("CI", "true")  # its blocks are kept with the run
    inner.write(row("toy.trend"), tests=trend("toy.trend", measure="always_undecided"))
    early = "--gia-stop-early"
    inner.run(early).assert_outcomes(passed=1)
    assert computed(inner) == list(range(8))  # nothing is on record
    monkeypatch.delenv("CI")
    inner.run(*RECORD)
    monkeypatch.setenv("CI", "true")
    computed(inner)
    records = inner.path / "baselines" / "claims.json"
    stored = records.read_text(encoding="utf-8")
    few = json.loads(stored)["rows"]["toy.trend"]["witness"][0]
    for witness, needed in ((few, few), ([1, 7], [0, 1, 2, 3, 7]), (None, [0, 1, 2, 3])):  # odd blocks agree
        content = json.loads(stored)
        content["rows"]["toy.trend"]["witness"] = [witness]
        records.write_text(json.dumps(content), encoding="utf-8")
        result = inner.run(early)
        result.assert_outcomes(passed=1)
        assert computed(inner) == needed
        verdict = inner.verdicts["toy.trend"]
        blocks = 2 if witness == few else 4
        assert (verdict["outcome"], verdict["blocks"], verdict["interval"]) == ("inconclusive", blocks, None)
        assert verdict["why"].startswith(f"certain after {blocks} of 8 valid blocks")
        result.stdout.fnmatch_lines(["*looks end early*"])
    records.write_text(stored, encoding="utf-8")
    set_slope(inner, "toy.trend", 2.0)  # as before, but measured without the noise that hides it
    inner.run(early).assert_outcomes(failed=1)
    assert computed(inner) == list(range(8))
    assert inner.verdicts["toy.trend"]["outcome"] == "supported"


TWO_LOOKS = """
from gia.harness.plugin.deciding import decided

@pytest.mark.claim("toy.two")
def test_two(claims):
    def looked(name):
        def measured(blocks):
            own = {"levels": (1, 2, 4), "change": batch, "measure": always_undecided}
            return claims.table(name, Level(), blocks=blocks, **own)

        return claims.look(measured, lambda table, look: decided(claims.claim("toy.two"), table, look, 1, {}))

    _, first = looked("first")
    verdict, second = looked("second")
    claims.record(verdict, tables=[first, second])
"""


def test_each_look_of_a_row_has_its_own_witness(inner: Inner, monkeypatch) -> None:
    """The blocks that settle the looks of one attack type would be asked of another, and all measured there."""
    inner.write(row("toy.two"), tests=TWO_LOOKS)
    inner.run(*RECORD).assert_outcomes(passed=1)
    stored = inner.records("claims")["toy.two"]["witness"]
    assert [[block % 2 for block in sorted(each, key=lambda block: block % 2)] for each in stored] == [[0, 1], [0, 1]]
    content = {"rows": {"toy.two": {**inner.records("claims")["toy.two"], "witness": [[0, 1], [2, 3]]}}}
    (inner.path / "baselines" / "claims.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setenv("CI", "true")
    (inner.path / "computed.txt").unlink()
    inner.run("--gia-stop-early").assert_outcomes(passed=1)
    lines = (inner.path / "computed.txt").read_text(encoding="utf-8").splitlines()
    assert {tuple(line.split()[:2]) for line in lines} == {
        ("first", "0"),
        ("first", "1"),
        ("second", "2"),
        ("second", "3"),
    }


@pytest.mark.parametrize("other", [RECORD, ("--gia-placebo=blind",), (CONFIRM,), ("--gia-attack=flat",)])
def test_a_look_does_not_end_early_where_its_interval_is_wanted(inner: Inner, other: tuple[str, ...]) -> None:
    """An inconclusive row would go on record without its numbers."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    result = inner.run("--gia-stop-early", *other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gia-stop-early: expected in the lane claims*without --gia-record*"])
