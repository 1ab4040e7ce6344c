"""The blocks of a row, drawn and measured as the lane of the run asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gia.harness.blocks.ahead import Wanted
from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Level, Measure
from gia.harness.blocks.results import BlockResult
from gia.harness.decide.table import Table
from gia.harness.plugin.context import Context
from gia.harness.plugin.deciding import Change
from gia.harness.plugin.skips import Skips

#: Added to the index of a setting that is drawn again: other images, victims and starts.
_AGAIN = 1000


@dataclass(frozen=True)
class Way:
    """How levels are measured for a while.

    Args:
        budget: a factor of every attack's budget.
        again: whether other victims, images and starts are drawn for the same settings.
        only: indices of the blocks that are measured; None measures all that are asked for.
        asked: where this is a list, experiments are added to it, and tables stay empty.
    """

    budget: int = 1
    again: bool = False
    only: Sequence[int] | None = None
    asked: list[Experiment] | None = None


class Measuring:
    """Makes the tables of rows."""

    def __init__(self, context: Context, skips: Skips) -> None:
        self._context, self._skips, self._way = context, skips, Way()

    @contextmanager
    def on(self, way: Way) -> Iterator[None]:
        """Measure in another way inside a `with` block."""
        before, self._way = self._way, way
        try:
            yield
        finally:
            self._way = before

    def table(
        self, id: str, protocol: Level, levels: Sequence[Any], change: Change, blocks: int, measure: Measure | None
    ) -> Table:
        """As `gia.harness.plugin.claims.Claims.table`."""
        context, lane, way = self._context, self._context.lane, self._way
        measure = measure or context.laboratory.measure
        protocol = protocol.placed(device=context.device, root=context.root)
        experiment = Experiment(id, self._levels({label: change(protocol, label) for label in levels}, measure))
        if way.asked is not None:
            way.asked.append(experiment)
            return Table(experiment, [])
        if context.plan is not None:
            context.plan.end(context.ids, [experiment], blocks)
        # Another attack draws no settings of the protocol's own; factors are drawn independently, so the others stay.
        space = protocol.vary if context.substitute is None else experiment.first.vary
        drawn = draw_blocks(id, space, blocks, lane=lane.of_blocks(id, context.frozen))
        if way.only is not None:
            drawn = [block for block in drawn if block.index in way.only]
        if way.again:
            drawn = [replace(block, index=block.index + _AGAIN) for block in drawn]
        if context.wanted is not None:
            context.wanted.append(Wanted(experiment, drawn, measure))
            if way.only is None:  # no look
                pytest.skip("only asked")
            return Table(experiment, [])

        def run(experiment: Experiment, blocks: Sequence[Block], measure: Measure) -> list[BlockResult]:
            return run_blocks(
                experiment,
                blocks,
                context.store,
                measure,
                workers=context.workers,
                progress=context.progress(id),
            )

        if (placebos := context.placebos) is None:
            return Table(experiment, run(experiment, drawn, measure))
        if not placebos.applies(experiment.levels):
            self._skips.not_applicable("the saboteur needs a second level to spoil")
        if measure is not context.laboratory.measure:
            (first,) = run(placebos.probe(id, experiment.levels), drawn[:1], measure)
            if not any("placebo" in details for details in first.details.values()):
                self._skips.without_attack()
        return placebos.table(id, experiment.levels, drawn, measure, run)

    def _levels(self, levels: Mapping[Any, Level], measure: Measure) -> Mapping[Any, Level]:
        """The levels with what this run puts in the place of their budgets and attacks."""
        if (budget := self._way.budget) != 1:
            levels = {label: level.with_budget(budget) or level for label, level in levels.items()}
        if self._context.substitute is not None:
            levels = self._substituted(levels, measure)
        return levels

    def _substituted(self, levels: Mapping[Any, Level], measure: Measure) -> dict[Any, Level]:
        """The levels with the user's attack and defenses. A row that cannot take them is skipped, with the reason."""
        assert self._context.substitute is not None
        if measure is not self._context.laboratory.measure:
            self._skips.without_attack()
        new = {label: self._context.substitute(level) for label, level in levels.items()}
        for reason in new.values():
            if isinstance(reason, str):
                pytest.skip(f"not tried: {reason}")
        if len({level.digest() for level in new.values()}) < len(new):
            pytest.skip("not tried: the levels of this row differ only in the attack that was replaced")
        return new
