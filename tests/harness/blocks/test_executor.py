"""Blocks over processes: same table as in one, nothing finished is lost, a crash reaches the caller."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import Control
from gia.harness.blocks.store import Store, load_pictures
from gia.harness.blocks.workers import Pool, WorkerError
from tests.harness import planted
from tests.harness.planted import Level, Result


def seen(level: Level, block: Block, *, cache: Path | None) -> Result:
    """A number from the block's generator, and what the process is like."""
    noise = float(torch.rand((), generator=block.generator("noise")))
    return Result(
        values={
            "psnr": 20 - level.size + noise,
            "threads": float(torch.get_num_threads()),
            "variable": float(os.environ.get("OMP_NUM_THREADS", "-1")),
            "here": float(os.getpid()),
        },
        counts={"gradient_evaluations": 5},
        details={"cache": str(cache)},
        arrays={
            "originals": np.full((1, 3, 2, 2), block.index, np.uint8),
            "reconstructions": np.full((1, 3, 2, 2), level.size, np.uint8),
        },
    )


def crashing(level: Level, block: Block, *, cache: Path | None) -> Result:
    """`seen`, but block 1 has a bug."""
    if block.index == 1:
        raise ZeroDivisionError("planted in block 1")
    return seen(level, block, cache=cache)


def dying(level: Level, block: Block, *, cache: Path | None) -> Result:
    """As if the system had killed the process for its memory."""
    os._exit(7)


def fails_on_odd_blocks(level: Level, block: Block, *, cache: Path | None) -> planted.Control:
    """A control that half of the blocks fail."""
    return planted.Control(block.index % 2 == 0, "planted")


#: What was called in this process, in order.
called: list[tuple[str, int]] = []


def noted_control(level: Level, block: Block, *, cache: Path | None) -> planted.Control:
    """A control that every level but size 2 passes in block 1; it notes its call."""
    called.append(("control", level.size))
    return planted.Control((level.size, block.index) != (2, 1), f"size {level.size}", {"found": 0.5, "truth": 0.0})


def noted_attack(level: Level, block: Block, *, cache: Path | None) -> Result:
    """A measure that notes its call, and how many controls of this block are on the disk by then."""
    called.append(("attack", level.size))
    logs = [json.loads(path.read_text(encoding="utf-8")) for path in (cache or Path()).parent.glob("controls/*.json")]
    return Result(values={"logged": float(sum(len(log) for log in logs))})


def an_experiment(base: Level | None = None) -> Experiment:
    """Two sizes."""
    return Experiment("toy", {size: replace(base or Level(), size=size) for size in (1, 2)})


BLOCKS = draw_blocks("toy", {}, 4)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers for all tests of this file, as a session has them."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "blocks")


def test_processes_give_the_table_of_one_process(pool: Pool, store: Store, tmp_path: Path) -> None:
    """The verdict would depend on how many workers computed it."""
    here = run_blocks(an_experiment(), BLOCKS, Store(tmp_path / "other"), seen, workers=0)
    there = run_blocks(an_experiment(), BLOCKS, store, seen, workers=pool)
    assert [r.block.index for r in there] == [0, 1, 2, 3]
    for one, other in zip(here, there, strict=True):
        assert [v["psnr"] for v in one.levels.values()] == [v["psnr"] for v in other.levels.values()]
        assert one.counts == other.counts == {label: {"gradient_evaluations": 5} for label in ("1", "2")}
        assert one.details["1"] == {"cache": str(tmp_path / "other" / "nets")}
        assert load_pictures(other)["2/originals"][0, 0, 0, 0] == other.block.index
    assert {r.levels["1"]["here"] for r in here} == {os.getpid()}
    assert os.getpid() not in {r.levels["1"]["here"] for r in there}


def test_a_worker_has_one_thread_and_the_parents_environment_is_left_alone(pool: Pool, store: Store) -> None:
    """Two busy threads on two shared cores were 20 times slower than one; a changed parent would change other tests."""
    before = dict(os.environ)
    results = run_blocks(an_experiment(), BLOCKS[:1], store, seen, workers=pool)
    assert results[0].levels["1"]["threads"] == 1
    assert results[0].levels["1"]["variable"] == 1
    assert dict(os.environ) == before


