"""`--plan`: what each row costs on this machine, from measured steps; nothing is attacked, and no data set is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import pytest

from gia.harness.blocks.experiment import Experiment
from gia.harness.plugin.laboratory import Cost, Laboratory

_HOUR = 3600


@dataclass(frozen=True)
class Row:
    """What one row of the register costs.

    Attributes:
        blocks: of its first look.
        costs: of its levels, in all of its experiments.
        obstacles: why some of its levels could not be planned.
    """

    id: str
    blocks: int
    costs: Sequence[Cost]
    obstacles: Sequence[str]

    @property
    def seconds(self) -> float:
        """Of all blocks, in one process."""
        return self.blocks * sum(cost.seconds for cost in self.costs)


class Plan:
    """The rows of a run that attacks nothing.

    Args:
        laboratory: measures what a level costs. Raises UsageError where it cannot.
        tell: prints a line for each row as soon as it is known.
    """

    def __init__(self, laboratory: Laboratory, tell: Callable[[str], object]) -> None:
        if (cost := getattr(laboratory, "cost", None)) is None:
            raise pytest.UsageError("--gia-plan: expected a claims_experiment with 'cost', which measures a level's")
        self._cost: Callable[[object], Cost] = cost
        self._tell = tell
        self.rows: list[Row] = []

    def end(self, ids: Sequence[str], experiments: Sequence[Experiment], blocks: int) -> NoReturn:
        """Note what the running test's row costs, and end the test: in this run nothing is measured."""
        costs, obstacles = [], []
        for level in (level for experiment in experiments for level in experiment.levels.values()):
            try:
                costs.append(self._cost(level))
            except ValueError as error:
                obstacles.append(" ".join(str(error).split()))
        row = Row(", ".join(ids), blocks, costs, list(dict.fromkeys(obstacles)))
        self.rows.append(row)
        self._tell("\n".join(lines(row)))
        pytest.skip("only planned")

    def closing(self, workers: int) -> str:
        """The sum, and what it does not hold."""
        planned = [row for row in self.rows if row.costs]
        seconds, many = sum(row.seconds for row in planned), max(1, workers)
        memory = max((cost.memory for row in planned for cost in row.costs), default=0)
        text = f"{len(planned)} rows: {_hours(seconds)} in one process"
        if many > 1:
            text += f", {_hours(seconds / many)} in {many} if each has one core or device"
        parts = [f"{text}; at most about {_bytes(memory)} in one process."]
        if missing := [row.id for row in self.rows if row.obstacles]:
            parts.append(f"Not or not fully planned, and not in the sum: {', '.join(missing)}.")
        parts.append(
            "An estimate of the first look: steps were timed on a few made-up images and scaled by the number of "
            "images. Controls, scores, trained victims and further looks come on top; a search that ends when it has "
            "converged takes less."
        )
        return "\n".join(parts)


def lines(row: Row) -> list[str]:
    """What one row costs, in one line, and in further ones what is not counted.

    >>> from types import SimpleNamespace
    >>> level = SimpleNamespace(steps=24000, step=0.3, seconds=7200.0, memory=2_000_000_000, without=())
    >>> lines(Row("op.size", 8, [level, level], []))
    ['op.size: 8 blocks x 2 levels, 24,000 steps of 0.3 s: 32 h, 2 GB']
    """
    text: list[str] = []
    if row.costs:
        steps = _range([cost.steps for cost in row.costs], ",")
        step = _range([cost.step for cost in row.costs], ".2g")
        memory = _bytes(max(cost.memory for cost in row.costs))
        text.append(
            f"{row.id}: {row.blocks} blocks x {len(row.costs)} levels, {steps} steps of {step} s: "
            f"{_hours(row.seconds)}, {memory}"
        )
    text += [f"{row.id}: cannot be planned: {obstacle}" for obstacle in row.obstacles]
    without = dict.fromkeys(each for cost in row.costs for each in cost.without)
    return text + ([f"  not counted: {', '.join(without)}"] if without else [])


def _range(values: Sequence[float], form: str) -> str:
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least} to {most}"


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR:,.3g} h" if seconds >= _HOUR else f"{seconds / 60:.2g} min"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
