"""Rows and baselines that were selected and end without a decision: which may, and that no other leaves a green run."""

from __future__ import annotations

import pytest

from tests.harness.plugin.inner_project import RECORD, Inner, row, trend

pytest_plugins = ["pytester"]

MARKED = '@pytest.mark.claim("toy.other")\n'

NOT_DECIDED = {
    "skip": MARKED + "@pytest.mark.skip(reason='slow')\ndef test_other(claims):\n    pass\n",
    "skipif": MARKED + "@pytest.mark.skipif(True, reason='slow')\ndef test_other(claims):\n    pass\n",
    "inside": MARKED + "def test_other(claims):\n    pytest.skip('slow')\n",
    "borrowed": MARKED + "def test_other(claims):\n    pytest.skip('not tried: slow')\n",
    "fixture": MARKED + "def test_other(claims, slow):\n    pass\n\n"
    "@pytest.fixture\ndef slow():\n    pytest.skip('slow')\n",
    "xfail": MARKED + "@pytest.mark.xfail(reason='slow')\ndef test_other(claims):\n    raise ValueError\n",
    "xfail inside": MARKED + "def test_other(claims):\n    pytest.xfail('slow')\n",
    "xfail not run": MARKED + "@pytest.mark.xfail(run=False, reason='slow')\ndef test_other(claims):\n    pass\n",
    "xpass": "@pytest.mark.xfail(reason='slow', strict=False)" + trend("toy.other"),
    "baseline": "@pytest.mark.baseline\ndef test_other(baselines):\n    pytest.skip('slow')\n",
}


@pytest.mark.parametrize("tests", NOT_DECIDED.values(), ids=NOT_DECIDED)
def test_a_claim_or_a_baseline_that_is_skipped_or_expected_to_fail_fails_the_run(inner: Inner, tests: str) -> None:
    """A row that turned could be marked as slow, and the run would be green."""
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + tests)
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 1
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 1
    result.stdout.fnmatch_lines(["*slow*"])


def test_other_tests_may_be_skipped_and_expected_to_fail(inner: Inner) -> None:
    """The harness would forbid what pytest allows, in tests that decide on nothing."""
    others = """
def test_skipped():
    pytest.skip("slow")

@pytest.mark.xfail
def test_expected():
    raise ValueError
"""
    inner.write(row("toy.first"), tests=trend("toy.first") + others)
    result = inner.run()
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "reason", ["no cell at this scale: toy.other", "could not import 'gia_absent': No module named 'gia_absent'"]
)
def test_a_known_reason_leaves_the_run_green_and_shows(inner: Inner, reason: str) -> None:
    """A scale without a cell, or an optional package that is not there, would turn every run red."""
    other = MARKED + f"def test_other(claims):\n    pytest.skip({reason!r})\n"
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + other)
    result = inner.run()
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"NOT toy.other: no verdict, {reason}"])


@pytest.mark.parametrize("reason", ["no cell at this scale", "no cell at this scale: toy.first", "no cell: toy.other"])
def test_a_scale_without_a_cell_is_believed_of_the_row_itself_and_of_none_on_record(inner: Inner, reason: str) -> None:
    """If it fails, any row can be switched off by a sentence that begins like that of a scale without a cell."""
    other = MARKED + "def test_other(claims):\n    pytest.skip({!r})\n"
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + other.format(reason))
    assert inner.run().ret == pytest.ExitCode.TESTS_FAILED
    inner.write(tests=trend("toy.first") + trend("toy.other"))
    assert inner.run(*RECORD).ret == pytest.ExitCode.OK
    inner.write(tests=trend("toy.first") + other.format("no cell at this scale: toy.other"))
    assert inner.run().ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("reason", "ci"),
    [
        ("could not import reality", ""),
        ("could not import 'torch': No module named 'torch'", ""),
        ("could not import 'gia_absent': No module named 'gia_absent'", "true"),
    ],
)
def test_a_missing_package_is_believed_where_it_is_missing_and_not_under_ci(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, reason: str, ci: str
) -> None:
    """If it fails, a row is switched off by a package that is there, or for good where CI's environment lacks one."""
    monkeypatch.setenv("CI", ci)
    other = MARKED + f"def test_other(claims):\n    pytest.skip({reason!r})\n"
    inner.write(row("toy.first"), row("toy.other"), tests=trend("toy.first") + other)
    assert inner.run().ret == pytest.ExitCode.TESTS_FAILED


def test_a_row_on_record_whose_test_is_gone_fails_a_whole_run(inner: Inner) -> None:
    """If it fails, a renamed module or a class with `__test__ = False` takes a row out of every run, which stays
    green."""
    inner.write(row("toy.first"), row("toy.other"), row("toy.new"), tests=trend("toy.first"))
    inner.write(tests=trend("toy.other"), module="test_other")
    assert inner.run(*RECORD).ret == pytest.ExitCode.OK  # no test of the row "toy.new" was ever there
    (inner.path / "claims" / "test_other.py").rename(inner.path / "claims" / "other.py")
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED without a verdict: toy.other: it is on record, and no test has its mark"])
    result.stdout.no_fnmatch_line("*toy.new: it is on record*")


def test_a_module_that_skips_itself_fails_the_run(inner: Inner) -> None:
    """Its rows would be said to have no test yet."""
    inner.write(row("toy.other"), tests="pytest.skip('slow', allow_module_level=True)\n", module="test_other")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED without a verdict: claims/test_other.py: skipped as a whole: slow"])
    result.stdout.no_fnmatch_line("*not covered (*")


def test_a_claim_that_a_plugin_takes_away_without_a_word_fails_the_run(inner: Inner) -> None:
    """A selection that nobody sees would be a full run."""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + trend("toy.second"))
    hook = (
        "import pytest\n\n@pytest.hookimpl(trylast=True)\ndef pytest_collection_modifyitems(items):\n    del items[1]\n"
    )
    (inner.path / "conftest.py").write_text(hook, encoding="utf-8")
    result = inner.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED without a verdict: claims/test_toy.py::test_toy_second: taken away by*"])


def test_a_warning_at_the_end_of_a_foreign_plugin_costs_no_report(inner: Inner) -> None:
    """With warnings as errors, a plugin's own warning ends the session before the table and the report."""
    inner.write_settings("filterwarnings = error")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    hooks = """
import warnings

def pytest_sessionfinish():
    warnings.warn("old plugin", DeprecationWarning)

def pytest_terminal_summary():
    warnings.warn("old plugin", DeprecationWarning)
"""
    (inner.path / "conftest.py").write_text(hooks, encoding="utf-8")
    inner.run()
    assert set(inner.verdicts) == {"toy.first"}
    assert "toy.first" in (inner.folder / "report.md").read_text(encoding="utf-8")
