"""Any executor in the place of local processes: the same results, and workers that compute otherwise are refused."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gia.harness.blocks.cluster import Elsewhere, compute, difference, workers_of
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import WorkerError, Workers, spread
from tests.harness.blocks.test_executor import an_experiment, crashing, dying, seen
from tests.harness.blocks.test_workers import seen_by

BLOCKS = draw_blocks("toy", {}, 4)


def processes() -> Executor:
    """A pool that the harness did not make."""
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def no_executor() -> str:
    """A factory of something else."""
    return "nothing"


def of(name: str) -> Workers:
    """The workers of a factory in this file."""
    return workers_of(f"{__name__}:{name}", 2)


@pytest.fixture(scope="module")
def foreign() -> Iterator[Workers]:
    """Workers of a foreign executor for all tests of this file."""
    workers = of("processes")
    yield workers
    workers.close()


def test_a_foreign_executor_gives_the_table_of_one_process(foreign: Workers, tmp_path: Path) -> None:
    """A verdict would depend on who distributes the work."""
    here = run_blocks(an_experiment(), BLOCKS, Store(tmp_path / "here"), seen, workers=0)
    there = run_blocks(an_experiment(), BLOCKS, Store(tmp_path / "there"), seen, workers=foreign)
    assert [[values["psnr"] for values in result.levels.values()] for result in there] == [
        [values["psnr"] for values in result.levels.values()] for result in here
    ]
    assert os.getpid() not in {result.levels["1"]["here"] for result in there}
    assert {result.levels["1"]["threads"] for result in there} == {1}
    assert [item for item, *_ in spread(seen_by, range(3), workers=foreign)] == [0, 1, 2]


def test_an_error_there_names_the_block_and_the_place(foreign: Workers, tmp_path: Path) -> None:
    """A bug on another machine would be a line without a place."""
    message = r"(?s)block 1 of toy .*failed in a worker: ZeroDivisionError: planted in block 1.*in crashing"
    with pytest.raises(WorkerError, match=message):
        run_blocks(an_experiment(), BLOCKS, Store(tmp_path / "blocks"), crashing, workers=foreign)


def test_an_executor_that_broke_is_made_again(foreign: Workers, tmp_path: Path) -> None:
    """One worker that dies would take all later claims of the session with it."""
    with pytest.raises(WorkerError, match=r"block 0 of toy .*BrokenProcessPool"):
        run_blocks(an_experiment(), BLOCKS[:1], Store(tmp_path / "blocks"), dying, workers=foreign)
    assert len(run_blocks(an_experiment(), BLOCKS[:1], Store(tmp_path / "blocks"), seen, workers=foreign)) == 1


def planted(change: dict[str, Any]) -> dict[str, Any]:
    """What a result depends on, with a change."""
    return {"arithmetic": "0123456789ab", "sources": {"gia": "1", "claims": "2"}, "inputs": {"digits": "3"}} | change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arithmetic": "ba9876543210"}, "expected the arithmetic of this run (0123456789ab), got ba9876543210 with "),
        (
            {"sources": {"gia": "1", "claims": "4"}},
            "expected the sources of this run, got others: claims; start workers",
        ),
        (
            {"inputs": {}},
            "expected the inputs of this run, got others: digits; start workers again, from the same files",
        ),
    ],
    ids=["arithmetic", "sources", "inputs"],
)
def test_a_worker_that_differs_computes_nothing_and_says_what_differs(change: dict[str, Any], message: str) -> None:
    """A node with another processor, an old checkout or other data would give numbers under this run's name."""
    assert difference(planted({}), planted({})) == ""
    told = difference(planted({}), planted(change))
    assert told.startswith(f"worker {os.uname().nodename}, process {os.getpid()}: ")
    assert message in told


def test_threads_of_this_process_are_refused() -> None:
    """The flags of arithmetic are the process's: a job would change them under the run and under other jobs."""
    workers = Elsewhere(lambda: ThreadPoolExecutor(2), lambda: 2)
    try:
        with pytest.raises(WorkerError, match="executor: expected one of other processes, got one of threads"):
            spread(seen_by, [1], workers=workers)
    finally:
        workers.close()


def test_a_worker_finds_the_modules_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dask worker` starts elsewhere, and would not find the project's claims."""
    (tmp_path / "project_of_mine.py").write_text(
        "def origin(): return {'arithmetic': 'a'}\ndef one(): return 1\n", encoding="utf-8"
    )
    with monkeypatch.context() as context:
        context.syspath_prepend(tmp_path)
        module = __import__("project_of_mine")
        content = pickle.dumps((module.origin, module.one, ()))
        del sys.modules["project_of_mine"]
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert compute(content, {"arithmetic": "a"}, [str(tmp_path)]) == 1
    assert sys.path[-1] == str(tmp_path)
    del sys.modules["project_of_mine"]


def own_origin() -> dict[str, Any]:
    """What results depend on in this process."""
    return planted({})


def test_a_job_is_not_begun_where_what_it_depends_on_differs() -> None:
    """The check would be made, and its answer thrown away."""
    assert compute(pickle.dumps((own_origin, own_origin, ())), planted({}), []) == planted({})
    refused = compute(pickle.dumps((own_origin, fail, ())), planted({"sources": {}}), [])
    assert refused.trace == ""
    assert "expected the sources of this run" in refused.told


def fail() -> None:
    """A job that must not begin."""
    raise AssertionError("begun")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("slurm", "expected local, dask, dask:ADDRESS or package.module:factory, got 'slurm'"),
        (
            "nowhere.at_all:make",
            "expected package.module:factory, got 'nowhere.at_all:make': No module named 'nowhere'",
        ),
        ("os:nothing", "expected package.module:factory, got 'os:nothing': module 'os' has no attribute 'nothing'"),
        ("os:name", "expected a function that returns an executor, got 'os:name': 'posix'"),
    ],
    ids=["unknown", "no module", "no function", "no factory"],
)
def test_a_word_that_names_no_executor_is_refused(spec: str, message: str) -> None:
    """A misspelled option would be a traceback of the import system."""
    with pytest.raises(ValueError, match="expected") as caught:
        workers_of(spec, 2)
    assert str(caught.value) == message


def test_a_factory_of_something_else_is_refused() -> None:
    """The error would come from deep inside, at the first block."""
    with pytest.raises(TypeError, match=r"expected a concurrent.futures.Executor from '.*:no_executor', got 'nothing'"):
        spread(seen_by, [1], workers=of("no_executor"))


def test_without_dask_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError would name a module of which the user has never heard."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("dask", "distributed"):
            raise ModuleNotFoundError(name, name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"^dask: expected to be installed for .*'distributed>="):
        workers_of("dask", 2)


def test_jobs_wait_for_room_on_the_cluster() -> None:
    """A run would reserve all blocks at once, and another run on the same folder would compute none."""
    workers = Elsewhere(processes, lambda: 0)
    assert workers.room == 1  # workers may join later
    workers.close()
