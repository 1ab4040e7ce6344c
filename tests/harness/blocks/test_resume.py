"""A run that is killed or interrupted between blocks, in another process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness.plugin.inner_project import Inner, environment, row, trend

pytest_plugins = ["pytester"]


SLOW = """
import time

def slow(level, block, *, cache):
    if block.index >= 3 and level.size == 1 and not Path("go").exists():
        Path("reached").touch()
        time.sleep(600)
    return measure(level, block)
"""


@contextmanager
def _started(inner: Inner) -> Iterator[subprocess.Popen[bytes]]:
    """The inner run in another process group, with one worker, up to its fourth block."""
    command = [sys.executable, "-m", "pytest", "claims", "--gia-workers=1", "-q"]
    with (inner.path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=inner.path,
            stdout=log,
            stderr=log,
            env=environment(inner.path / "installed"),
            start_new_session=True,
            # A shell starts what runs in its background with Ctrl-C ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        deadline = time.monotonic() + 120
        while not (inner.path / "reached").exists():
            assert process.poll() is None, (inner.path / "log.txt").read_text()
            assert time.monotonic() < deadline, "the fourth block was not reached"
            time.sleep(0.05)
        yield process
    finally:
        with suppress(ProcessLookupError):  # what this test is about did not hold: leave nothing behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _workers_of(group: int) -> list[int]:
    """Live processes of a process group, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_stopped_between_blocks_resumes_to_the_same_table(inner: Inner, how: signal.Signals) -> None:
    """A crash of the machine would cost the night; a resumed run would say something else than an uninterrupted one."""
    with (inner.path / "planted.py").open("a") as source:
        source.write(SLOW)
    inner.write(row("toy.first"), tests=trend("toy.first", measure="slow"))
    with _started(inner) as process:
        os.kill(process.pid, how)
        code = process.wait(60)
        deadline = time.monotonic() + 30
        while left := _workers_of(process.pid):
            assert time.monotonic() < deadline, f"workers {left} outlive the run"
            time.sleep(0.05)
    if how == signal.SIGINT:
        assert code == pytest.ExitCode.INTERRUPTED
        assert inner.verdicts == {}
    finished = inner.computed.copy()
    assert {line.split()[1] for line in finished} == {"0", "1", "2"}

    (inner.path / "go").touch()
    inner.run().assert_outcomes(passed=1)
    resumed = inner.verdicts["toy.first"]
    assert resumed["cached"] == 3
    assert inner.computed[: len(finished)] == finished
    assert not set(finished) & set(inner.computed[len(finished) :])

    shutil.rmtree(inner.path / ".gia" / "cache" / "blocks")
    inner.run()
    whole = inner.verdicts["toy.first"]
    assert whole["cached"] == 0
    assert _without_cost(resumed) == _without_cost(whole)


def _without_cost(row: dict[str, Any]) -> dict[str, Any]:
    costs = {"seconds", "second_look_seconds", "cached"}
    tables = [{name: value for name, value in table.items() if name not in costs} for table in row["tables"]]
    return {**{name: value for name, value in row.items() if name not in costs}, "tables": tables}