def test_a_finished_block_is_not_computed_again(store: Store) -> None:
    """A resumed run would cost as much as a new one."""
    first = run_blocks(an_experiment(), BLOCKS[:2], store, seen, workers=0)
    again = run_blocks(an_experiment(), BLOCKS, Store(store.folder), seen, workers=0)
    assert [r.cached for r in first] == [False, False]
    assert [r.cached for r in again] == [True, True, False, False]
    assert [replace(r, cached=False) for r in again[:2]] == first


def test_a_crash_in_a_worker_surfaces_with_its_traceback_and_loses_no_finished_block(pool: Pool, store: Store) -> None:
    """A crash would be a verdict, or a message without a place; the other blocks would be computed twice."""
    with pytest.raises(WorkerError) as caught:
        run_blocks(an_experiment(), BLOCKS[:2], store, crashing, workers=pool)
    for part in ("block 1 of toy", "ZeroDivisionError: planted in block 1", "in crashing"):
        assert part in str(caught.value)
    assert run_blocks(an_experiment(), BLOCKS[:1], Store(store.folder), crashing, workers=0)[0].cached


def test_a_worker_that_dies_is_an_error_and_the_pool_recovers(pool: Pool, store: Store) -> None:
    """A worker killed for its memory would hang the run, or take the session's later claims with it."""
    with pytest.raises(WorkerError, match="block 0 of toy"):
        run_blocks(an_experiment(), BLOCKS[:1], store, dying, workers=pool)
    assert len(run_blocks(an_experiment(), BLOCKS[:1], store, seen, workers=pool)) == 1


def test_a_crash_in_this_process_keeps_its_own_type(store: Store) -> None:
    """With --workers 0 a debugger would stop in the harness, not where the error is."""
    with pytest.raises(ZeroDivisionError):
        run_blocks(an_experiment(), BLOCKS, store, crashing, workers=0)
    assert sorted(path.suffix for path in store.folder.glob("[!.]*.*")) == [".json", ".npz"]


def test_a_block_whose_control_fails_is_void_and_not_attacked(store: Store) -> None:
    """A broken path would enter the statistic and support every claim that says worse."""
    base = Level(control=fails_on_odd_blocks)
    results = run_blocks(an_experiment(base), BLOCKS, store, seen, workers=0)
    assert [r.valid for r in results] == [True, False, True, False]
    assert [bool(r.levels) for r in results] == [True, False, True, False]
    again = run_blocks(an_experiment(base), BLOCKS, store, seen, workers=0)
    assert [r.valid for r in again] == [True, False, True, False]
    assert again[1].controls == {"1": Control(False, "planted")}


def three_sizes() -> Experiment:
    """Sizes 1, 2 and 3 with the control that notes its calls."""
    return Experiment("toy", {size: Level(size=size, control=noted_control) for size in (1, 2, 3)})


def test_every_level_is_controlled_and_logged_before_any_is_attacked(store: Store) -> None:
    """Only the first level would be controlled, so that a broken second one says "worse"; or an attack could be seen to
    do badly before its block is declared void."""
    called.clear()
    (result,) = run_blocks(three_sizes(), BLOCKS[:1], store, noted_attack, workers=0)
    assert called == [(what, size) for what in ("control", "attack") for size in (1, 2, 3)]
    assert result.valid
    assert {label: control.reason for label, control in result.controls.items()} == {s: f"size {s}" for s in "123"}
    assert result.controls["2"].values == {"found": 0.5, "truth": 0.0}
    assert [values["logged"] for values in result.levels.values()] == [3, 3, 3]


def test_controls_are_logged_by_workers_too(pool: Pool, store: Store) -> None:
    """Only a debugger's run would show that a block was void before it was attacked."""
    (result,) = run_blocks(three_sizes(), BLOCKS[:1], store, noted_attack, workers=pool)
    assert [values["logged"] for values in result.levels.values()] == [3, 3, 3]


def test_the_first_control_that_fails_ends_the_block(store: Store) -> None:
    """A void block would cost as much as a valid one."""
    called.clear()
    (result,) = run_blocks(three_sizes(), BLOCKS[1:2], store, noted_attack, workers=0)
    assert called == [("control", 1), ("control", 2)]
    assert not result.valid
    assert [control.passed for control in result.controls.values()] == [True, False]
    assert result.levels == {}


