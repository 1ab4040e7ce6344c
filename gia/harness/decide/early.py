"""Whether a first look is over before all of its blocks are measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gia.harness.decide.looks import LOOKS
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict


def stays_inconclusive(claim: Claim, table: Table, decide: Callable[[Table, Look], Verdict]) -> bool:
    """Whether the first look at these blocks and any further ones is inconclusive.

    The interval of a first look reaches from the smallest effect to the largest, so further blocks only widen it. Where
    it is inconclusive on the valid blocks that are there, standing several times, it stays so. Rates of trials have
    another interval, and are never certain. It also stays so where more than half of the blocks of a look have too
    little to lose at every level, since a median decides whether there is room.

    Args:
        table: the first blocks of the look.
        decide: (table, look) -> verdict on what compares levels or counts.
    """
    places = [place for place, result in enumerate(table.results) if result.valid]
    if not places:
        return False
    verdict = decide(table.at([places[number % len(places)] for number in range(LOOKS[1])]), 1)
    if claim.leak and (room := verdict.detail.get("room")) is not None:
        others = np.full((max(0, LOOKS[1] - len(places)), len(table.levels)), np.inf)
        if (np.median(np.concatenate([table.values(claim.metric), others]), axis=0) < room["needed"]).all():
            return True
    return "effects" in verdict.detail and verdict.detail.get("by_interval") == "inconclusive"
