"""Blocks of rows to come: workers compute them where the running row has no work for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from gia.harness.blocks.block import Block
from gia.harness.blocks.executor import job, saved
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Measure
from gia.harness.blocks.sources import EditedError
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import Job


class Wanted(NamedTuple):
    """Blocks that a row will measure."""

    experiment: Experiment
    blocks: Sequence[Block]
    measure: Measure


class _Begun(NamedTuple):
    """What the result of a block is stored under, and what it is checked against."""

    experiment: Experiment
    key: dict[str, Any]


class Ahead:
    """The blocks of rows to come, in order: `gia.harness.blocks.workers.Spare` jobs, whose results go to the store.

    A row finds its blocks there, or waits for those under way. It never depends on them: what fails here is computed
    again by the row, whose error it then is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: deque[tuple[str, _Begun, Block, Job]] = deque()
        self._unchecked: list[_Begun] = []

    def __len__(self) -> int:
        """The number of blocks that are not begun."""
        return len(self._blocks)

    def want(self, row: str, wanted: Sequence[Wanted]) -> None:
        """Add the blocks of a row, called `row` in `leave`, behind all others.

        Raises whatever the row itself meets when it is about to measure them, such as ValueError for missing data.
        """
        found = []
        for experiment, blocks, measure in wanted:
            for block in blocks:
                key = self._store.key(experiment, block, measure)
                found.append((row, _Begun(experiment, key), block, job(experiment, block, measure, self._store, key)))
        self._blocks += found

    def leave(self, row: str) -> None:
        """Begin no further block of this row, which measures the others by itself from now on."""
        self._blocks = deque(each for each in self._blocks if each[0] != row)

    def take(self) -> tuple[_Begun, Job] | None:
        """The next block that is not stored and that nobody computes."""
        while self._blocks:
            _, begun, block, how = self._blocks.popleft()
            if not self._store.reserve(begun.key):
                continue
            if self._store.load(begun.key, block) is None:
                return begun, how
            self._store.release(begun.key)
        return None

    def finished(self, begun: _Begun, result: Any) -> None:
        """Store a block. Nothing is stored once a source file was edited: the row that needs the block says so."""
        with suppress(EditedError):
            saved(self._store, begun.key, *result)
            self._unchecked.append(begun)
        self._store.release(begun.key)

    def failed(self, begun: _Begun) -> None:
        """Leave a block to its row."""
        self._store.release(begun.key)

    def check(self) -> None:
        """Raise EditedError, and take what was stored out again, where packages or data changed meanwhile."""
        unchecked, self._unchecked = self._unchecked, []
        for experiment in dict.fromkeys(id(begun.experiment) for begun in unchecked):
            own = [begun for begun in unchecked if id(begun.experiment) == experiment]
            self._store.check_all(own[0].experiment, [begun.key for begun in own])
