"""What the run of one session is asked for, and what it works with: each part is made when somebody asks for it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from gia.harness.baseline.check import Baselines
from gia.harness.baseline.file import BaselineError
from gia.harness.blocks.ahead import Ahead, Wanted
from gia.harness.blocks.cluster import workers_of
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Pool, Workers
from gia.harness.ci import under_ci
from gia.harness.decide.ledger import LedgerError
from gia.harness.decide.register import Register, load_register
from gia.harness.plugin.checks import under_xdist
from gia.harness.plugin.claims import Claims
from gia.harness.plugin.coming import Coming
from gia.harness.plugin.confirm import Confirm
from gia.harness.plugin.context import Context
from gia.harness.plugin.earlier import Remaining, seconds_of_rows
from gia.harness.plugin.environment import commit_at, device_for
from gia.harness.plugin.folder import RunFolder, newest
from gia.harness.plugin.laboratory import Laboratory, load
from gia.harness.plugin.lanes import Lane
from gia.harness.plugin.options import LOCAL, foreign
from gia.harness.plugin.outside import substitution
from gia.harness.plugin.placebos import ALL, Placebos
from gia.harness.plugin.plan import Plan
from gia.harness.plugin.progress import Progress
from gia.harness.plugin.records import Records
from gia.harness.plugin.selection import Selection, claim_ids
from gia.harness.plugin.shards import share
from gia.harness.plugin.timings import TimingRun
from gia.harness.report.project import layout_of


class ClaimRun:
    """What the run of a session with a register is asked for, and what it works with.

    Args:
        config: of pytest, with options that do not contradict each other.
        register: the file of the register.

    Attributes:
        environment: what the numbers of this run depend on, name -> text.
        runs: where the project's run folders lie.
        notices: what the report must say of the run as a whole.
        made_claims, made_baselines: as `claims` and `baselines`, but None as long as nobody has asked for them.
        item, began: the test that runs, None between tests, and when it began.

    Raises:
        UsageError: for a register or an option that cannot be used.
    """

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
        self.device = device_for(option.gia_device)
        self.lane = Lane(
            option.gia_lane, option.gia_placebo, option.gia_open, option.gia_draws, early=option.gia_stop_early
        )
        self.environment = self._environment()
        self.share = None if option.gia_shard is None else share(option.gia_shard)
        self.notices = _foreign_notices(option)
        self.selection = Selection(config, register.parent, recorded=self.recorded)
        given = None if not option.gia_run_dir else Path(option.gia_run_dir).resolve()
        self.runs = config.rootpath / ".gia" / "runs"
        self._kind = f"{self.scale}-{self.commit}"
        user = "".join(f"-{_plain(name)}" for name in foreign(option))
        if self.share is not None:
            user += f"-shard{self.share.index}of{self.share.count}"
        self.folder = RunFolder(self.runs, f"{self._kind}{self.lane.suffix}{user}", self.environment, given=given)
        self.timings = TimingRun(config, self.folder, self.environment)
        self._progress = Progress(config, self._time_left)
        self.made_claims: Claims | None = None
        self.made_baselines: Baselines | None = None
        self._store: Store | None = None
        self._pool: Workers | None = None
        self._context: Context | None = None
        self._coming: Coming | None = None
        self.item: pytest.Item | None = None
        self.began = 0.0

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
    def placebos(self) -> Placebos | None:
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
        if self.made_claims is None:
            option, placebos, records, laboratory = self.config.option, self.placebos, self.records, self.laboratory
            substitute = substitution(laboratory, option) if foreign(option) else None
            self._pool = self._workers()
            if not option.gia_plan:
                self._begin()  # last: a wrong option leaves no folder
            store = self._store = Store(self.blocks_folder(), root=self.config.rootpath, notice=self._notice)
            self._context = Context(
                register=self.register,
                scale=self.scale,
                device=self.device,
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
            self.made_claims = Claims(self._context)
        return self.made_claims

    @property
    def baselines(self) -> Baselines:
        """For a test: its samples are kept in the run folder."""
        if not under_xdist(self.config):
            self._begin()
        return self.open_baselines()

    def open_baselines(self) -> Baselines:
        """The stored baselines, read and checked when first asked for."""
        if self.made_baselines is None:
            option = self.config.option
            try:
                self.made_baselines = Baselines(
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
        return self.made_baselines

    def blocks_folder(self) -> Path:
        """Where finished blocks are kept: with the run under CI, and where the project cannot be written to."""
        folder, own = self.config.rootpath / ".gia" / "cache" / "blocks", self.folder.blocks
        if self.ci and not self.config.option.gia_run_dir and self.lane.placebo is not None:
            before = newest(self.runs, self._kind)
            return own if before is None else before / own.name
        if self.ci:
            return own
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return self.folder.path / "blocks"
        return folder if os.access(folder, os.W_OK) else self.folder.path / "blocks"

    def begin_test(self, item: pytest.Item) -> None:
        """Before a test is called."""
        self.item = item
        if self._coming is None and self._pool is not None and self._store is not None and self._computes_ahead():
            ahead = self._pool.spare = Ahead(self._store)
            self._coming = Coming(item.session.items, self._ask, ahead, self._pool)
        if self._coming is not None:
            self._coming.begin(item)
        self.began = time.perf_counter()

    def decided(self) -> set[str]:
        """The claims that have a verdict, or in a shard their blocks."""
        if self.made_claims is None:
            return set()
        recording = self.made_claims.recording
        return {row["id"] for row in recording.rows} | set(recording.stored)

    def recorded(self) -> set[str]:
        """The rows that are on record at this scale. UsageError for a file of records that is malformed."""
        try:
            return {id for lane in ("claims", "confirm") for id in self.records.rows(lane)}
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error

    def swallowed(self) -> list[str]:
        """The rows whose test went on after its verdict was found to contradict the record, one line each."""
        rows = [] if self.made_claims is None else self.made_claims.recording.rows
        return [f"{row['id']}: {row['disagrees']}" for row in rows if row["disagrees"]]

    def stop_workers(self) -> None:
        """After the last test."""
        if self._pool is not None:
            self._pool.close()

    def close(self) -> None:
        """Let others clean what this run used, also where the session ended early."""
        self.folder.end()
        if self._store is not None:
            self._store.close()

    def _environment(self) -> dict[str, str]:
        option = self.config.option
        environment = {
            "scale": self.scale,
            "device": self.device,
            "torch": torch.__version__,
            "commit": self.commit,
        }
        if option.gia_attack is not None:
            environment["attack"] = option.gia_attack
        if option.gia_defense:
            environment["defense"] = "; ".join(option.gia_defense)
        if self.lane.early:
            environment["looks"] = "end early"
        if self.lane.suffix:
            environment["lane"] = self.lane.suffix[1:]
        return environment

    def _begin(self) -> None:
        """Make the run folder before anything is computed. UsageError where that cannot be."""
        try:
            self.folder.begin()
        except (OSError, ValueError) as error:
            at = f"{self.folder.path}: {error}" if isinstance(error, OSError) else error
            raise pytest.UsageError(f"--gia-run-dir: expected a folder to write to, got {at}") from error

    def _workers(self) -> Workers | None:
        """What computes blocks; None for this process."""
        where, number = self.config.option.gia_executor, self.config.option.gia_workers
        if where == LOCAL:
            return Pool(number) if number else None
        try:
            return workers_of(where, number)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            raise pytest.UsageError(f"--gia-executor: {error}") from error

    def _computes_ahead(self) -> bool:
        """Whether the blocks of a row are known before its test runs: in other lanes they depend on records."""
        option = self.config.option
        return self.lane == Lane(early=self.lane.early) and not option.gia_plan

    def _ask(self, item: pytest.Function, arguments: Mapping[str, Any]) -> list[Wanted]:
        """What the test of a row measures first; nothing is measured."""
        assert self._context is not None
        found: list[Wanted] = []
        before, self.item, self._context.wanted = self.item, item, found
        try:
            with suppress(pytest.skip.Exception):
                item.obj(**arguments)
        finally:
            self.item, self._context.wanted = before, None
        return found

    def _current(self) -> tuple[Sequence[str], list[tuple[str, object]], float]:
        if self.item is None:
            raise RuntimeError("claims: a verdict can only be recorded while a test runs")
        return claim_ids(self.item), self.item.user_properties, self.began

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        self._progress.line(f"warning: {text}")

    def _announce(self, text: str) -> None:
        """A verdict in one line, and how long the rest of the run will take."""
        self._progress.line("; ".join(filter(None, (text, self._time_left()))))

    def _time_left(self) -> str:
        """How long the rest of the run will take, in words; empty where nothing is known."""
        if self.made_claims is None or self.lane.placebo is not None:
            return ""
        done = {row["id"]: row["seconds"] for row in self.made_claims.recording.rows}
        return self._remaining.text(done)

    @cached_property
    def _remaining(self) -> Remaining:
        return Remaining(seconds_of_rows(self.runs, self.environment), self.selection.selected())


RUN = pytest.StashKey[ClaimRun]()


def _foreign_notices(option: Any) -> list[str]:
    """What the report says of a user's attack and defenses."""
    notices = []
    if option.gia_attack is not None:
        notices.append(
            f"{option.gia_attack} takes the place of each protocol's attack; no verdict is compared with the register"
        )
    if option.gia_defense:
        notices.append(
            f"the clients of every row defend themselves with {'; '.join(option.gia_defense)}, which attacks do "
            "not know of; no verdict is compared with the register"
        )
    return notices


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
