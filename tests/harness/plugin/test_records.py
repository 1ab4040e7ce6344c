"""What goes on record on purpose, and what a record on file means for a later run."""

from __future__ import annotations

import pytest

from tests.harness.plugin.inner_project import RECORD, Inner, announce, row, set_slope, trend

pytest_plugins = ["pytester"]


def test_a_record_is_stored_on_purpose_and_then_holds(inner: Inner) -> None:
    """A verdict that turns would pass, or be stored by accident."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run().assert_outcomes(passed=1)
    assert not (inner.path / "baselines").exists()
    inner.run(*RECORD).assert_outcomes(passed=1)
    stored = inner.records("claims")["toy.trend"]
    assert (stored["outcome"], stored["blocks"], stored["look"], stored["commit"]) == ("supported", 8, 1, "unversioned")
    assert inner.ledger == []  # a first record changes nothing
    result = inner.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*record: supported (unversioned)*"])


def test_a_run_says_which_rows_it_put_on_record(inner: Inner) -> None:
    """Nobody would know whether --record did anything, or which file is to be committed."""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + trend("toy.second"))
    result = inner.run(*RECORD)
    result.stdout.fnmatch_lines([f"recorded: toy.{name} in baselines/claims.json" for name in ("first", "second")])
    inner.run().stdout.no_fnmatch_line("recorded: *")


def test_verdicts_of_other_arithmetic_go_on_no_record(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain `pytest --record` would store numbers that no other machine repeats."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    monkeypatch.delenv("MKL_CBWR")
    result = inner.run(*RECORD)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    command = "nox -s claims -- ... --gia-record --gia-reason TEXT sets MKL_CBWR=AVX2,STRICT"
    result.stderr.fnmatch_lines([f"*--gia-record: expected pinned arithmetic*: {command}"])
    assert not (inner.path / "baselines").exists()


def test_a_contradicted_record_fails_and_says_how_it_may_move(inner: Inner) -> None:
    """Supported yesterday and refuted today would both be green."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run(*RECORD)
    set_slope(inner, "toy.trend", 0.0)
    result = inner.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*UnexpectedOutcomeError: toy.trend: supported on record (claims), now refuted*",
            "*--gia-record --gia-reason*",
        ]
    )
    inner.run(*RECORD).assert_outcomes(passed=1)
    (entry,) = inner.ledger
    assert (entry["kind"], entry["before"], entry["after"]) == ("changed", "supported", "refuted")
    assert entry["reason"] == "planted"
    assert entry["digest"] == inner.records("claims")["toy.trend"]["digest"]
    result = inner.run()
    result.stdout.fnmatch_lines(["*history: protocol 2; earlier supported*"])


def test_a_test_that_swallows_the_contradiction_leaves_no_green_run(inner: Inner) -> None:
    """If it fails, `try` around `claims.trend` makes a run green that says "supported on record, now refuted"."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run(*RECORD)
    swallowing = """
@pytest.mark.claim("toy.first")
def test_toy_first(claims):
    try:
        claims.trend("toy.first", Level(slope=-2.0), levels=(1, 2, 4), change=batch, x=math.log2)
    except AssertionError:
        pass
"""
    inner.write(tests=swallowing)
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED against the record, whatever its test says: toy.first: *"])


def test_an_inconclusive_record_of_other_blocks_contradicts_nothing(inner: Inner) -> None:
    """Every change of a protocol would need a new record before it could be tried."""
    inner.write(row("toy.trend"), tests=trend("toy.trend", measure="one_undecided"))
    inner.run(*RECORD)
    assert inner.records("claims")["toy.trend"]["outcome"] == "inconclusive"
    set_slope(inner, "toy.trend", 3.0)
    inner.run().assert_outcomes(passed=1)


def test_pilot_blocks_are_others_and_compared_with_nothing(inner: Inner) -> None:
    """A setting could be tried on the blocks that decide."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run(*RECORD)
    set_slope(inner, "toy.trend", 0.0)
    inner.run("--gia-lane=pilot").assert_outcomes(passed=1)
    assert inner.folder.name.endswith("-reduced-unversioned-pilot")
    tried = inner.verdicts["toy.trend"]
    assert tried["digest"] != inner.records("claims")["toy.trend"]["digest"]
    assert tried["notice"] == ""


def test_a_ledger_that_was_edited_stops_the_run(inner: Inner) -> None:
    """A history could be made more pleasant."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    ledger = inner.path / "claims" / "ledger.toml"
    ledger.write_text(ledger.read_text(encoding="utf-8").replace('kind = "opened"', 'kind = "past"'), encoding="utf-8")
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ledger.toml: entry 1*got an edited or moved one*"])


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[1]", "null", "{}", '{"rows": [1]}', '{"rows": {"toy.first": 1}}'),
        '{"rows": {"toy.first": {"outcome": "supported"}}}',
        '{"rows": {"toy.first": {"outcome": "supported", "effect": "2", "unit": "dB", "digest": "", "commit": ""}}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_malformed_file_of_records_is_an_error_that_names_it_before_anything_runs(inner: Inner, text: str) -> None:
    """If it fails, a bad merge of the records ends a run in an error that names no file, or nothing is compared."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    (inner.path / "baselines").mkdir()
    (inner.path / "baselines" / "claims.json").write_text(text, encoding="utf-8")
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*baselines*claims.json: *expected a *record*"])
    assert not inner.computed
