"""One pytest session with a register: its claims, its baselines, its timings, and the report at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from gia.harness.baseline.check import Baselines, unpinned
from gia.harness.baseline.file import BaselineError
from gia.harness.blocks.cluster import workers_of
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Pool, Workers
from gia.harness.ci import under_ci
from gia.harness.decide.ledger import LedgerError
from gia.harness.decide.register import Register, load_register
from gia.harness.plugin import page
from gia.harness.plugin.checks import refuse_contradictions, under_xdist
from gia.harness.plugin.claims import Claims
from gia.harness.plugin.confirm import Confirm
from gia.harness.plugin.context import Context
from gia.harness.plugin.earlier import Remaining, placebos, seconds_of_rows
from gia.harness.plugin.environment import commit_at, device_for
from gia.harness.plugin.folder import JUNIT, RunFolder, newest
from gia.harness.plugin.laboratory import Laboratory, load
from gia.harness.plugin.lanes import Lane
from gia.harness.plugin.options import LOCAL, foreign
from gia.harness.plugin.outside import Outside, substitution
from gia.harness.plugin.placebos import ALL, Placebos
from gia.harness.plugin.plan import Plan
from gia.harness.plugin.progress import Progress
from gia.harness.plugin.records import Records
from gia.harness.plugin.selection import Selection, claim_ids
from gia.harness.plugin.shards import share
from gia.harness.plugin.timings import TimingRun
from gia.harness.report.markdown import markdown
from gia.harness.report.material import PAGE
from gia.harness.report.placebos import broken, matrix
from gia.harness.report.project import Project, layout_of
from gia.harness.report.rows import Run
from gia.harness.report.text import Closing
from gia.numerics import REPEATABLE

RUN = pytest.StashKey["ClaimRun"]()


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
    for name, plugin in {"claims": run, "selection": run.selection, "timings": run.timings}.items():
        config.pluginmanager.register(plugin, f"gia-{name}")
    if foreign(option):
        config.pluginmanager.register(Outside(config, run.folder), "gia-outside")


class ClaimRun:
    """What one pytest session knows of its claims, and the hooks that need it."""

    def __init__(self, config: pytest.Config, register: Path) -> None:
        self.config = config
        try:
            self.register: Register = load_register(register)
        except ValueError as error:
            raise pytest.UsageError(f"{register}: {str(error).removeprefix(f'{register}: ')}") from error
        option, scales = config.option, self.register.scales
        self.scale: str = scales[0] if option.gia_scale is None else option.gia_scale
        if self.scale not in scales:
            raise pytest.UsageError(f"--gia-scale: expected one of {list(scales)}, got {self.scale!r}")
        self.ci = under_ci()
        self.commit = commit_at(config.rootpath)
        self.environment = {
            "scale": self.scale,
            "device": device_for(option.gia_device),
            "torch": torch.__version__,
            "commit": self.commit,
        }
        self.lane = Lane(
            option.gia_lane, option.gia_placebo, option.gia_open, option.gia_draws, early=option.gia_stop_early
        )
        if option.gia_attack is not None:
            self.environment["attack"] = option.gia_attack
        if option.gia_defense:
            self.environment["defense"] = "; ".join(option.gia_defense)
        if self.lane.early:
            self.environment["looks"] = "end early"
        if self.lane.suffix:
            self.environment["lane"] = self.lane.suffix[1:]
        self.share = None if option.gia_shard is None else share(option.gia_shard)
        self.notices: list[str] = []
        if option.gia_attack is not None:
            self.notices.append(
                f"{option.gia_attack} takes the place of each protocol's attack; "
                "no verdict is compared with the register"
            )
        if option.gia_defense:
            self.notices.append(
                f"the clients of every row defend themselves with {'; '.join(option.gia_defense)}, which attacks do "
                "not know of; no verdict is compared with the register"
            )
        self.selection = Selection(config, register.parent)
        given = None if not option.gia_run_dir else Path(option.gia_run_dir).resolve()
        self._runs = config.rootpath / ".gia" / "runs"
        self._kind = f"{self.scale}-{self.commit}"
        user = "".join(f"-{_plain(name)}" for name in foreign(option))
        if self.share is not None:
            user += f"-shard{self.share.index}of{self.share.count}"
        self.folder = RunFolder(self._runs, f"{self._kind}{self.lane.suffix}{user}", self.environment, given=given)
        self.timings = TimingRun(config, self.folder, self.environment)
        self._progress = Progress(config, self._time_left)
        self._claims: Claims | None = None
        self._store: Store | None = None
        self._pool: Workers | None = None
        self._baselines: Baselines | None = None
        self._stale: Sequence[BaselineError] = ()
        self._dropped: Sequence[str] = ()
        self._undecided: Sequence[str] = ()
        self._item: pytest.Item | None = None
        self._began = 0.0

    @cached_property
    def laboratory(self) -> Laboratory:
        """Who measures. UsageError where the module is not there or cannot."""
        name = self.config.getini("claims_experiment")
        try:
            return load(name)
        except (ImportError, ValueError) as error:
            raise pytest.UsageError(
                f"claims_experiment: expected a module that measures, got {name!r}: {error}"
            ) from error

    @cached_property
    def records(self) -> Records:
        """What earlier runs found."""
        scale = "" if self.scale == self.register.scales[0] else self.scale
        folder = self.selection.folder
        try:
            return Records(self.config.rootpath / "baselines", folder / "ledger.toml", scale=scale, commit=self.commit)
        except LedgerError as error:
            raise pytest.UsageError(str(error)) from error

    @cached_property
    def layout(self) -> dict[str, Any]:
        """How the report is arranged. UsageError where the module is not there or cannot say it."""
        try:
            return layout_of(self.config.getini("claims_report"), self.config.rootpath)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error

    @cached_property
    def confirm(self) -> Confirm | None:
        """Which rows may be confirmed; None in another lane. UsageError where the working tree is dirty."""
        if self.lane.name != "confirm":
            return None
        try:
            return Confirm(self.config.rootpath, self.records)
        except ValueError as error:
            raise pytest.UsageError(f"--gia-lane=confirm: {error}") from error

    @cached_property
    def _placebos(self) -> Placebos | None:
        """What takes the place of each attack; None where the attacks run. UsageError for an unknown name."""
        if self.lane.placebo is None:
            return None
        known = [ALL, *self.laboratory.PLACEBOS]
        if self.lane.placebo not in known:
            raise pytest.UsageError(f"--gia-placebo: expected one of {known}, got {self.lane.placebo!r}")
        return Placebos(self.lane.placebo, self.laboratory)

    @property
    def claims(self) -> Claims:
        """Made when first asked for: a run without claims writes nothing."""
        if self._claims is None:
            option, placebos, records, laboratory = self.config.option, self._placebos, self.records, self.laboratory
            substitute = substitution(laboratory, option) if foreign(option) else None
            self._pool = self._workers()
            if not option.gia_plan:
                self._begin()  # last: a wrong option leaves no folder
            store = self._store = Store(self._blocks(), notice=self._notice)
            self._claims = Claims(
                Context(
                    register=self.register,
                    scale=self.scale,
                    device=self.environment["device"],
                    root=option.gia_data,
                    folder=self.folder.path,
                    store=store,
                    workers=self._pool or 0,
                    lane=self.lane,
                    records=records,
                    confirm=self.confirm,
                    storing=self.share is not None,
                    store_because=option.gia_reason if option.gia_record else None,
                    facts={name: self.environment[name] for name in ("torch", "device", "commit")},
                    laboratory=laboratory,
                    plan=Plan(laboratory, self._progress.line) if option.gia_plan else None,
                    placebos=placebos,
                    substitute=substitute,
                    announce=self._announce,
                    progress=self._progress.reporter,
                    current=self._current,
                )
            )
        return self._claims

    @property
    def baselines(self) -> Baselines:
        """For a test: its samples are kept in the run folder."""
        if not under_xdist(self.config):
            self._begin()
        return self.open_baselines()

    def open_baselines(self) -> Baselines:
        """The stored baselines, read and checked when first asked for."""
        if self._baselines is None:
            option = self.config.option
            try:
                self._baselines = Baselines(
                    self.config.rootpath / "baselines",
                    measure=self.laboratory.measure,
                    quantities=self.laboratory.METRICS,
                    rebaseline=option.gia_rebaseline,
                    reason=option.gia_reason,
                    commit=self.commit,
                    drop=option.gia_drop or (),
                    elsewhere=True if option.gia_elsewhere else None,
                    samples=None if under_xdist(self.config) else self.folder.path / "samples",
                )
            except BaselineError as error:
                if option.gia_rebaseline or option.gia_drop:
                    raise pytest.UsageError(str(error)) from error
                raise
        return self._baselines

    def pytest_report_header(self) -> list[str]:
        """What the numbers of this run depend on."""
        facts = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        lines = [f"gia: {facts}, {self.config.option.gia_workers} workers"]
        if unset := unpinned():
            lines.append(f"numerics: not set, so float32 may differ from another machine's: {' '.join(unset)}")
        else:
            lines.append(f"numerics: {' '.join(f'{name}={value}' for name, value in REPEATABLE.items())}")
        return lines

    @pytest.hookimpl(trylast=True)  # after -k and -m
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave the rows to other shards that are theirs, and baselines and timings to a run without shards."""
        if self.share is not None:
            own = self.share.of([item for item in items if claim_ids(item)])
            if left := [item for item in items if item not in own]:
                config.hook.pytest_deselected(items=left)
            items[:] = own

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Check the ids, and write an empty list, so that no earlier run's verdicts are taken for this one's."""
        self.selection.check(self.register)
        if self.selection.selected():
            _ = self.confirm, self.layout  # a dirty tree, or a layout that is missing, is an error before anything runs
        option = self.config.option
        stopped = option.collectonly or (session.testsfailed and not option.continue_on_collection_errors)
        writes = not stopped and not option.gia_plan
        if self.selection.selected() and writes and not under_xdist(self.config):
            self.claims.recording.write()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Leave out the rows that a confirm run cannot or need not decide on."""
        ids = claim_ids(item)
        if ids and self.confirm is not None and not self.lane.opening:
            obstacles = [self.confirm.obstacle(id) for id in ids]
            if all(obstacles):
                pytest.skip(str(obstacles[0]))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know which test runs, and ask it for the verdicts that its marker promises."""
        self._item, self._began = item, time.perf_counter()
        try:
            result = yield
        finally:
            self._item = None
        if self.lane.placebo is None:
            self._ask_for_verdicts(claim_ids(item))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Ask the test of a row for a verdict under each placebo, one after the other."""
        ids = claim_ids(pyfuncitem)
        placebos = self._placebos if ids else None
        if placebos is None:
            return None
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        skips = []
        for name in placebos.names:
            placebos.current = name
            self._began = time.perf_counter()
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
        """Stop the workers, find stale baselines and rows without a verdict, and write the reports."""
        if self._pool is not None:
            self._pool.close()
        if self._baselines is not None:
            self._dropped, refused = self._baselines.drop()
            whole = self.selection.whole("baseline") and self.selection.all_passed("baseline")
            self._stale = [*refused, *self._baselines.finish(full=whole)]
        nothing = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if self.share is not None and nothing and self.selection.tests_of:
            session.exitstatus = pytest.ExitCode.OK  # more shards than rows
        if session.exitstatus == pytest.ExitCode.OK:
            if not (self.config.option.collectonly or under_xdist(self.config)):
                self._undecided = self.selection.undecided(self._decided())
            placed = [] if self._placebos is None or self._claims is None else self._claims.recording.rows
            if self._stale or self._undecided or any(map(broken, placed)):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._claims is not None and self.share is None and not self.config.option.gia_plan:
            self._report_claims()
        whole = all(self.selection.whole(marker) for marker in ("claim", "baseline"))
        self.folder.end(whole=whole, exit_status=int(session.exitstatus))

    def _report_claims(self) -> None:
        assert self._claims is not None
        if self.confirm is not None and self.lane.opening:
            announced = self.confirm.announce(self._claims.skips.announced)
            self.notices.append(
                f"announced in the ledger: {len(announced)} confirm runs at {self.confirm.head[:7]}; commit "
                "claims/ledger.toml and baselines/ledger.json, then run nox -s confirm"
            )
        self._claims.recording.write()
        if self.lane.placebo is None:
            report = markdown(self._report())
        else:
            report = f"```\n{matrix(self._claims.recording.rows)}\n```\n"
        (self.folder.path / "report.md").write_text(report, encoding="utf-8")
        page.write(self.folder.path, self._about(), self._report())
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of verdicts."""
        for name in self._dropped:
            terminalreporter.write_line(f"dropped baseline: {name}")
        for error in self._stale:
            terminalreporter.write_line(f"FAILED baseline: {error}", red=True)
        for line in self._undecided:
            terminalreporter.write_line(f"FAILED without a verdict: {line}", red=True)
        if self._claims is not None and self.share is not None:
            terminalreporter.section(f"shard {self.share}")
            terminalreporter.write_line(self._stored())
        elif self._claims is not None and self._claims.plan is not None:
            terminalreporter.section(f"plan at {self.scale} scale, {self.environment['device']}")
            terminalreporter.write_line(self._claims.plan.closing(self.config.option.gia_workers))
        elif self._claims is not None:
            what = "claims" if self.lane.placebo is None else "placebos"
            terminalreporter.section(f"{what} at {self.scale} scale")
            if self.lane.placebo is None:
                closing = Closing(self._report(), self._matrix, self._recorded())
                width, coloured = terminalreporter._tw.fullwidth, terminalreporter._tw.hasmarkup
                verbose = self.config.option.verbose > 0
                terminalreporter.write_line(closing.text(width, verbose=verbose, coloured=coloured))
            else:
                terminalreporter.write_line(matrix(self._claims.recording.rows))
            for id, file in self.records.stored:
                terminalreporter.write_line(f"recorded: {id} in {file}")
            terminalreporter.write_line(f"reports: {self.folder.path / PAGE}")

    def pytest_unconfigure(self) -> None:
        """Let others clean what this run used, also where the session ended early."""
        self.folder.end()
        if self._store is not None:
            self._store.close()

    def _begin(self) -> None:
        """Make the run folder before anything is computed. UsageError where that cannot be."""
        try:
            self.folder.begin()
        except (OSError, ValueError) as error:
            at = f"{self.folder.path}: {error}" if isinstance(error, OSError) else error
            raise pytest.UsageError(f"--gia-run-dir: expected a folder to write to, got {at}") from error

    def _ask_for_verdicts(self, ids: Sequence[str]) -> None:
        if missing := [id for id in ids if self._claims is None or not self._claims.recording.decided(id)]:
            pytest.fail(f"the test ended without a verdict on {missing[0]!r}: call claims.trend or claims.record")

    def _workers(self) -> Workers | None:
        """What computes blocks; None for this process."""
        where, number = self.config.option.gia_executor, self.config.option.gia_workers
        if where == LOCAL:
            return Pool(number) if number else None
        try:
            return workers_of(where, number)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            raise pytest.UsageError(f"--gia-executor: {error}") from error

    def _blocks(self) -> Path:
        """Where finished blocks are kept: with the run under CI, and where the project cannot be written to."""
        folder, own = self.config.rootpath / ".gia" / "cache" / "blocks", self.folder.blocks
        if self.ci and not self.config.option.gia_run_dir and self.lane.placebo is not None:
            before = newest(self._runs, self._kind)
            return own if before is None else before / own.name
        if self.ci:
            return own
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return self.folder.path / "blocks"
        return folder if os.access(folder, os.W_OK) else self.folder.path / "blocks"

    def _current(self) -> tuple[Sequence[str], list[tuple[str, object]], float]:
        if self._item is None:
            raise RuntimeError("claims: a verdict can only be recorded while a test runs")
        return claim_ids(self._item), self._item.user_properties, self._began

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        self._progress.line(f"warning: {text}")

    def _report(self) -> Run:
        order, partial = list(self.register), not self.selection.whole("claim")
        return Run(
            scale=self.scale,
            environment=self.environment,
            rows=sorted(self.claims.recording.rows, key=lambda row: order.index(row["id"])),
            without_verdict=self.selection.without_verdict(self._decided()),
            not_covered=None if partial else [id for id in order if id not in self.selection.tests_of],
            notices=self.notices,
            baselines=[str(comparison) for comparison in self._baselines.comparisons] if self._baselines else [],
        )

    def _stored(self) -> str:
        """What a shard did, in place of verdicts."""
        assert self._claims is not None
        stored = self._claims.recording.stored
        tables = [table for tables in stored.values() for table in tables]
        blocks, found = sum(len(table.results) for table in tables), sum(table.cached for table in tables)
        return (
            f"{len(stored)} rows, {blocks} blocks in {self._blocks()}: {blocks - found} computed here, {found} found "
            "there\nno verdicts: the same command without --shard gives them when all shards have ended"
        )

    @property
    def _matrix(self) -> Any:
        """The paper's table; None where it would show records of other attacks for most of its rows."""
        few = self._claims is None or 2 * len(self._claims.recording.rows) < len(self.register)
        return None if few and foreign(self.config.option) else self.layout.get("matrix")

    def _recorded(self) -> dict[str, str]:
        """Claim id -> its outcome on record, that of the confirm run where there is one."""
        confirmed, first = self.records.rows("confirm"), self.records.rows("claims")
        return {id: row["outcome"] for id, row in {**first, **confirmed}.items()}

    def _about(self) -> dict[str, Any]:
        """What the project knows of its claims, and what earlier runs say."""
        records = {lane: self.records.rows(lane) for lane in ("confirm", "claims", "reach")}
        return {
            **Project(self.register, self.records.ledger, records, self.layout).about(),
            "commands": page.commands(self.selection.tests_of, self.register, self.config),
            "placebos": placebos(self._runs, self.scale),
        }

    def _announce(self, text: str) -> None:
        """A verdict in one line, and how long the rest of the run will take."""
        self._progress.line("; ".join(filter(None, (text, self._time_left()))))

    def _time_left(self) -> str:
        """How long the rest of the run will take, in words; empty where nothing is known."""
        if self._claims is None or self.lane.placebo is not None:
            return ""
        done = {row["id"]: row["seconds"] for row in self._claims.recording.rows}
        return self._remaining.text(done)

    @cached_property
    def _remaining(self) -> Remaining:
        return Remaining(seconds_of_rows(self._runs, self.environment), self.selection.selected())

    def _decided(self) -> set[str]:
        if self._claims is None:
            return set()
        recording = self._claims.recording
        return {row["id"] for row in recording.rows} | set(recording.stored)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
