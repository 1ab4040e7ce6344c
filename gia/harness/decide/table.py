"""The table of blocks and levels: what an experiment comes to, and what a verdict is decided on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import BlockResult
from gia.harness.decide.looks import LOOKS
from gia.numerics import digest_of

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
        """The blocks whose controls passed."""
        return [result for result in self.results if result.valid]

    @property
    def void(self) -> int:
        """How many blocks failed a control."""
        return len(self.results) - len(self.valid)

    @property
    def cached(self) -> int:
        """How many blocks an earlier run computed."""
        return sum(result.cached for result in self.results)

    def digest(self) -> str:
        """Sixteen hex digits over the lane, the levels and the drawn settings: equal for the same blocks only."""
        blocks = [result.block for result in self.results]
        levels = [[str(label), level.digest()] for label, level in self.experiment.levels.items()]
        drawn = [[block.lane, block.index, dict(block.setting)] for block in blocks]
        return digest_of({"levels": levels, "blocks": drawn})

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

    def at(self, places: Sequence[int]) -> Table:
        """The blocks at these places, in this order; one may stand several times."""
        return Table(self.experiment, [self.results[place] for place in places])

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

    def room(self, metric: str) -> np.ndarray:
        """(levels,) medians of a metric over the valid blocks, what can be lost; zeros without a valid block."""
        values = self.values(metric)
        return np.median(values, axis=0) if len(values) else np.zeros(len(self.levels))

    def medians(self) -> dict[str, list[float | None]]:
        """Metric to its median over the valid blocks at each level; None where it is not defined."""
        first = self.valid[0].levels if self.valid else {}
        return {
            metric: [self._median(label, metric) for label in self.levels] for metric in first.get(self.levels[0], {})
        }

    def described(self) -> dict[str, Any]:
        """What a report shows beside a verdict, as plain JSON; seconds are those that the blocks cost when computed.

        `void` is block index -> the reason of the first control that failed. `void_shares` is factor -> value -> [void,
        drawn]. `controls` counts, over the valid blocks' levels, how the control's search ended: "ambiguous" where it
        found a data term as low as the truth's, "not found" where it ended above it. `behind` counts the distinct
        images and shared attackers of the valid blocks, where these are named (`details["attacked"]`, and the drawn
        factor "attacker.seed"). `seconds_per_look` adds up to `seconds`.
        """
        return {
            "experiment": self.experiment.id,
            "levels": self.levels,
            "medians": self.medians(),
            "void": {str(result.block.index): _failure(result) for result in self.results if not result.valid},
            "void_shares": self._void_shares(),
            "controls": self._searches(),
            "behind": self._behind(),
            "seconds": sum(result.seconds for result in self.results),
            "seconds_per_look": self._seconds_per_look(),
        }

    def _void_shares(self) -> dict[str, dict[str, list[int]]]:
        shares: dict[str, dict[str, list[int]]] = {}
        for result in self.results:
            for factor, value in result.block.setting.items():
                share = shares.setdefault(factor, {}).setdefault(str(value), [0, 0])
                share[0] += not result.valid
                share[1] += 1
        return shares

    def _searches(self) -> dict[str, int]:
        ends = {"ambiguous": 0, "not found": 0}
        for result in self.valid:
            for control in result.controls.values():
                if "found" in control.values and "truth" in control.values:
                    found, truth = control.values["found"], control.values["truth"]
                    ends["ambiguous" if found <= truth else "not found"] += 1
        return ends

    def _behind(self) -> dict[str, int]:
        images, attackers = set(), set()
        for result in self.valid:
            for details in result.details.values():
                attacked = details.get("attacked", {"data": "", "images": []})
                images |= {(attacked["data"], image) for image in attacked["images"]}
            if (seed := result.block.setting.get("attacker.seed")) is not None:
                attackers.add(seed)
        return {"images": len(images), "shared attackers": len(attackers)}

    def _seconds_per_look(self) -> list[float]:
        """A void block belongs to the look that drew it: the one that still lacked valid blocks."""
        seconds, valid = [0.0] * len(LOOKS), 0
        for result in self.results:
            look = next((look for look, needed in LOOKS.items() if valid < needed), max(LOOKS))
            seconds[look - 1] += result.seconds
            valid += result.valid
        return seconds

    def _median(self, label: str, metric: str) -> float | None:
        defined = [value for r in self.valid if (value := r.levels[label].get(metric)) is not None]
        return float(np.median(defined)) if len(defined) == len(self.valid) else None


def _failure(result: BlockResult) -> str:
    return next((control.reason for control in result.controls.values() if not control.passed), "")


def _joined(own: BlockResult, other: BlockResult) -> BlockResult:
    return replace(
        own,
        levels={**own.levels, **other.levels},
        controls={**own.controls, **other.controls},
        valid=own.valid and other.valid,
        counts={**own.counts, **other.counts},
        details={**own.details, **other.details},
        pictures=(*own.pictures, *other.pictures),
        cached=own.cached or other.cached,
    )
