"""Blocks of rows to come: computed where a worker would be idle, stored like all others, and never in the way."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gia.harness.blocks.ahead import Ahead, Wanted
from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.sources import EditedError
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Job, Pool, WorkerError
from tests.harness.planted import Level, Result

#: Longer than any test waits: what lasts so long is ended by the test.
_LONG = 300.0


def noted(level: Level, block: Block, *, cache: Path | None) -> Result:
    """Do what `level.attack` says: "wait for ROW" until a block of a row has begun, "outlast for ROW" waits and does
    not end the first time, "fail", "die", "last" very long. That it began is written down next to the store.
    """
    assert cache is not None
    folder = cache.parent.parent
    with (folder / "begun.txt").open("a", encoding="utf-8") as log:
        log.write(f"{block.claim} {block.index}\n")
    what, _, row = level.attack.partition(" for ")
    if what in ("wait", "outlast"):
        limit = time.monotonic() + 60
        while f"{row} 0\n" not in (folder / "begun.txt").read_text(encoding="utf-8"):
            if time.monotonic() > limit:
                raise TimeoutError(f"no block of {row} was begun")
            time.sleep(0.01)
        if what == "outlast" and (folder / "begun.txt").read_text(encoding="utf-8").count(f"{block.claim} 0\n") == 1:
            time.sleep(_LONG)
    elif what == "die":
        os._exit(7)
    elif what == "fail":
        raise ZeroDivisionError("planted")
    elif what == "last":
        time.sleep(_LONG)
    return Result({"psnr": 20.0 - block.index, "here": float(os.getpid())})


def experiment(row: str, what: str = "own", data: str = "") -> Experiment:
    """One level."""
    return Experiment(row, {1: replace(Level(), attack=what, data=data)})


def blocks(row: str, count: int = 1) -> list[Block]:
    """The first blocks of a row."""
    return list(draw_blocks(row, {}, count))


@pytest.fixture(scope="module")
def workers() -> Iterator[Pool]:
    """Two workers, as a session has them: to start them takes longer than most tests."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture
def pool(workers: Pool) -> Iterator[Pool]:
    """The workers, with nothing under way and nothing to come."""
    yield workers
    workers.settle()
    workers.spare = None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "blocks")


def begun(store: Store) -> list[str]:
    """The blocks that were begun, in order."""
    path = store.folder.parent / "begun.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def reserved(store: Store) -> list[str]:
    """What is said to be under way."""
    return [path.name for path in store.reserved.folder.glob("[!.]*")]


def coming(pool: Pool, store: Store, *rows: tuple[Experiment, int]) -> Ahead:
    """Rows to come, with their numbers of blocks."""
    ahead = pool.spare = Ahead(store)
    for row, count in rows:
        ahead.want(row.id, [Wanted(row, blocks(row.id, count), noted)])
    return ahead


def run(row: Experiment, store: Store, pool: Pool, count: int = 1):
    """Run the blocks of a row."""
    return run_blocks(row, blocks(row.id, count), store, noted, workers=pool)


def test_an_idle_worker_computes_the_next_row(pool: Pool, store: Store) -> None:
    """A core would be idle at the end of each row; this row would wait for ever, as its block waits for the next's."""
    second = experiment("second")
    coming(pool, store, (second, 1))
    assert len(run(experiment("first", "wait for second"), store, pool)) == 1
    (result,) = run(second, store, pool)
    assert sorted(begun(store)) == ["first 0", "second 0"]
    assert (result.levels["1"]["psnr"], result.cached) == (20.0, False)  # of this run, and computed once
    pool.close()
    assert reserved(store) == []


def test_the_running_row_comes_first(pool: Pool, store: Store) -> None:
    """Rows to come would hold up the verdict that somebody waits for."""
    coming(pool, store, (experiment("second"), 4))
    run(experiment("first"), store, pool, 4)
    assert begun(store).index("second 0") >= 3  # a worker takes it when the last block of the row has begun


def test_a_run_takes_no_block_that_it_has_no_room_for(pool: Pool) -> None:
    """Another run on the same folder would wait for a block that nobody computes yet."""
    left = [(index, Job(f"job {index}", abs, (index,), dict)) for index in range(6)]
    taken, ended = [], []

    def take() -> tuple[int, Job] | None:
        taken.append(len(taken) - len(ended))
        return left.pop(0) if left else None

    pool.run(take, lambda index, result: ended.append(result), lambda: None)
    assert sorted(ended) == list(range(6))
    assert max(taken) < pool.room  # under way when another one was asked for


def test_a_row_waits_for_its_block_that_is_under_way(pool: Pool, store: Store) -> None:
    """Two workers would compute the same block, or the row would say that another run computes it."""
    told: list[str] = []
    store = Store(store.folder, notice=told.append)
    second = experiment("second", "wait for third")
    coming(pool, store, (second, 1), (experiment("third"), 1))
    run(experiment("first", "wait for second"), store, pool)
    (result,) = run(second, store, pool)  # the third row begins while this one waits
    assert result.levels["1"]["psnr"] == 20.0
    assert begun(store).count("second 0") == 1
    assert told == []


