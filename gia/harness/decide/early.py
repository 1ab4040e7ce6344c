"""Whether a first look is over before all of its blocks are measured."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from gia.harness.decide.looks import LOOKS, hopeless
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict

#: (table, look) -> verdict.
Decide = Callable[[Table, Look], Verdict]

#: More blocks than these are never needed: most of eight without room, or too many void ones.
_MOST = LOOKS[1] // 2 + 1


def stays_inconclusive(claim: Claim, table: Table, decide: Decide) -> bool:
    """Whether the first look at these blocks and any further ones is inconclusive.

    The interval of a first look reaches from the smallest effect to the largest, so further blocks only widen it. Where
    it is inconclusive on the valid blocks that are there, standing several times, it stays so. Rates of trials have
    another interval, and are never certain. It also stays so where more than half of the blocks of a look have too
    little to lose at every level, since a median decides whether there is room, and where too many blocks are void.

    Args:
        table: any blocks, in the order of their indices. One that the look might not reach does not count.
        decide: (table, look) -> verdict on what compares levels or counts.
    """
    table = table.at(_reached(table))
    if hopeless(table.void, looks=1):
        return True
    places = [place for place, result in enumerate(table.results) if result.valid]
    if not places:
        return False
    verdict = decide(table.at([places[number % len(places)] for number in range(LOOKS[1])]), 1)
    if claim.leak and (room := verdict.detail.get("room")) is not None:
        others = np.full((max(0, LOOKS[1] - len(places)), len(table.levels)), np.inf)
        if (np.median(np.concatenate([table.values(claim.metric), others]), axis=0) < room["needed"]).all():
            return True
    return "effects" in verdict.detail and verdict.detail.get("by_interval") == "inconclusive"


def witness(claim: Claim, table: Table, decide: Decide) -> list[int] | None:
    """The indices of the cheapest blocks on which `stays_inconclusive` holds; None where no few of them are enough.

    Args:
        claim, table, decide: as in `stays_inconclusive`.
    """
    seconds = [result.seconds for result in table.results]
    places = range(len(table.results))
    sets = [chosen for size in range(1, _MOST + 1) for chosen in combinations(places, size)]
    for chosen in sorted(sets, key=lambda chosen: sum(seconds[place] for place in chosen)):
        if stays_inconclusive(claim, table.at(chosen), decide):
            return [table.results[place].block.index for place in chosen]
    return None


def _reached(table: Table) -> list[int]:
    """The places of the blocks that a first look draws, whatever it finds in those that are not there."""
    places, void = [], 0
    for place, result in enumerate(table.results):
        if result.block.index - void < LOOKS[1]:  # fewer than eight valid ones come before it
            places.append(place)
            void += not result.valid
    return places
