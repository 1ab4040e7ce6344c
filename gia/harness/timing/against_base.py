"""Base against head: two checkouts of `gia`, timed in turn in one session, each in its own process.

    with checked_out(root, "main") as base:
        cost = head_over_base(root, base, workloads, "core / small, 1")
    assert not cost.slower(by=0.1)

Both run the head's workloads with the same seeds; only `gia` differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gia.harness.timing import worker
from gia.harness.timing.bursts import TURNS
from gia.harness.timing.ratio import Ratio, ratio_of_bursts


def commit_of(repository: Path, ref: str) -> str:
    """The full commit that `ref` names. Raises ValueError where git knows none, or there is no git repository."""
    try:
        return _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"ref: expected a commit, branch or tag of {repository}, got {ref!r}") from error


@contextmanager
def checked_out(repository: Path, ref: str) -> Iterator[Path]:
    """A folder with the files of `ref`, removed afterwards. Raises ValueError for an unknown ref."""
    commit = commit_of(repository, ref)
    with tempfile.TemporaryDirectory(prefix="gia-base-") as folder:
        tree = Path(folder).resolve() / "base"
        try:
            _git(repository, "worktree", "add", "--detach", str(tree), commit)
            yield tree
        finally:
            subprocess.run(  # git may have failed to make it
                ["git", "worktree", "remove", "--force", str(tree)], cwd=repository, capture_output=True, check=False
            )


class Checkout:
    """A process that runs workloads on the `gia` of a checkout; made by `checkout`."""

    def __init__(self, root: Path, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._root, self._process, self._errors = root, process, errors

    def names(self) -> list[str]:
        """The names of the workloads; ask for them first."""
        return list(self._answer()["names"])

    def start(self, workload: str) -> None:
        """Set up a workload, in place of the previous one."""
        self._ask(workload=workload)

    def run(self, calls: int) -> float:
        """Run this number of steps of the workload and return their seconds in the process's processor time."""
        self._ask(calls=calls)
        return float(self._answer()["seconds"])

    def _ask(self, **request: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended, and the missing answer says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"the workload failed on the gia of {self._root}:\n{self._errors.read()[-4000:]}")
        return dict(json.loads(line))


@contextmanager
def checkout(root: Path, workloads: Path) -> Iterator[Checkout]:
    """A process on the `gia` of `root` with a file of workloads, ended afterwards."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", str(worker.__file__), str(root), str(workloads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=root,
        )
        try:
            yield Checkout(root, process, errors)
        finally:
            process.kill()
            process.communicate()


def names_of(root: Path, workloads: Path) -> list[str]:
    """The names in a checkout's own file of workloads; none if it has no such file."""
    if not workloads.exists():
        return []
    with checkout(root, workloads) as base:
        return base.names()


def head_over_base(
    head: Path, base: Path, workloads: Path, name: str, *, turns: int = TURNS, burst_seconds: float = 0.1
) -> Ratio:
    """The cost of a step on the gia of `head` over that on the gia of `base`.

    Raises RuntimeError with the process's error output if the workload fails there, ValueError for fewer than 9
    turns.
    """
    with ExitStack() as stack:
        checkouts = [stack.enter_context(checkout(root, workloads)) for root in (head, base)]
        for each in checkouts:
            each.names()
            each.start(name)
        return ratio_of_bursts(checkouts[0].run, checkouts[1].run, turns=turns, burst_seconds=burst_seconds)


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=True).stdout