def test_a_level_without_a_control_is_taken_as_it_is(store: Store) -> None:
    """Levels that nothing attacks could not be compared."""
    (result,) = run_blocks(an_experiment(), BLOCKS[:1], store, seen, workers=0)
    assert result.valid
    assert result.controls == {}


def with_a_damaged_net(level: Level, block: Block, *, cache: Path | None) -> Result:
    """A measure whose trained net is damaged."""
    logging.getLogger("gia.cache").warning("trained net 0 is damaged")
    return Result(values={"psnr": 1.0})


def test_what_a_worker_says_of_the_cache_reaches_the_user(pool: Pool, tmp_path: Path) -> None:
    """A disk that loses bits would be noticed by nobody: a worker has no terminal."""
    for workers in (0, pool):
        notices: list[str] = []
        store = Store(tmp_path / str(workers), notice=notices.append)
        run_blocks(an_experiment(), BLOCKS[:1], store, with_a_damaged_net, workers=workers)
        assert notices == ["trained net 0 is damaged"] * 2  # one for each level


TWO_RUNS = """
import sys
from pathlib import Path
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.store import Store
from tests.harness.blocks.test_executor import an_experiment, seen
from gia.harness.blocks.drawing import draw_blocks

folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
notices = []
for _ in range(3):
    store = Store(folder, notice=notices.append)
    run_blocks(an_experiment(), draw_blocks("toy", {}, 12), store, seen, workers=0)
    store.close()
print([line for line in notices if "this run waits for them" not in line])
"""


def test_two_runs_share_a_store_without_torn_files_or_lost_ones(tmp_path: Path) -> None:
    """One would read half of what the other writes, or fail because the other one has deleted the same file."""
    repository = Path(__file__).parents[3]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", TWO_RUNS, str(tmp_path / "blocks")]
    with ExitStack() as stack:
        runs = [stack.enter_context(subprocess.Popen(command, cwd=repository, **pipes)) for _ in range(2)]
        for run in runs:
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            run.stdin.write("go\n")
            run.stdin.flush()
        for run in runs:
            said, errors = run.communicate(timeout=300)
            assert (run.returncode, said) == (0, "[]\n"), errors
    assert not list((tmp_path / "blocks").rglob("*.partial"))


def double(level: Level, block: Block, *, by: int, cache: Path | None) -> Result:
    """A measure with an argument that no key holds."""
    return seen(level, block, cache=cache)


def test_what_cannot_cross_to_a_worker_is_refused_by_name(store: Store) -> None:
    """The error would come from deep inside pickle, only with workers, and name nothing."""
    with pytest.raises(TypeError, match="parts: expected module-level functions"):
        an_experiment(Level(parts={"attack": lambda model: model}))
    for measure in (lambda level, block, cache: seen(level, block, cache=cache), partial(double, by=2)):
        with pytest.raises(TypeError, match="measure: expected a module-level function"):
            run_blocks(an_experiment(), BLOCKS, store, measure, workers=0)


def test_levels_with_the_same_text_are_refused() -> None:
    """Results are stored by the text of a level's label: one of the two would be lost."""
    with pytest.raises(ValueError, match=r"levels: expected labels that differ as text, got \[1, '1'\]"):
        Experiment("toy", {1: Level(size=1), "1": Level(size=2)})


def test_a_level_that_changes_what_is_drawn_is_refused() -> None:
    """The block's setting would overwrite the level, and the levels would be one."""
    with pytest.raises(ValueError, match=r"levels: expected the same 'size' in all, since it is drawn per block"):
        an_experiment(Level(vary={"size": (4, 8)}))


def test_progress_counts_done_and_cached_blocks(store: Store) -> None:
    """A person at the terminal would see a stuck or a wrong bar."""
    reports: list[tuple[int, int, int]] = []
    run_blocks(an_experiment(), BLOCKS[:2], store, seen, workers=0)
    run_blocks(an_experiment(), BLOCKS, store, seen, workers=0, progress=lambda *done: reports.append(done))
    assert reports == [(2, 4, 2), (3, 4, 2), (4, 4, 2)]
