"""The table of blocks and levels: what an experiment comes to, and what a verdict is decided on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gia.harness.executor import BlockResult
from gia.harness.protocol import Experiment

#: Blocks at the first look, and in all at the second.
LOOKS = (8, 16)

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
            found = metrics.get(value) if isinstance(value, str) else value(metrics)
            if found is None:
                raise ValueError(f"value: {value!r} was not measured, or is not defined at this size: {dict(metrics)}")
            return found

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
            "second_look_seconds": sum(result.seconds for result in self.results if result.block.index >= LOOKS[0]),
        }

    def _median(self, label: str, metric: str) -> float | None:
        found = [value for r in self.valid if (value := r.levels[label].get(metric)) is not None]
        return float(np.median(found)) if len(found) == len(self.valid) else None
