"""Which tests a session collected, left out and ran: what a report may say of the rows that have no verdict."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gia.harness.ci import under_ci
from gia.harness.decide.register import Register
from gia.harness.report.command import RESULTS

#: How a reason begins for which a selected test may be skipped -> options, and the value of one of them, of runs where
#: it holds; None for any value. Any other skip fails the test, since nothing would be decided and the run would be
#: green, except for a scale without a cell and a package that is missing (`Selection._holds`).
REASONS: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "not tried": (("gia_attack", "gia_defense"), None),
    "not applicable": (("gia_placebo",), None),
    "no reach": (("gia_lane",), "reach"),
    "reach is on record": (("gia_lane",), "reach"),
    "only announced": (("gia_open",), True),
    "only stored": (("gia_shard",), None),
    "only planned": (("gia_plan",), True),
    "not planned": (("gia_plan",), True),
    "confirmed already": (("gia_lane",), "confirm"),
    "not confirmed yet: no run was announced": (("gia_lane",), "confirm"),
}


_NO_CELL = re.compile(r"no cell at this scale: (\S+)")
_MISSING = re.compile(r"could not import '([\w.]+)'")  # pytest.importorskip of an optional package

_FAILED = "its test failed"


class Selection:
    """Registered as a plugin.

    Args:
        recorded: gives the ids of the rows that are on record at this scale.

    Attributes:
        folder: where the claims lie.
        tests_of: claim id -> tests, those that were left out too.
    """

    def __init__(self, config: pytest.Config, folder: Path, *, recorded: Callable[[], Collection[str]]) -> None:
        self._config = config
        self._recorded = recorded
        self.folder = folder
        self._marked: dict[str, set[str]] = {"claim": set(), "baseline": set()}
        self._deselected: set[str] = set()
        self._failed: set[str] = set()
        self._passed: set[str] = set()
        self._skipped: dict[str, str] = {}  # test -> reason
        self._broken_modules = False
        self._skipped_modules: dict[str, str] = {}  # module -> reason
        self._missing: set[str] = set()
        self.tests_of: dict[str, list[str]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Let -k match the ids of rows, as it matches the names of tests."""
        item.extra_keyword_matches.update(claim_ids(item))

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
        """Note modules that could not be read, or skip themselves: their claims are not known."""
        self._broken_modules |= report.failed or report.skipped
        inside = (self._config.rootpath / report.nodeid.partition("::")[0]).is_relative_to(self.folder)
        if report.skipped and inside and isinstance(report.longrepr, tuple):
            self._skipped_modules[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note tests that something took away without a word."""
        left = {item.nodeid for item in session.items}
        self._missing = (self._marked["claim"] | self._marked["baseline"]) - self._deselected - left

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's own, which makes a skip of an expected failure
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail a claim or a baseline that is skipped or expected to fail, except for a known reason."""
        report = yield
        if not any(item.get_closest_marker(marker) for marker in self._marked):
            return report
        if getattr(report, "wasxfail", None) is not None:
            told = f"expected no xfail on a claim or a baseline, got one: {report.wasxfail or 'no reason'}"
            del report.wasxfail
        elif report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if self._may_skip(reason, claim_ids(item)):
                return report
            told = f"expected a verdict or a comparison, got a skip without a known reason: {reason}"
        else:
            return report
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: {told}"
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how each test ended."""
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode
    ) -> None:
        """Say what -k and -m take where they select no test at all."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.tests_of and not self.selected():
            terminalreporter.write_line(self.advice())

    def advice(self) -> str:
        """How to select rows, in one line, with the ids that are close to what -k was given."""
        option, ids = self._config.option, sorted(self.tests_of)
        words = [word for word in re.findall(r"[^\s()]+", option.keyword) if word not in ("and", "or", "not")]
        close = [id for word in words for id in difflib.get_close_matches(word, ids, cutoff=0.5)]
        given = " ".join(f"{name} {text!r}" for name, text in (("-k", option.keyword), ("-m", option.markexpr)) if text)
        lists = RESULTS if (self._config.rootpath / RESULTS).is_file() else f"the register in {self.folder.name}/"
        parts = [f"{given or 'these options'}: no test is selected"]
        parts += [f"close ids: {' '.join(dict.fromkeys(close))}"] if close else []
        return "; ".join([*parts, f"-k NAME matches ids and names of tests, or parts of them; all ids are in {lists}"])

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

    def undecided(self, decided: Collection[str]) -> list[str]:
        """What should have ended in a verdict and did not, while no test failed: one line each."""
        lines = [f"{module}: skipped as a whole: {why}" for module, why in self._skipped_modules.items()]
        lines = [line for line in lines if not self._may_skip(line.split(": skipped as a whole: ")[1])]
        lines += [f"{test}: taken away by another plugin without a word" for test in sorted(self._missing)]
        for id, why in self.without_verdict(decided).items():
            if why != _FAILED and not self._may_skip(why, [id]):
                lines.append(f"{id}: {why}")
        return lines

    def lost(self, register: Iterable[str]) -> list[str]:
        """The rows that are on record and have no test any more, one line each; known in a whole run alone."""
        if not self.whole("claim"):
            return []
        recorded = self._recorded()
        without = [id for id in register if id not in self.tests_of and id in recorded]
        return [f"{id}: it is on record, and no test has its mark" for id in without]

    def _may_skip(self, reason: str, ids: Sequence[str] = ()) -> bool:
        for begin, (names, value) in REASONS.items():
            if reason.startswith(begin):
                given = [getattr(self._config.option, name) for name in names]
                return any(given) if value is None else value in given
        return self._holds(reason, ids)

    def _holds(self, reason: str, ids: Sequence[str]) -> bool:
        """Whether a reason is true that holds in any run.

        A row that is on record had a cell at this scale. A package may be missing on a developer's machine, where the
        summary says so, and not under CI.
        """
        if (cell := _NO_CELL.fullmatch(reason)) is not None:
            return cell[1] in ids and cell[1] not in self._recorded()
        if (missing := _MISSING.match(reason)) is not None:
            return not under_ci() and importlib.util.find_spec(missing[1].partition(".")[0]) is None
        return False

    def whole(self, marker: str) -> bool:
        """Whether every test with this marker that there is was collected and selected."""
        option = self._config.option
        if any(getattr(option, name, None) for name in ("lf", "ignore", "ignore_glob")) or self._missing:
            return False  # these leave tests out without the hook for it
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
                return _FAILED
            reasons = [self._skipped[test] for test in tests if test in self._skipped]
            return reasons[0] if reasons else "its test did not run to its end"

        return {id: why(tests) for id, tests in self.selected().items() if id not in decided}


def claim_ids(item: pytest.Item) -> list[str]:
    """The ids in a test's claim markers."""
    return [id for marker in item.iter_markers("claim") for id in marker.args]
