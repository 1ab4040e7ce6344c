"""Warnings of a test fail it; warnings of others end no run, by this repository's own settings in an inner project."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest_plugins = ["pytester"]

TESTS = """
import warnings

import pytest


def test_warns():
    warnings.warn("planted", DeprecationWarning)


@pytest.mark.filterwarnings("ignore:planted")
def test_may_warn():
    warnings.warn("planted", DeprecationWarning)
"""

FOREIGN = """
import warnings


def pytest_collection_finish():
    warnings.warn("old plugin", DeprecationWarning)


def pytest_sessionfinish():
    warnings.warn("old plugin", DeprecationWarning)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line("the table")
    warnings.warn("old plugin", DeprecationWarning)
"""


@pytest.mark.parametrize("folder", ["claims", "tests"])
def test_a_warning_fails_the_test_that_gives_it_and_no_session(
    folder: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new release of any plugin would end a night's run without its table of verdicts."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    filters = "\n    ".join(settings["filterwarnings"])
    pytester.makefile(".ini", pytest=f"[pytest]\nfilterwarnings =\n    {filters}\n")
    pytester.makeconftest((ROOT / folder / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_inner=TESTS, foreign=FOREIGN)
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess("-p", "foreign", "-p", "no:gia")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *DeprecationWarning: planted", "the table"])
    pytester.makepyfile(
        gia_inner="", test_inner="import warnings\nwarnings.warn_explicit('x', UserWarning, 'f', 1, 'gia.x')"
    )
    collected = pytester.runpytest_inprocess("-p", "no:gia")
    assert collected.ret == pytest.ExitCode.INTERRUPTED  # a warning of the package itself, while modules are read
