"""Calls over processes: the same results in the same order, computed alike, and an error that names its item."""

from __future__ import annotations

import os
import time

import pytest
import torch

from gia.harness.blocks.workers import WorkerError, spread


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
