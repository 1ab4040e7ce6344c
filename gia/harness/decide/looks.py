"""The two looks at a claim: a second one after an inconclusive first, and never a third."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gia.harness.decide.verdicts import Look, Verdict, needs_second_look

Measured = TypeVar("Measured")

#: Blocks at the first look, and in all at the second.
LOOKS: dict[Look, int] = {1: 8, 2: 16}
MOST_BLOCKS = LOOKS[2]


def look_twice(
    measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
) -> tuple[Verdict, Measured]:
    """The verdict over eight blocks, and after an inconclusive one the second and last over sixteen.

    Args:
        measured: how many blocks -> what is decided on, such as their table.
        decide: (that, look) -> verdict.

    Returns the verdict that counts, and what it was decided on.
    """
    blocks = measured(LOOKS[1])
    verdict = decide(blocks, 1)
    if needs_second_look(verdict):
        blocks = measured(LOOKS[2])
        verdict = decide(blocks, 2)
    return verdict, blocks
