"""Which tests a session collected, left out and ran: what a report may say of the rows that have no verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from gia.harness.decide.register import Register


class Selection:
    """Registered as a plugin.

    Attributes:
        folder: where the claims lie.
        tests_of: claim id -> tests, those that were left out too.
    """

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self.folder = folder
        self._marked: dict[str, set[str]] = {"claim": set(), "baseline": set()}
        self._deselected: set[str] = set()
        self._failed: set[str] = set()
        self._passed: set[str] = set()
        self._skipped: dict[str, str] = {}  # test -> reason
        self._broken_modules = False
        self.tests_of: dict[str, list[str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note every test before -k and -m take some away."""
        for item in items:
            for marker, tests in self._marked.items():
                if item.get_closest_marker(marker):
                    tests.add(item.nodeid)
            for id in claim_ids(item):
                self.tests_of.setdefault(id, []).append(item.nodeid)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what -k, -m and --deselect take away."""
        self._deselected.update(item.nodeid for item in items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note modules that could not be read: their claims are not known."""
        self._broken_modules |= report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how each test ended."""
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def check(self, register: Register) -> None:
        """Raise UsageError for a test that is marked with an id that the register does not have."""
        for id, tests in self.tests_of.items():
            try:
                register.claim(id)
            except ValueError as error:
                raise pytest.UsageError(f"{tests[0]}: {error}") from error

    def selected(self) -> dict[str, list[str]]:
        """Claim id -> the tests that are left."""
        left = {id: [test for test in tests if test not in self._deselected] for id, tests in self.tests_of.items()}
        return {id: tests for id, tests in left.items() if tests}

    def whole(self, marker: str) -> bool:
        """Whether every test with this marker that there is was collected and selected."""
        start = self._config.invocation_params.dir
        roots = [(start / argument).resolve() for argument in self._config.args if "::" not in argument]
        return (
            not self._broken_modules
            and not self._deselected & self._marked[marker]
            and any(self.folder.is_relative_to(root) for root in roots)
        )

    def all_passed(self, marker: str) -> bool:
        """Whether every test with this marker ran to its end and passed."""
        return self._marked[marker] <= self._passed

    def without_verdict(self, decided: Collection[str]) -> dict[str, str]:
        """Why selected claims have no verdict."""

        def why(tests: Sequence[str]) -> str:
            if self._failed.intersection(tests):
                return "its test failed"
            reasons = [self._skipped[test] for test in tests if test in self._skipped]
            return reasons[0] if reasons else "its test did not run to its end"

        return {id: why(tests) for id, tests in self.selected().items() if id not in decided}


def claim_ids(item: pytest.Item) -> list[str]:
    """The ids in a test's claim markers."""
    return [id for marker in item.iter_markers("claim") for id in marker.args]
