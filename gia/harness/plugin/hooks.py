"""The hooks of a session with a register: which tests run, what each must decide, and what ends the session."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from gia.harness.baseline.check import unpinned
from gia.harness.baseline.file import BaselineError
from gia.harness.blocks.entries import JUNIT
from gia.harness.plugin.checks import refuse_contradictions, under_xdist
from gia.harness.plugin.options import foreign
from gia.harness.plugin.outside import Outside
from gia.harness.plugin.reports import Reports
from gia.harness.plugin.run import RUN, ClaimRun
from gia.harness.plugin.selection import claim_ids
from gia.harness.report.placebos import broken
from gia.numerics import REPEATABLE


def begin(config: pytest.Config, register: Path) -> None:
    """Check the options and register what the session needs. Raises UsageError for options that contradict."""
    for marker in (
        "claim(*ids): the test gives the verdict on these rows of the register",
        "baseline: compares a pinned grid with stored samples",
        "timing: measures what something costs",
    ):
        config.addinivalue_line("markers", marker)
    refuse_contradictions(config)
    option = config.option
    run = ClaimRun(config, register)
    if option.gia_junit and not option.xmlpath:
        option.xmlpath = str(run.folder.path / JUNIT)
    if option.gia_rebaseline or option.gia_drop:
        run.open_baselines()
    config.stash[RUN] = run
    for name, plugin in {"claims": Hooks(run), "selection": run.selection, "timings": run.timings}.items():
        config.pluginmanager.register(plugin, f"gia-{name}")
    if foreign(option):
        config.pluginmanager.register(Outside(config, run.folder), "gia-outside")


class Hooks:
    """Registered as a plugin."""

    def __init__(self, run: ClaimRun) -> None:
        self._run, self._reports = run, Reports(run)
        self._stale: Sequence[BaselineError] = ()
        self._dropped: Sequence[str] = ()
        self._undecided: Sequence[str] = ()
        self._swallowed: Sequence[str] = ()

    def pytest_report_header(self) -> list[str]:
        """What the numbers of this run depend on."""
        facts = ", ".join(f"{name} {value}" for name, value in self._run.environment.items())
        lines = [f"gia: {facts}, {self._run.config.option.gia_workers} workers"]
        if unset := unpinned():
            lines.append(f"numerics: not set, so float32 may differ from another machine's: {' '.join(unset)}")
        else:
            lines.append(f"numerics: {' '.join(f'{name}={value}' for name, value in REPEATABLE.items())}")
        return lines

    @pytest.hookimpl(trylast=True)  # after -k and -m
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave the rows to other shards that are theirs, and baselines and timings to a run without shards."""
        if self._run.share is not None:
            own = self._run.share.of([item for item in items if claim_ids(item)])
            if left := [item for item in items if item not in own]:
                config.hook.pytest_deselected(items=left)
            items[:] = own

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Check the ids, and write an empty list, so that no earlier run's verdicts are taken for this one's."""
        run, option = self._run, self._run.config.option
        run.selection.check(run.register)
        if run.selection.selected():
            _ = run.confirm, run.layout, run.recorded()  # what is wrong there is an error before anything runs
        stopped = option.collectonly or (session.testsfailed and not option.continue_on_collection_errors)
        writes = not stopped and not option.gia_plan
        if run.selection.selected() and writes and not under_xdist(run.config):
            run.claims.recording.write()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Leave out the rows that a confirm run cannot or need not decide on."""
        ids = claim_ids(item)
        confirm = self._run.confirm if ids else None
        if confirm is not None and not self._run.lane.opening:
            obstacles = [confirm.obstacle(id) for id in ids]
            if all(obstacles):
                pytest.skip(str(obstacles[0]))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know which test runs, and ask it for the verdicts that its marker promises."""
        self._run.begin_test(item)
        try:
            result = yield
        finally:
            self._run.item = None
        if self._run.lane.placebo is None:
            self._ask_for_verdicts(claim_ids(item))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Ask the test of a row for a verdict under each placebo, one after the other."""
        ids = claim_ids(pyfuncitem)
        placebos = self._run.placebos if ids else None
        if placebos is None:
            return None
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        skips = []
        for name in placebos.names:
            placebos.current = name
            self._run.began = time.perf_counter()
            try:
                pyfuncitem.obj(**arguments)
            except pytest.skip.Exception as skip:
                skips.append(skip)
            else:
                self._ask_for_verdicts(ids)
        if len(skips) == len(placebos.names):
            raise skips[0]
        return True

    @pytest.hookimpl(tryfirst=True)  # before another plugin can fail
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop the workers, find stale baselines and rows without an honest verdict, and write the reports."""
        run, selection = self._run, self._run.selection
        run.stop_workers()
        if run.made_baselines is not None:
            self._dropped, refused = run.made_baselines.drop()
            whole = selection.whole("baseline") and selection.all_passed("baseline")
            self._stale = [*refused, *run.made_baselines.finish(full=whole)]
        nothing = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if run.share is not None and nothing and selection.tests_of:
            session.exitstatus = pytest.ExitCode.OK  # more shards than rows
        if session.exitstatus == pytest.ExitCode.OK:
            if not (run.config.option.collectonly or under_xdist(run.config)):
                self._undecided = [*selection.undecided(run.decided()), *selection.lost(run.register)]
                self._swallowed = run.swallowed()
            placed = [] if run.placebos is None or run.made_claims is None else run.made_claims.recording.rows
            if self._stale or self._undecided or self._swallowed or any(map(broken, placed)):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._reports.write()
        whole = all(selection.whole(marker) for marker in ("claim", "baseline"))
        run.folder.end(whole=whole, exit_status=int(session.exitstatus))

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What failed at the end of the session, and the table of verdicts."""
        for name in self._dropped:
            terminalreporter.write_line(f"dropped baseline: {name}")
        for error in self._stale:
            terminalreporter.write_line(f"FAILED baseline: {error}", red=True)
        for line in self._undecided:
            terminalreporter.write_line(f"FAILED without a verdict: {line}", red=True)
        for line in self._swallowed:
            terminalreporter.write_line(f"FAILED against the record, whatever its test says: {line}", red=True)
        self._reports.show(terminalreporter)

    def pytest_unconfigure(self) -> None:
        """Let others clean what this run used, also where the session ended early."""
        self._run.close()

    def _ask_for_verdicts(self, ids: Sequence[str]) -> None:
        claims = self._run.made_claims
        if missing := [id for id in ids if claims is None or not claims.recording.decided(id)]:
            pytest.fail(f"the test ended without a verdict on {missing[0]!r}: call claims.trend or claims.record")
