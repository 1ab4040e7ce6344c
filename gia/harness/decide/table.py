"""The table of blocks and levels: what an experiment comes to, and what a verdict is decided on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import BlockResult
from gia.harness.decide.looks import LOOKS

#: A function of one level's metrics, where a claim is decided on none of them as it is.
Value = Callable[[Mapping[str, float | None]], float]


@dataclass(frozen=True)
class Table:
    """An experiment's blocks, void ones included."""

    experiment: Experiment
    results: Sequence[BlockResult]

    @property
    def levels(self) -> list[str]:
        """The labels, as they stand in the results."""
        return [str(label) for label in self.experiment.levels]

    @property
    def valid(self) -> list[BlockResult]:
        """The blocks whose control passed."""
        return [result for result in self.results if result.valid]

    @property
    def void(self) -> int:
        """How many blocks failed their control."""
        return len(self.results) - len(self.valid)

    @property
    def cached(self) -> int:
        """How many blocks an earlier run computed."""
        return sum(result.cached for result in self.results)

    def joined(self, other: Table) -> Table:
        """These levels, then those of another table of the same blocks, which a claim reads instead of measuring them.

        A block is void where it is void in either table. Seconds count the levels of this table only: the other levels
        are counted in their own row.
        Raises ValueError for a table of other blocks, and where a level stands in both.
        """
        if [result.block for result in self.results] != [result.block for result in other.results]:
            raise ValueError(f"other: expected the blocks of {self.experiment.id!r}, got other ones")
        if both := set(self.levels) & set(other.levels):
            raise ValueError(f"other: expected none of the levels {self.levels}, got {min(both)!r}")
        experiment = Experiment(self.experiment.id, {**self.experiment.levels, **other.experiment.levels})
        return Table(experiment, [_joined(*both) for both in zip(self.results, other.results, strict=True)])

    def of(self, *levels: str | int | float) -> Table:
        """Only these levels, in this order. Raises ValueError for one that is not there."""
        if missing := [level for level in levels if level not in self.experiment.levels]:
            raise ValueError(f"levels: expected some of {self.levels}, got {missing[0]!r}")
        chosen = {level: self.experiment.levels[level] for level in levels}
        return Table(Experiment(self.experiment.id, chosen), self.results)

    def values(self, value: str | Value | tuple[str, ...]) -> np.ndarray:
        """(valid blocks, levels) of a metric, or of a function of a level's metrics.

        Several metrics are those of the only level, (valid blocks, metrics). Raises ValueError where one was not
        measured or is not defined, and for several metrics of several levels.
        """
        if isinstance(value, tuple):
            if len(self.levels) != 1:
                raise ValueError(f"value: expected one metric for {len(self.levels)} levels, got {list(value)}")
            return np.concatenate([self.values(metric) for metric in value], axis=1)

        def of(metrics: Mapping[str, float | None]) -> float:
            number = metrics.get(value) if isinstance(value, str) else value(metrics)
            if number is None:
                raise ValueError(f"value: expected a metric that is measured and defined at this size, got {value!r}")
            return number

        rows = [[of(result.levels[label]) for label in self.levels] for result in self.valid]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.levels))

    def medians(self) -> dict[str, list[float | None]]:
        """Metric to its median over the valid blocks at each level; None where it is not defined."""
        first = self.valid[0].levels if self.valid else {}
        return {
            metric: [self._median(label, metric) for label in self.levels] for metric in first.get(self.levels[0], {})
        }

    def described(self) -> dict[str, Any]:
        """What a report shows beside a verdict, as plain JSON; seconds are those that the blocks cost when computed."""
        return {
            "experiment": self.experiment.id,
            "levels": self.levels,
            "medians": self.medians(),
            "void": {
                str(r.block.index): r.control.reason for r in self.results if not r.valid and r.control is not None
            },
            "seconds": sum(result.seconds for result in self.results),
            "second_look_seconds": sum(result.seconds for result in self.results if result.block.index >= LOOKS[1]),
        }

    def _median(self, label: str, metric: str) -> float | None:
        defined = [value for r in self.valid if (value := r.levels[label].get(metric)) is not None]
        return float(np.median(defined)) if len(defined) == len(self.valid) else None


def _joined(own: BlockResult, other: BlockResult) -> BlockResult:
    cached = own.cached or other.cached
    if not own.valid:
        return replace(own, cached=cached)
    if not other.valid:
        return replace(other, seconds=own.seconds, counts=own.counts, cached=cached)
    return replace(
        own,
        levels={**own.levels, **other.levels},
        counts={**own.counts, **other.counts},
        details={**own.details, **other.details},
        pictures=(*own.pictures, *other.pictures),
        cached=cached,
    )
