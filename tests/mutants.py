"""A mutation run: plants each break of tests/mutants.toml in a copy of the tree, and expects its test to fail there.

    python -m tests.mutants --processes 2 --changed main

A break is killed if its test passes in an unbroken copy and fails in a broken one. A test that cannot be collected, is
skipped, or does not end proves nothing. Kills are remembered in .gia/mutants.txt while the break, the broken file and
the test's module are unchanged, so an interrupted run continues. It needs a system that
forks. Exit status 1 says that some break was not killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
LIST = Path("tests", "mutants.toml")
KILLED = "killed"

#: Imported once, by the process from which that of each test is forked: loading them takes longer than most tests.
#: None of them is part of the tree. A test may find them imported, so one that asks what an import does starts Python.
PRELOADED = ["hypothesis", "lpips", "matplotlib.pyplot", "pytest", "scipy.optimize", "torch._dynamo", "torchvision"]


@dataclass(frozen=True)
class Mutant:
    """A break: `find`, which stands once in `file`, becomes `replace`, and `test` (a node id) must fail."""

    file: str
    find: str
    replace: str
    test: str

    @property
    def module(self) -> str:
        """The file of the test."""
        return self.test.partition("::")[0]

    def planted(self, source: str) -> str:
        """The broken source. Raises ValueError where the break cannot be planted."""
        count = source.count(self.find)
        if count != 1 or self.find == self.replace:
            raise ValueError(f"find: expected one place that changes, got {count} in {self.file}: {self.find!r}")
        return source.replace(self.find, self.replace)


@dataclass(frozen=True)
class Run:
    """How a test ended: "passed", "failed", or why it did neither; its seconds; the last line that it printed."""

    outcome: str
    seconds: float
    last: str


def listed(text: str) -> list[Mutant]:
    """The breaks of a list in the format of tests/mutants.toml."""
    return [Mutant(**mutant) for mutant in tomllib.loads(text)["mutant"]]


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, encoding="utf-8").stdout


def near(mutants: Iterable[Mutant], root: Path, ref: str) -> list[Mutant]:
    """The breaks that are new since a commit, or whose broken file or test's module changed since then."""
    untracked = git(root, "ls-files", "--others", "--exclude-standard", "-z")
    changed = {*git(root, "diff", "--name-only", "-z", ref).split("\0"), *untracked.split("\0")}
    old = set(listed(git(root, "show", f"{ref}:{LIST.as_posix()}")))
    return [mutant for mutant in mutants if mutant not in old or {mutant.file, mutant.module} & changed]


