"""dask and Ray with two processes: the table of a local run, bit for bit, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="dask.distributed is not installed: the extra `cluster`")

import dask
import distributed

from gia.harness.blocks.cluster import workers_of
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.results import BlockResult
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Pool, WorkerError, Workers, spread
from tests.integrations.computations import BLOCKS, an_experiment, crashing, noted, where


def without_time(results: list[BlockResult]) -> list[BlockResult]:
    """What must be equal bit for bit."""
    return [replace(result, seconds=0.0, cached=False) for result in results]


@pytest.fixture(scope="module", params=["dask", "on_ray:Ray"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """`--executor dask --workers 2`, for all tests of this file, as a session has it; and what the docs show of Ray."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "dask":
            pytest.importorskip("ray", reason="ray is not installed")
            folder = tmp_path_factory.mktemp("project")
            page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
            shown = page[page.index("# on_ray.py") :]
            (folder / "on_ray.py").write_text(shown[: shown.index("```")], encoding="utf-8")
            patch.syspath_prepend(folder)
            patch.setenv("HOME", str(folder))  # where Ray keeps its token
        cluster = workers_of(request.param, 2)
        yield cluster
        cluster.close()


def killer(folder: Path) -> None:
    """Kill the worker that came to block 2, as the system does for memory."""
    while not (folder / "reached").exists():
        time.sleep(0.05)
    lines = (folder / "computed.txt").read_text(encoding="utf-8").splitlines()
    os.kill(next(int(line.split()[1]) for line in lines if line.startswith("2 ")), signal.SIGKILL)


def test_a_killed_worker_s_blocks_are_computed_again_and_the_table_is_that_of_a_local_run(
    cluster: Workers, tmp_path: Path
) -> None:
    """A node that goes away would cost the run, or a block; or a verdict would depend on where it was computed."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "stop").touch()
    threading.Thread(target=killer, args=(there,), daemon=True).start()
    far = run_blocks(an_experiment(), BLOCKS, Store(there / "blocks"), noted, workers=cluster)
    pool = Pool(2)
    near = run_blocks(an_experiment(), BLOCKS, Store(here / "blocks"), noted, workers=pool)
    pool.close()
    assert without_time(far) == without_time(near)
    assert all(result.levels["1"]["threads"] == 1 for result in far)
    lines = [line.split() for line in (there / "computed.txt").read_text(encoding="utf-8").splitlines()]
    assert {int(index) for index, _ in lines} == set(range(8))
    assert [index for index, _ in lines].count("2") >= 2 * 2 - 1  # two levels, and the one that was killed
    assert str(os.getpid()) not in {process for _, process in lines}
    assert all(r.cached for r in run_blocks(an_experiment(), BLOCKS, Store(there / "blocks"), noted, workers=0))


def test_functions_run_there_with_the_arithmetic_of_this_run(cluster: Workers) -> None:
    """Rows that compare counterexamples would be computed here, or otherwise there."""
    found = spread(where, range(4), workers=cluster)
    ((_, _, own),) = spread(where, [0], workers=0)
    assert [item for item, _, _ in found] == [0, 1, 2, 3]
    assert {arithmetic for _, _, arithmetic in found} == {own}
    assert os.getpid() not in {process for _, process, _ in found}


def test_a_crash_names_the_item_and_the_place_there(cluster: Workers) -> None:
    """A crash on another machine would be a line without a place, and no later row could be computed."""
    with pytest.raises(WorkerError, match=r"(?s)crashing of 1 failed .*ZeroDivisionError: planted.*in crashing"):
        spread(crashing, range(2), workers=cluster)
    assert spread(crashing, [0], workers=cluster) == [0]


def test_a_daemonic_worker_is_refused_with_the_variable_to_set(tmp_path: Path) -> None:
    """`dask worker` starts such workers; the error would be one of the standard library about children."""
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as other,
    ):
        workers = workers_of(f"dask:{other.scheduler_address}", 1)
        try:
            with pytest.raises(WorkerError, match="got a daemonic one; set DASK_DISTRIBUTED__WORKER__DAEMON=False"):
                spread(where, [0], workers=workers)
        finally:
            workers.close()


def test_a_worker_with_other_arithmetic_is_refused(tmp_path: Path) -> None:
    """One node whose processor or torch differs would give a table that no machine gives alone."""
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", env={"ONEDNN_MAX_CPU_ISA": "SSE41"}
        ) as other,
    ):
        workers = workers_of(f"dask:{other.scheduler_address}", 1)
        try:
            message = r"worker .*: expected the arithmetic of this run \(\w{12}\), got \w{12} with .*MAX_CPU_ISA=SSE41"
            with pytest.raises(WorkerError, match=message):
                run_blocks(an_experiment(), BLOCKS[:1], Store(tmp_path / "blocks"), noted, workers=workers)
        finally:
            workers.close()
    assert not (tmp_path / "computed.txt").exists()


def test_a_scheduler_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    """A wrong port would be a traceback of a foreign package, or a wait without an end."""
    with pytest.raises(ValueError, match=r"expected a dask scheduler, got no answer from tcp://127.0.0.1:9"):
        workers_of("dask:tcp://127.0.0.1:9", 1)
    with pytest.raises(ValueError, match=r"expected the file of a scheduler, got .*none.json, which does not exist"):
        workers_of(f"dask:{tmp_path / 'none.json'}", 1)
