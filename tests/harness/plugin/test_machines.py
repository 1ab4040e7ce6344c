"""Work over several machines, from outside: shards that fill one store, executors, and runs that share a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from tests.harness.plugin.inner_project import Inner, environment, row, trend
from tests.harness.plugin.processes import started, wait_until_ended

pytest_plugins = ["pytester"]

COSTS = {"seconds", "seconds_per_look", "cached"}


def verdicts(inner: Inner) -> dict[str, Any]:
    """The verdicts of the last run without what they cost."""

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        tables = [{name: value for name, value in table.items() if name not in COSTS} for table in row["tables"]]
        return {name: value for name, value in row.items() if name not in COSTS} | {"tables": tables}

    return {id: plain(row) for id, row in inner.verdicts.items()}


def three_rows(inner: Inner) -> None:
    """One row needs a second look."""
    ids = ("toy.first", "toy.second", "toy.third")
    tests = trend(ids[0]) + trend(ids[1], measure="one_undecided") + trend(ids[2])
    inner.write(*map(row, ids), tests=tests)


def test_shards_fill_the_store_and_the_last_run_only_reads(inner: Inner) -> None:
    """An array of jobs would compute some blocks twice or leave some out, or each job would print half a table."""
    three_rows(inner)
    for number in (1, 2):
        result = inner.run(f"--gia-shard={number}/2", "-q")
        result.assert_outcomes(passed=3 - number, deselected=number)
        result.stdout.fnmatch_lines([f"*shard {number}/2*", f"{3 - number} rows, * computed here, 0 found there"])
        result.stdout.no_fnmatch_line("*supported*")
        assert inner.verdicts == {}
        assert not (inner.folder / "report.md").exists()
    computed = inner.computed
    assert max(Counter(computed).values()) == 1

    inner.run().assert_outcomes(passed=3)
    assert inner.computed == computed
    joined = verdicts(inner)
    assert {row["blocks"] for row in joined.values()} == {8}

    for path in (inner.path / ".gia" / "cache" / "blocks").glob("*.json"):
        path.unlink()
    inner.run().assert_outcomes(passed=3)
    assert sorted(inner.computed) == sorted(2 * computed)
    assert verdicts(inner) == joined


@pytest.mark.parametrize("value", ["0/3", "4/3", "x", "1/0", "1", "-1/2", "1/2/3", ""])
def test_a_share_that_is_none_is_refused(inner: Inner, value: str) -> None:
    """A job of the array would compute nothing, or everything, and nobody would know which rows are missing."""
    three_rows(inner)
    result = inner.run(f"--gia-shard={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--gia-shard: expected I/N with I from 1 to N, such as 2/8, got '{value}'*"])


def test_a_shard_without_rows_is_no_failure(inner: Inner) -> None:
    """An array with more jobs than rows would be reported as failed."""
    three_rows(inner)
    result = inner.run("--gia-shard=4/4")
    assert result.ret == pytest.ExitCode.OK
    assert inner.computed == []


def test_a_row_that_computes_more_than_blocks_is_left_to_the_last_run(inner: Inner) -> None:
    """Every shard would compute what no store keeps, and throw it away."""
    test = """
@pytest.mark.claim("toy.all")
def test_all(claims):
    claims.without_attack()
    Path("computed").touch()
"""
    inner.write(row("toy.all", "universal"), tests="from pathlib import Path\n" + test)
    result = inner.run("--gia-shard=1/1")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK
    assert not (inner.path / "computed").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--gia-record", "--gia-reason=why"),
            "*--gia-shard: expected without --gia-record, since a shard*",
        ),
        (("--gia-placebo=noise",), "*--gia-shard: expected without --gia-placebo, since a shard*"),
    ],
    ids=["record", "placebo"],
)
def test_options_that_need_verdicts_are_refused_with_a_shard(
    inner: Inner, options: tuple[str, ...], message: str
) -> None:
    """The records would get the verdicts of a few rows, or none."""
    three_rows(inner)
    result = inner.run("--gia-shard=1/2", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_shard_under_ci_is_refused(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """There each run has its own blocks, and the last run would compute everything again."""
    monkeypatch.setenv("CI", "true")
    three_rows(inner)
    result = inner.run("--gia-shard=1/2")
    result.stderr.fnmatch_lines(["*--gia-shard: expected outside CI, where runs share no blocks*"])


def test_an_executor_that_is_none_stops_the_run(inner: Inner) -> None:
    """A misspelled option would compute here, or end in a traceback at the first row."""
    three_rows(inner)
    result = inner.run("--gia-workers=1", "--gia-executor=slurm")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gia-executor: expected local, dask, dask:ADDRESS or package.module:factory*"])
    result = inner.run("--gia-executor=dask")
    result.stderr.fnmatch_lines(["*--gia-executor: expected --gia-workers of at least 1, got 0, which computes here*"])


FACTORY = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def make():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
"""

SLOW = """
import os, time

def slow(level, block, *, cache):
    if block.index == 3 and Path("stop").exists():
        Path("stop").unlink()
        Path("reached").touch()
        time.sleep(600)
    time.sleep(0.1)
    return measure(level, block)
"""


def finished(inner: Inner, *options: str) -> str:
    """The claims of an inner project in another process; what it prints."""
    command = [sys.executable, "-m", "pytest", "claims", "-q", *options]
    env = environment(inner.path / "installed")
    done = subprocess.run(command, cwd=inner.path, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_over_a_foreign_executor_gives_the_same_verdicts(inner: Inner) -> None:
    """The verdict would depend on who distributes the blocks."""
    (inner.path / "mine.py").write_text(FACTORY, encoding="utf-8")
    three_rows(inner)
    finished(inner, "--gia-executor=mine:make")
    far = verdicts(inner)
    for path in (inner.path / ".gia" / "cache" / "blocks").glob("*.json"):
        path.unlink()
    inner.run()
    assert verdicts(inner) == far


def test_two_runs_at_once_share_the_blocks_and_one_may_be_killed(inner: Inner) -> None:
    """Two nodes on one folder would do the same work twice, or wait for ever for one that is gone."""
    with (inner.path / "planted.py").open("a", encoding="utf-8") as source:
        source.write(SLOW)
    (inner.path / "stop").touch()
    inner.write(row("toy.first"), tests=trend("toy.first", measure="slow"))
    with started(inner, "--gia-workers=1") as first:
        command = [sys.executable, "-m", "pytest", "claims", "-q", "--gia-workers=1"]
        env = environment(inner.path / "installed")
        with subprocess.Popen(command, cwd=inner.path, env=env, stdout=subprocess.PIPE, text=True) as second:
            deadline = time.monotonic() + 120
            while len({line.split()[1] for line in inner.computed}) < 7:  # all blocks but the one that hangs
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.kill(first.pid, signal.SIGKILL)
            wait_until_ended(first.pid)
            assert second.wait(120) == 0
    assert max(Counter(inner.computed).values()) == 1
    assert len(inner.computed) == 8 * 3
    both = verdicts(inner)
    blocks = inner.path / ".gia" / "cache" / "blocks"
    assert list((blocks / "reserved").glob("[!.]*")) == []
    for path in blocks.glob("*.json"):
        path.unlink()
    inner.run().assert_outcomes(passed=1)
    assert verdicts(inner) == both
