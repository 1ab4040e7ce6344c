"""The table of blocks and levels: what an experiment comes to, and what a verdict is decided on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gia.harness.executor import BlockResult
from gia.harness.protocol import Experiment

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

    def values(self, value: str | Value) -> np.ndarray:
        """(valid blocks, levels) of a metric, or of a function of a level's metrics.

        Raises ValueError where it was not measured or is not defined.
        """

        def of(metrics: Mapping[str, float | None]) -> float:
            found = metrics.get(value) if isinstance(value, str) else value(metrics)
            if found is None:
                raise ValueError(f"value: {value!r} was not measured, or is not defined at this size: {dict(metrics)}")
            return found

        rows = [[of(result.levels[label]) for label in self.levels] for result in self.valid]
        return np.array(rows, dtype=float).reshape(len(rows), len(self.levels))
