"""Inner runs in another process group, which tests may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness.plugin.inner_project import Inner, environment


@contextmanager
def started(inner: Inner, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The claims of an inner project under way, as soon as there is a file `reached`; killed at the end."""
    with (inner.path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "claims", "-q", *options],
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
            assert process.poll() is None, (inner.path / "log.txt").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "the run did not get to the place where it waits"
            time.sleep(0.05)
        yield process
    finally:
        with suppress(ProcessLookupError):  # what this test is about did not hold: leave nothing behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ended(group: int) -> None:
    """Wait until a process group has no live process, by /proc."""
    deadline = time.monotonic() + 30
    while left := _members(group):
        assert time.monotonic() < deadline, f"processes {left} outlive the run"
        time.sleep(0.05)


def _members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
