"""The pytest plugin of the claims: options, markers, fixtures, and the report at the end. Loaded with -p in addopts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings

from gia.harness.baseline.check import Baseline, Baselines
from gia.harness.baseline.file import BaselineError
from gia.harness.bench_run import BenchRun
from gia.harness.blocks import Block
from gia.harness.decide.register import Register, load_register
from gia.harness.live import Live
from gia.harness.protocol import Protocol
from gia.harness.report.markdown import markdown
from gia.harness.report.rows import Run
from gia.harness.report.text import terminal
from gia.harness.run import measure
from gia.harness.selection import Selection, claim_ids
from gia.harness.session import Claims, Context
from gia.harness.store import Store
from gia.harness.timing.against_base import commit_of
from gia.harness.timing.goals import Timings
from gia.harness.workers import Pool
from gia.numerics import REPEATABLE

_CHANGED = "+changes"
_RUN = pytest.StashKey["ClaimRun"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a run, and where the register lies."""
    group = parser.getgroup("gia", "claims about gradient inversion")
    group.addoption(
        "--scale",
        choices=("reduced", "paper"),
        default="reduced",
        help="small nets on the CPU, or the paper's settings",
    )
    group.addoption("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="where victims and attacks run")
    group.addoption("--data", metavar="ROOT", help="folder with the user's own data sets, for torchvision")
    group.addoption("--workers", type=int, default=2, metavar="N", help="worker processes; 0 computes in this one")
    group.addoption("--run-dir", metavar="DIR", help="where reports go (default: .gia/runs/<scale>-<commit>)")
    group.addoption("--junit", action="store_true", help="write junit.xml beside the reports")
    group.addoption("--rebaseline", action="store_true", help="move the stored baselines that fail; needs --reason")
    group.addoption("--reason", metavar="TEXT", help="why the baselines move; stored with them")
    group.addoption("--base", metavar="REF", help="time this working tree against that commit, in place of the goals")
    group.addoption("--repeats", type=int, default=1, metavar="N", help="planted slowdowns that --base has to tell")
    parser.addini("claims_register", "the register of claims, relative to the root", default="claims/claims.toml")


@pytest.hookimpl(tryfirst=True)  # before pytest's own junitxml looks at its option
def pytest_configure(config: pytest.Config) -> None:
    """Check the options and begin the run."""
    config.addinivalue_line("markers", "claim(*ids): the test gives the verdict on these rows of the register")
    config.addinivalue_line("markers", "baseline: compares a pinned grid with stored samples")
    config.addinivalue_line("markers", "timing: measures what something costs")
    settings.load_profile("unit")  # registered by gia.harness.blocks; claims name theirs
    option = config.option
    if option.workers < 0:
        raise pytest.UsageError(f"--workers: expected 0 or more, got {option.workers}")
    if option.reason is not None and not option.rebaseline:
        raise pytest.UsageError("--reason: expected together with --rebaseline")
    if option.repeats < 1:
        raise pytest.UsageError(f"--repeats: expected at least 1, got {option.repeats}")
    if option.base is not None:
        try:
            commit_of(config.rootpath, option.base)
        except ValueError as error:
            raise pytest.UsageError(f"--base: {error}") from error
    run = ClaimRun(config)
    if option.junit and not option.xmlpath:
        option.xmlpath = str(run.folder / "junit.xml")
    if option.rebaseline:
        run.open_baselines()
    config.stash[_RUN] = run
    config.pluginmanager.register(run, "gia-claims")
    config.pluginmanager.register(run.selection, "gia-selection")
    config.pluginmanager.register(run.bench, "gia-bench")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What the numbers of this run depend on."""
    run = config.stash[_RUN]
    facts = ", ".join(f"{name} {text}" for name, text in run.environment.items())
    lines = [f"gia: {facts}, {config.option.workers} workers"]
    if unset := [f"{name}={value}" for name, value in REPEATABLE.items() if os.environ.get(name) != value]:
        lines.append(f"numerics: not set, so float32 may differ from another machine's: {' '.join(unset)}")
    else:
        lines.append(f"numerics: {' '.join(f'{name}={value}' for name, value in REPEATABLE.items())}")
    return lines


@pytest.fixture(scope="session")
def claims(request: pytest.FixtureRequest) -> Claims:
    """Runs experiments, decides and records: see `gia.harness.session.Claims`."""
    if _under_xdist(request.config):
        pytest.fail("claims have worker processes of their own (--workers): run them without -n", pytrace=False)
    return request.config.stash[_RUN].claims


@pytest.fixture(scope="module")
def baseline(request: pytest.FixtureRequest) -> Baseline:
    """The stored samples of this module: baselines/<module without test_>.json."""
    return request.config.stash[_RUN].open_baselines().open(request.path.stem.removeprefix("test_"))


@pytest.fixture(scope="session")
def timings(request: pytest.FixtureRequest) -> Timings:
    """Records what was timed and holds it to its goals: see `gia.harness.timing.goals.Timings`."""
    return request.config.stash[_RUN].bench.timings


class ClaimRun:
    """What one pytest session knows of its claims, and the hooks that need it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.ci = bool(os.environ.get("CI"))
        self.scale: str = config.option.scale
        self.commit = _commit(config.rootpath)
        self.environment = {
            "scale": self.scale,
            "device": _device(config.option.device),
            "torch": torch.__version__,
            "commit": self.commit,
        }
        self.notices: list[str] = []
        self.selection = Selection(config, self.register_path.parent)
        self.bench = BenchRun(config, self.folder, self.environment)
        self._live = Live(config)
        self._register: Register | None = None
        self._claims: Claims | None = None
        self._pool: Pool | None = None
        self._baselines: Baselines | None = None
        self._stale: Sequence[BaselineError] = ()
        self._item: pytest.Item | None = None
        self._began = 0.0

    @property
    def folder(self) -> Path:
        """Where this run's reports go."""
        chosen = self.config.option.run_dir
        name = f"{self.scale}-{self.commit.removesuffix(_CHANGED)}"
        return Path(chosen).resolve() if chosen else self.config.rootpath / ".gia" / "runs" / name

    @property
    def register_path(self) -> Path:
        """Where the register lies; what lies beside it are the claims."""
        return Path(self.config.rootpath, self.config.getini("claims_register"))

    @property
    def register(self) -> Register:
        """The rows of the register, read once. UsageError where it is missing or wrong."""
        if self._register is None:
            if not self.register_path.exists():
                raise pytest.UsageError(f"no register at {self.register_path}; see the ini option claims_register")
            try:
                self._register = load_register(self.register_path)
            except ValueError as error:
                raise pytest.UsageError(f"{self.register_path}: {error}") from error
        return self._register

    @property
    def claims(self) -> Claims:
        """Made when first asked for: a run without claims writes nothing."""
        if self._claims is None:
            option = self.config.option
            self._pool = Pool(option.workers) if option.workers else None
            folder = self.folder / "blocks" if self.ci else self.config.rootpath / ".gia" / "cache" / "blocks"
            sources = [path for path in self.register_path.parent.rglob("*.py") if not path.name.startswith("test_")]
            store = Store(folder, sources=sources, notice=self._notice)
            if self.ci:
                store.clear()
            self._claims = Claims(
                Context(
                    register=self.register,
                    scale=self.scale,
                    device=self.environment["device"],
                    root=option.data,
                    folder=self.folder,
                    store=store,
                    workers=self._pool or 0,
                    facts={name: self.environment[name] for name in ("torch", "device", "commit")},
                    announce=self._live.line,
                    progress=self._live.progress,
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
                    measure=_measured,
                    quantities=_QUANTITIES,
                    rebaseline=option.rebaseline,
                    reason=option.reason,
                    commit=self.commit,
                )
            except BaselineError as error:
                if option.rebaseline:
                    raise pytest.UsageError(str(error)) from error
                raise
        return self._baselines

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Check the ids, and write an empty list, so that no earlier run's verdicts are taken for this one's."""
        if self.selection.tests_of:
            self.selection.check(self.register)
        if self.selection.selected() and not self.config.option.collectonly and not _under_xdist(self.config):
            self.claims.write()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        self._item, self._began = item, time.perf_counter()
        try:
            result = yield
        finally:
            self._item = None
        if missing := [id for id in claim_ids(item) if id not in self._decided()]:
            pytest.fail(f"the test ended without a verdict on {missing[0]!r}: call claims.trend or claims.record")
        return result

    def _current(self) -> tuple[Sequence[str], list[tuple[str, object]], float]:
        if self._item is None:
            raise RuntimeError("claims: a verdict can only be recorded while a test runs")
        return claim_ids(self._item), self._item.user_properties, self._began

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        self._live.line(f"warning: {text}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._baselines is not None:
            whole = self.selection.whole("baseline") and self.selection.all_passed("baseline")
            self._stale = self._baselines.finish(full=whole)
            if self._stale and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._claims is None:
            return
        self._claims.write()
        text = markdown(self._report())
        (self.folder / "report.md").write_text(text, encoding="utf-8")
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(text)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for error in self._stale:
            terminalreporter.write_line(f"FAILED baseline: {error}", red=True)
        if self._claims is not None:
            terminalreporter.section(f"claims at {self.scale} scale")
            terminalreporter.write_line(terminal(self._report(), terminalreporter._tw.fullwidth))
            terminalreporter.write_line(f"reports: {self.folder}")

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


class _Quantity(NamedTuple):
    unit: str
    higher_is_better: bool = True
    tolerance: float = 1e-5
    platform_spread: float = 0.0


#: The platform spread of psnr: float64 with sign updates agreed to 1e-6 dB between instruction sets.
_QUANTITIES = {
    "psnr": _Quantity("dB", platform_spread=1e-6),
    "ssim": _Quantity("1"),
    "cw_ssim": _Quantity("1"),
    "lpips": _Quantity("1", higher_is_better=False),
    "rmse": _Quantity("1", higher_is_better=False),
}


class _Seen(NamedTuple):
    values: Mapping[str, float | None]
    counts: Mapping[str, int]


def _measured(level: Protocol, block: Block) -> _Seen:
    result = measure(level, block)
    return _Seen(result.values, {"gradient_evaluations": result.gradient_evaluations})


def _under_xdist(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _device(asked: str) -> str:
    if asked == "cpu":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise pytest.UsageError(f"--device cuda: torch {torch.__version__} sees no CUDA device here; use --device cpu")
    return "cpu"


def _commit(root: Path) -> str:
    """The short commit, "+changes" where the working tree differs from it; "unversioned" outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", f"--dirty={_CHANGED}", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"
    return found.stdout.strip()