def test_what_fails_ahead_is_the_error_of_its_own_row(pool: Pool, store: Store) -> None:
    """A bug in one row would be reported as another's."""
    second = experiment("second", "fail")
    coming(pool, store, (second, 1))
    assert len(run(experiment("first", "wait for second"), store, pool)) == 1
    pool.settle()
    with pytest.raises(WorkerError, match=r"block 0 of second.*planted"):
        run(second, store, pool)
    assert sorted(begun(store)) == ["first 0", "second 0", "second 0"]


def test_a_worker_that_dies_ahead_takes_no_other_row_with_it(pool: Pool, store: Store) -> None:
    """A block that needs too much memory would end the row before its own, whose block died with the same pool."""
    second = experiment("second", "die")
    coming(pool, store, (second, 1))
    (result,) = run(experiment("first", "outlast for second"), store, pool)  # it dies with the pool, and begins again
    assert result.levels["1"]["psnr"] == 20.0
    assert pool.spare is None  # until the session ends, a row alone computes its blocks
    with pytest.raises(WorkerError, match="block 0 of second"):
        run(second, store, pool)


def test_a_worker_that_dies_between_two_rows_ends_nothing(pool: Pool, store: Store) -> None:
    """While a row checks examples by itself there is no run of jobs that would notice, and the next one would fail."""
    coming(pool, store, (experiment("second", "die"), 1))
    limit = time.monotonic() + 60
    while pool.spare is not None and time.monotonic() < limit:
        pool.attend(0.1)
    assert pool.spare is None
    assert len(run(experiment("first"), store, pool)) == 1


def test_attending_keeps_idle_workers_busy(pool: Pool, store: Store) -> None:
    """Rows that check examples in this process would leave all workers idle."""
    coming(pool, store, (experiment("second"), 3))
    pool.attend(60)  # until one of two ends
    limit = time.monotonic() + 60
    while len(begun(store)) < 3 and time.monotonic() < limit:
        time.sleep(0.05)
    assert sorted(begun(store)) == [f"second {index}" for index in range(3)]


def test_settling_waits_for_what_is_under_way_and_begins_nothing(pool: Pool, store: Store) -> None:
    """A timing would be measured beside a busy worker."""
    coming(pool, store, (experiment("second"), 5))
    pool.attend()
    pool.settle()
    assert sorted(begun(store)) == ["second 0", "second 1"]
    assert len(list(store.folder.glob("*.json"))) == 2


def test_closing_ends_what_nobody_waits_for_and_gives_it_back(pool: Pool, store: Store) -> None:
    """A session that ends early would last as long as a block, or another run would wait for a block of a dead one."""
    second = experiment("second", "last")
    coming(pool, store, (second, 1))
    run(experiment("first", "wait for second"), store, pool)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < _LONG / 2
    assert reserved(store) == []


def test_a_row_that_has_begun_is_left_alone(pool: Pool, store: Store) -> None:
    """Blocks that a look does not need would be computed beside those that it waits for."""
    ahead = coming(pool, store, (experiment("second"), 3), (experiment("third"), 1))
    assert len(ahead) == 4
    ahead.leave("second")
    assert len(ahead) == 1
    pool.attend()
    pool.settle()
    assert begun(store) == ["third 0"]


def test_what_is_stored_or_computed_elsewhere_is_not_computed_again(pool: Pool, store: Store) -> None:
    """A worker would compute what is there, or what another run on the same folder computes."""
    second = experiment("second")
    run(second, store, pool)
    other = Store(store.folder)
    assert other.reserve(other.key(second, blocks("second", 2)[1], noted))
    ahead = coming(pool, store, (second, 3))
    pool.attend()
    pool.settle()
    assert sorted(begun(store)) == ["second 0", "second 2"]
    assert len(ahead) == 0
    other.close()


def test_data_that_change_take_what_was_computed_ahead_out_of_the_store(pool: Pool, store: Store, monkeypatch) -> None:
    """Numbers of the new data would be found under the key of the old ones."""
    ahead = coming(pool, store, (experiment("second", data="old"), 1))
    pool.attend()
    pool.settle()
    ahead.check()
    assert len(list(store.folder.glob("*.json"))) == 1  # nothing changed
    ahead.want("second", [Wanted(experiment("third", data="old"), blocks("third"), noted)])
    pool.attend()
    pool.settle()
    monkeypatch.setattr(Level, "inputs", lambda self, *, again=False: {"planted": "new" if again else "old"})
    with pytest.raises(EditedError):
        ahead.check()
    assert len(list(store.folder.glob("*.json"))) == 1
    ahead.check()  # said once
