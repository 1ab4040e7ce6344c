"""A run that is killed or interrupted between blocks, in another process."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import pytest

from tests.harness.plugin.inner_project import Inner, row, trend
from tests.harness.plugin.processes import started, wait_until_ended

pytest_plugins = ["pytester"]


SLOW = """
import time

def slow(level, block, *, cache):
    if block.index >= 3 and level.size == 1 and not Path("go").exists():
        Path("reached").touch()
        time.sleep(600)
    return measure(level, block)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_stopped_between_blocks_resumes_to_the_same_table(inner: Inner, how: signal.Signals) -> None:
    """A crash of the machine would cost the night; a resumed run would say something else than an uninterrupted one."""
    with (inner.path / "planted.py").open("a", encoding="utf-8") as source:
        source.write(SLOW)
    inner.write(row("toy.first"), tests=trend("toy.first", measure="slow"))
    with started(inner, "--gia-workers=1") as process:
        os.kill(process.pid, how)
        code = process.wait(60)
        wait_until_ended(process.pid)
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
    costs = {"seconds", "seconds_per_look", "cached"}
    tables = [{name: value for name, value in table.items() if name not in costs} for table in row["tables"]]
    return {**{name: value for name, value in row.items() if name not in costs}, "tables": tables}
