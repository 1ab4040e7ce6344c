"""One pytest session with a register: its claims, its baselines, its timings, and the report at the end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from gia.harness.baseline.check import Baselines
from gia.harness.baseline.file import BaselineError
from gia.harness.blocks.folders import Hold, hold
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Pool
from gia.harness.decide.ledger import LedgerError
from gia.harness.decide.register import Register, load_register
from gia.harness.plugin.claims import Claims, Context
from gia.harness.plugin.confirm import Confirm
from gia.harness.plugin.laboratory import Laboratory, Substitution, load
from gia.harness.plugin.lanes import DRAWS, LANES, Lane
from gia.harness.plugin.progress import Progress
from gia.harness.plugin.records import Records
from gia.harness.plugin.selection import Selection, claim_ids
from gia.harness.plugin.timings import TimingRun
from gia.harness.report.markdown import markdown
from gia.harness.report.rows import Run
from gia.harness.report.text import terminal
from gia.harness.timing.against_base import commit_of
from gia.numerics import REPEATABLE

_CHANGED = "+changes"
RUN = pytest.StashKey["ClaimRun"]()


def begin(config: pytest.Config, register: Path) -> None:
    """Check the options and register what the session needs. Raises UsageError for options that contradict."""
    for marker in (
        "claim(*ids): the test gives the verdict on these rows of the register",
        "baseline: compares a pinned grid with stored samples",
        "timing: measures what something costs",
    ):
        config.addinivalue_line("markers", marker)
    option = config.option
    if option.gia_workers < 0:
        raise pytest.UsageError(f"--gia-workers: expected 0 or more, got {option.gia_workers}")
    if option.gia_reason is not None and not (option.gia_rebaseline or option.gia_record):
        raise pytest.UsageError("--gia-reason: expected together with --gia-rebaseline or --gia-record")
    _check_lane(option)
    if option.gia_attack_settings is not None and option.gia_attack is None:
        raise pytest.UsageError("--gia-attack-settings: expected together with --gia-attack")
    if option.gia_rebaseline and option.gia_attack is not None:
        raise pytest.UsageError(
            "--gia-rebaseline: expected without --gia-attack, since baselines are of the own attacks"
        )
    if option.gia_repeats < 1:
        raise pytest.UsageError(f"--gia-repeats: expected at least 1, got {option.gia_repeats}")
    if option.gia_base is not None:
        try:
            commit_of(config.rootpath, option.gia_base)
        except ValueError as error:
            raise pytest.UsageError(f"--gia-base: {error}") from error
    run = ClaimRun(config, register)
    if option.gia_junit and not option.xmlpath:
        option.xmlpath = str(run.folder / "junit.xml")
    if option.gia_rebaseline:
        run.open_baselines()
    config.stash[RUN] = run
    for name, plugin in {"claims": run, "selection": run.selection, "timings": run.timings}.items():
        config.pluginmanager.register(plugin, f"gia-{name}")


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
        self.ci = bool(os.environ.get("CI"))
        self.commit = _commit(config.rootpath)
        self.environment = {
            "scale": self.scale,
            "device": _device(option.gia_device),
            "torch": torch.__version__,
            "commit": self.commit,
        }
        self.lane = Lane(option.gia_lane, option.gia_placebo, option.gia_open, option.gia_draws)
        if option.gia_attack is not None:
            self.environment["attack"] = option.gia_attack
        if self.lane.suffix:
            self.environment["lane"] = self.lane.suffix[1:]
        self.notices: list[str] = []
        if option.gia_attack is not None:
            self.notices.append(
                f"{option.gia_attack} takes the place of each protocol's attack; "
                "no verdict is compared with the register"
            )
        self.selection = Selection(config, register.parent)
        self.timings = TimingRun(config, self.folder, self.environment)
        self._progress = Progress(config)
        self._claims: Claims | None = None
        self._hold: Hold | None = None
        self._store: Store | None = None
        self._pool: Pool | None = None
        self._baselines: Baselines | None = None
        self._stale: Sequence[BaselineError] = ()
        self._item: pytest.Item | None = None
        self._began = 0.0

    @property
    def folder(self) -> Path:
        """Where this run's reports go."""
        option = self.config.option
        if option.gia_run_dir:
            return Path(option.gia_run_dir).resolve()
        name = f"{self.scale}-{self.commit.removesuffix(_CHANGED)}{self.lane.suffix}"
        if option.gia_attack is not None:
            name += "-" + "".join(letter if letter.isalnum() else "_" for letter in option.gia_attack)
        return self.config.rootpath / ".gia" / "runs" / name

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
    def confirm(self) -> Confirm | None:
        """Which rows may be confirmed; None in another lane. UsageError where the working tree is dirty."""
        if self.lane.name != "confirm":
            return None
        try:
            return Confirm(self.config.rootpath, self.records)
        except ValueError as error:
            raise pytest.UsageError(f"--gia-lane=confirm: {error}") from error

    @property
    def claims(self) -> Claims:
        """Made when first asked for: a run without claims writes nothing."""
        if self._claims is None:
            option, placebos = self.config.option, self.laboratory.PLACEBOS
            if self.lane.placebo not in (None, *placebos):
                raise pytest.UsageError(f"--gia-placebo: expected one of {list(placebos)}, got {self.lane.placebo!r}")
            self._pool = Pool(option.gia_workers) if option.gia_workers else None
            self._hold = hold(self.folder)  # before anything is written: gia marks empty folders only
            store = self._store = Store(self._blocks(), notice=self._notice)
            if self.ci and self.lane == Lane():
                store.clear()  # the other lanes take victims from the claims run before them
            self._claims = Claims(
                Context(
                    register=self.register,
                    scale=self.scale,
                    device=self.environment["device"],
                    root=option.gia_data,
                    folder=self.folder,
                    store=store,
                    workers=self._pool or 0,
                    lane=self.lane,
                    records=self.records,
                    confirm=self.confirm,
                    store_because=option.gia_reason if option.gia_record else None,
                    facts={name: self.environment[name] for name in ("torch", "device", "commit")},
                    laboratory=self.laboratory,
                    substitute=None if option.gia_attack is None else self._substitution(),
                    announce=self._progress.line,
                    progress=self._progress.reporter,
                    current=self._current,
                )
            )
        return self._claims

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
                )
            except BaselineError as error:
                if option.gia_rebaseline:
                    raise pytest.UsageError(str(error)) from error
                raise
        return self._baselines

    def pytest_report_header(self) -> list[str]:
        """What the numbers of this run depend on."""
        facts = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        lines = [f"gia: {facts}, {self.config.option.gia_workers} workers"]
        if unset := [f"{name}={value}" for name, value in REPEATABLE.items() if os.environ.get(name) != value]:
            lines.append(f"numerics: not set, so float32 may differ from another machine's: {' '.join(unset)}")
        else:
            lines.append(f"numerics: {' '.join(f'{name}={value}' for name, value in REPEATABLE.items())}")
        return lines

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Check the ids, and write an empty list, so that no earlier run's verdicts are taken for this one's."""
        self.selection.check(self.register)
        if self.selection.selected():
            _ = self.confirm  # a dirty tree is an error before anything runs
        if self.selection.selected() and not self.config.option.collectonly and not under_xdist(self.config):
            try:
                self.claims.write()
            except OSError as error:
                self._claims = None  # no report can be written at the end either
                raise pytest.UsageError(
                    f"--gia-run-dir: expected a folder to write to, got {self.folder}: {error}"
                ) from error

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
        if missing := [id for id in claim_ids(item) if id not in self._decided()]:
            pytest.fail(f"the test ended without a verdict on {missing[0]!r}: call claims.trend or claims.record")
        return result

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Stop the workers, find stale baselines, and write the reports."""
        if self._pool is not None:
            self._pool.close()
        if self._baselines is not None:
            whole = self.selection.whole("baseline") and self.selection.all_passed("baseline")
            self._stale = self._baselines.finish(full=whole)
            if self._stale and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._claims is None:
            return
        if self.confirm is not None and self.lane.opening:
            announced = self.confirm.announce(self._claims.announced)
            self.notices.append(
                f"announced in the ledger: {len(announced)} confirm runs at {self.confirm.head[:7]}; commit "
                "claims/ledger.toml and baselines/ledger.json, then run nox -s confirm"
            )
        self._claims.write()
        report = markdown(self._report())
        (self.folder / "report.md").write_text(report, encoding="utf-8")
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(report)

    def pytest_unconfigure(self) -> None:
        """Let others clean what this run used."""
        for held in (self._hold, self._store):
            if held is not None:
                held.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of verdicts."""
        for error in self._stale:
            terminalreporter.write_line(f"FAILED baseline: {error}", red=True)
        if self._claims is not None:
            terminalreporter.section(f"claims at {self.scale} scale")
            terminalreporter.write_line(terminal(self._report(), terminalreporter._tw.fullwidth))
            terminalreporter.write_line(f"reports: {self.folder}")

    def _blocks(self) -> Path:
        """Where finished blocks are kept: with the run under CI, and where the project cannot be written to."""
        folder = self.config.rootpath / ".gia" / "cache" / "blocks"
        if self.ci and not self.config.option.gia_run_dir and self.lane.placebo is not None:
            name = self.folder.name.removesuffix(self.lane.suffix)
            return self.folder.with_name(name) / "blocks"  # of the claims run before it
        if self.ci:
            return self.folder / "blocks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return self.folder / "blocks"
        return folder if os.access(folder, os.W_OK) else self.folder / "blocks"

    def _substitution(self) -> Substitution:
        """What puts the user's attack in the place of a protocol's own."""
        option = self.config.option
        try:
            settings = json.loads(option.gia_attack_settings or "{}")
        except ValueError as error:
            raise pytest.UsageError(
                f"--gia-attack-settings: expected JSON, got {option.gia_attack_settings}: {error}"
            ) from error
        if not isinstance(settings, dict):
            raise pytest.UsageError(f"--gia-attack-settings: expected an object, got {option.gia_attack_settings}")
        try:
            return self.laboratory.substitution(option.gia_attack, settings)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"--gia-attack: {error}") from error

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
            rows=sorted(self.claims.rows, key=lambda row: order.index(row["id"])),
            without_verdict=self.selection.without_verdict(self._decided()),
            not_covered=None if partial else [id for id in order if id not in self.selection.tests_of],
            notices=self.notices,
            baselines=[str(comparison) for comparison in self._baselines.comparisons] if self._baselines else [],
        )

    def _decided(self) -> set[str]:
        return set() if self._claims is None else {row["id"] for row in self._claims.rows}


def _check_lane(option: Any) -> None:
    """Raise UsageError for options of lanes that contradict each other."""
    lane, elsewhere = option.gia_lane, LANES[0]
    wrong = {
        "--gia-record: expected --gia-reason": option.gia_record and not (option.gia_reason or "").strip(),
        "--gia-record: expected outside CI, where its owner sees the verdicts": option.gia_record
        and os.environ.get("CI"),
        f"--gia-record: expected in the lane {elsewhere}, on the protocols' own attacks": option.gia_record
        and (lane != elsewhere or option.gia_placebo or option.gia_attack),
        f"--gia-placebo: expected in the lane {elsewhere}, without --gia-attack": option.gia_placebo
        and (lane != elsewhere or option.gia_attack),
        "--gia-lane: expected confirm and reach without --gia-attack": option.gia_attack
        and lane in ("confirm", "reach"),
        "--gia-open: expected in the lane confirm": option.gia_open and lane != "confirm",
        f"--gia-draws: expected at least {DRAWS}, in the lane reach": option.gia_draws != DRAWS
        and (lane != "reach" or option.gia_draws < DRAWS),
    }
    for message, holds in wrong.items():
        if holds:
            raise pytest.UsageError(message)


def under_xdist(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def _device(asked: str) -> str:
    if asked == "cpu":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise pytest.UsageError(
            f"--gia-device: expected a CUDA device that torch {torch.__version__} can see, got none; use cpu"
        )
    return "cpu"


def _commit(root: Path) -> str:
    """The short commit, "+changes" where the working tree differs from it; "unversioned" outside git."""
    command = ["git", "describe", "--always", f"--dirty={_CHANGED}", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"
    return answer.stdout.strip()