class Copies:
    """Runs single tests, each in a fresh copy of the files that git does not ignore.

    Args:
        root: of the tree. It is copied once, so it may be edited during the run.
        folder: an empty one, for the copies.
        limit: seconds after which a broken test is ended; by default many times those of the unbroken one.
    """

    def __init__(self, root: Path, folder: Path, *, limit: float | None = None) -> None:
        self._folder, self._tree, self._limit = folder, folder / "unbroken", limit
        for name in git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
            if name and (root / name).is_file():
                (self._tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self._tree / name)
        self._lock = threading.Lock()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._turns: dict[str, threading.Lock] = {}
        self._unbroken: dict[str, Run] = {}

    def key(self, mutant: Mutant) -> str | None:
        """A digest of the break and of the two files that it names; None where one of them is missing."""
        try:
            files = [(self._tree / name).read_bytes() for name in (mutant.file, mutant.module)]
        except OSError:
            return None
        return hashlib.sha256(b"\0".join([repr(mutant).encode(), *files])).hexdigest()

    def judge(self, mutant: Mutant) -> Run:
        """Plant one break: "killed", "survived", "cannot be applied", or what the test did instead of failing."""
        try:
            source = mutant.planted((self._tree / mutant.file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return Run("cannot be applied", 0.0, str(error))
        unbroken = self._without_break(mutant.test)
        if unbroken.outcome != "passed":
            return Run(f"{unbroken.outcome} without the break", unbroken.seconds, unbroken.last)
        run = self._run(mutant.test, {mutant.file: source}, self._limit or max(120.0, 20 * unbroken.seconds))
        return Run({"failed": KILLED, "passed": "survived"}.get(run.outcome, run.outcome), run.seconds, run.last)

    def _without_break(self, test: str) -> Run:
        """The test in an unbroken copy: once, whatever the number of breaks that it must catch."""
        with self._lock:
            turn = self._turns.setdefault(test, threading.Lock())
        with turn:
            if test not in self._unbroken:
                self._unbroken[test] = self._run(test, {}, None)
            return self._unbroken[test]

    def _run(self, test: str, broken: dict[str, str], limit: float | None) -> Run:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as made:
            tree, report = Path(made) / "tree", Path(made) / "report.xml"
            shutil.copytree(self._tree, tree)
            for name, source in broken.items():
                (tree / name).write_text(source, encoding="utf-8")
            printed = Path(made) / "printed.txt"
            process = self._context.Process(target=_test, args=(test, tree, report, printed))
            with self._lock:
                process.start()
            process.join(limit)
            ended = process.exitcode is not None
            _end(process)
            if not ended:
                return Run("did not end", time.monotonic() - start, f"after {limit:.0f} s")
            text = printed.read_text(encoding="utf-8", errors="replace") if printed.exists() else ""
            last = (text.strip().splitlines() or [""])[-1]
            return Run(_outcome(process.exitcode, report), time.monotonic() - start, last)


def _test(test: str, tree: Path, report: Path, printed: Path) -> None:
    """Run one test of a copy, in a process that was forked for it."""
    os.setsid()
    with printed.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(tree)
    os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    # This module is the checkout's: what the test imports must be the copy's.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("claims", "gia", "tests")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    import pytest

    options = ("-x", "-q", "--benchmark-disable", "-p", "no:cacheprovider", f"--junitxml={report}")
    # Said of what is preloaded: where the break makes an error of every warning, no test would run.
    preloaded = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    sys.exit(int(pytest.main([test, *options, *preloaded])))


def _end(process: BaseProcess) -> None:
    """End a test that hangs, and the processes that a test started."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _outcome(status: int | None, report: Path) -> str:
    """pytest's status alone cannot tell a failed test from one that was never run."""
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    ends = Counter(child.tag for case in cases for child in case if child.tag in ("failure", "error", "skipped"))
    if status == 1 and (ends["failure"] or ends["error"]):
        return "failed"
    if status == 0 and len(cases) > ends["skipped"]:
        return "passed"
    return "skipped" if status == 0 and cases else "could not be run"


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT, limit: float | None = None) -> int:
    """Run the breaks that the arguments select, print one line each, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="tests that run at once")
    parser.add_argument("--changed", metavar="REF", help="only breaks whose file or test changed since this commit")
    parser.add_argument("-k", dest="name", default="", help="only breaks whose file or test contains this text")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of them, spread over the list")
    parser.add_argument("--again", action="store_true", help="also those that are remembered as killed")
    chosen = parser.parse_args(arguments)

    mutants = listed((root / LIST).read_text(encoding="utf-8"))
    if chosen.changed is not None:
        mutants = near(mutants, root, chosen.changed)
    mutants = [mutant for mutant in mutants if chosen.name in mutant.file or chosen.name in mutant.test]
    if chosen.sample is not None:
        mutants = [mutants[i * len(mutants) // chosen.sample] for i in range(min(chosen.sample, len(mutants)))]

    memory = root / ".gia" / "mutants.txt"
    memory.parent.mkdir(exist_ok=True)
    known = set(memory.read_text(encoding="utf-8").split()) if memory.exists() and not chosen.again else set()
    with (
        tempfile.TemporaryDirectory(prefix="gia-mutants-", ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(max(1, chosen.processes)) as pool,
    ):
        copies = Copies(root, Path(folder).resolve(), limit=limit)
        remembered = [mutant for mutant in mutants if copies.key(mutant) in known]
        counts = Counter({KILLED: len(remembered)})
        _say(f"{len(mutants)} breaks, {len(remembered)} of them remembered as killed")
        try:
            runs = {pool.submit(copies.judge, mutant): mutant for mutant in mutants if mutant not in remembered}
            for done in as_completed(runs):
                mutant, run = runs[done], done.result()
                counts[run.outcome] += 1
                _say(f"{run.outcome}: {mutant.file} -> {mutant.test} ({run.seconds:.1f} s)")
                if run.outcome == KILLED:
                    with memory.open("a", encoding="utf-8") as file:
                        file.write(f"{copies.key(mutant)}\n")
                else:
                    _say(f"    find    {mutant.find!r}\n    replace {mutant.replace!r}\n    {run.last}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _say(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()) if count) or "no break")
    return int(counts[KILLED] < len(mutants))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
