"""Base against head: two checkouts of `gia`, timed in one session, alternating, each in processes of its own.

    with checked_out(root, "main") as base:
        cost = head_over_base(root, base, workloads, "core / small, 1")
    assert not cost.slower(by=0.1)

Both sides run the head's workloads with the same seeds; only `gia` differs.
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

from gia.harness.timing import worker as timing_worker
from gia.harness.timing.bursts import ROUNDS
from gia.harness.timing.ratio import Ratio, ratio_of_blocks


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
            subprocess.run(  # it may not have come to be
                ["git", "worktree", "remove", "--force", str(tree)], cwd=repository, capture_output=True, check=False
            )


class Side:
    """What a process on the `gia` of a checkout is asked, and answers."""

    def __init__(self, root: Path, process: subprocess.Popen[str], said: IO[str]) -> None:
        self._root, self._process, self._said = root, process, said

    def names(self) -> list[str]:
        """Of the workloads; the first thing to ask for."""
        return list(self._answer()["names"])

    def start(self, workload: str) -> None:
        """Set a workload up, in place of the one before."""
        self._ask(workload=workload)

    def run(self, calls: int) -> float:
        """Run so many steps of the workload; their seconds of the process's own processor time."""
        self._ask(calls=calls)
        return float(self._answer()["seconds"])

    def _ask(self, **request: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer that does not come says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise RuntimeError(f"the workload failed on the gia of {self._root}:\n{self._said.read()[-4000:]}")
        return dict(json.loads(line))


@contextmanager
def side(root: Path, workloads: Path) -> Iterator[Side]:
    """A process on the `gia` of `root` with a file of workloads, ended afterwards."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", str(timing_worker.__file__), str(root), str(workloads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=root,
        )
        try:
            yield Side(root, process, said)
        finally:
            process.kill()
            process.communicate()


def names_of(root: Path, workloads: Path) -> list[str]:
    """The names that a checkout's own file of workloads has; none if it has no such file."""
    if not workloads.exists():
        return []
    with side(root, workloads) as own:
        return own.names()


def head_over_base(
    head: Path, base: Path, workloads: Path, name: str, *, rounds: int = ROUNDS, block_seconds: float = 0.1
) -> Ratio:
    """The cost of a step on the gia of `head` over that on the gia of `base`.

    Raises RuntimeError with the side's own words where the workload does not run there, ValueError for fewer than 9
    rounds.
    """
    with ExitStack() as stack:
        sides = [stack.enter_context(side(root, workloads)) for root in (head, base)]
        for one in sides:
            one.names()
            one.start(name)
        return ratio_of_blocks(sides[0].run, sides[1].run, rounds=rounds, block_seconds=block_seconds)


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=True).stdout
