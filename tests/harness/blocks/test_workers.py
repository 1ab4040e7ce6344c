"""Calls over processes: the same results in the same order, computed alike, and an error that names its item."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from gia.harness.blocks import workers as workers_module
from gia.harness.blocks.workers import Pool, WorkerError, spread


def seen_by(item: int) -> tuple[int, int, tuple[int, int]]:
    """The item, the process and how it computes. The first item takes longest, so that the others end before it."""
    time.sleep(0.3 if item == 0 else 0)
    return item, os.getpid(), (torch.get_num_threads(), torch.get_deterministic_debug_mode())


def crashing(item: int) -> int:
    """A bug at one item."""
    if item == 2:
        raise ZeroDivisionError("planted")
    return item


@pytest.mark.parametrize("workers", [0, 2])
def test_results_stand_in_the_order_of_the_items_wherever_they_are_computed(workers: int) -> None:
    """A result would be held for that of another item, or hang on the process; progress would be stuck."""
    reports: list[tuple[int, int]] = []
    found = spread(seen_by, range(5), workers=workers, tick=lambda *done: reports.append(done))
    assert [item for item, *_ in found] == [0, 1, 2, 3, 4]
    assert {how for *_, how in found} == {(1, 2)}  # one thread; 2 is "error", where arithmetic does not repeat
    assert {process == os.getpid() for _, process, _ in found} == {workers == 0}
    assert reports[-1] == (5, 5)


def test_a_crash_names_the_item_and_the_place() -> None:
    """Of hundreds of calls nobody could tell which one failed."""
    with pytest.raises(WorkerError, match=r"(?s)crashing of 2 failed .*ZeroDivisionError: planted.*in crashing"):
        spread(crashing, range(3), workers=1)


def test_a_pool_whose_idle_worker_was_killed_starts_another_one() -> None:
    """The claim after the one that the system took memory from would end in a bare BrokenProcessPool."""
    pool = Pool(1)
    try:
        ((_, first, _),) = spread(seen_by, [1], workers=pool)
        os.kill(first, signal.SIGKILL)
        while first in [child.pid for child in multiprocessing.active_children()]:
            time.sleep(0.01)
        ((_, second, _),) = spread(seen_by, [1], workers=pool)
    finally:
        pool.close()
    assert first != second


def slow(item: int) -> int:
    """Long enough to be stopped or killed."""
    time.sleep(600)
    return item


def children() -> set[int]:
    """The processes of this process; those of an earlier test may not have ended yet."""
    return {child.pid or 0 for child in multiprocessing.active_children()}


def signalled(number: int, before: set[int]) -> None:
    """Send a signal to the new worker of this process as soon as there is one."""
    while not (new := children() - before):
        time.sleep(0.01)
    os.kill(new.pop(), number)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGSTOP, "slow of 0: a worker was stopped by a signal and did not go on"),
        (signal.SIGKILL, "slow of 0 failed in a worker: BrokenProcessPool"),
    ],
    ids=["stopped", "killed"],
)
def test_a_worker_that_is_lost_under_way_ends_the_call(
    monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    """A run of a night would wait for ever, or end without saying what it was about."""
    monkeypatch.setattr(workers_module, "_TICK", 0.1)
    monkeypatch.setattr(workers_module, "_PATIENCE", 3)
    before = children()
    threading.Thread(target=signalled, args=(number, before), daemon=True).start()
    with pytest.raises(WorkerError, match=message):
        spread(slow, [0], workers=1)
    assert not children() - before


class Broken:
    """An executor that noticed the loss of a worker."""

    def submit(self, *_: object) -> None:
        """As the standard library's."""
        raise BrokenProcessPool("planted")

    def shutdown(self, **_: object) -> None:
        """Nothing runs."""


def test_a_pool_that_breaks_between_two_jobs_names_the_job() -> None:
    """The error would be the standard library's, about no claim."""
    pool = Pool(1)
    pool._executor = Broken()  # type: ignore[assignment]
    with pytest.raises(WorkerError, match="crashing of 0 failed in a worker: BrokenProcessPool: planted"):
        spread(crashing, [0], workers=pool)
    assert spread(crashing, [0], workers=pool) == [0]  # by new workers
    pool.close()
