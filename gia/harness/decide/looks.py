"""The looks at a claim: a further one only after an inconclusive one, each on an exact number of valid blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from gia.harness.decide.verdicts import Look, Verdict

Measured = TypeVar("Measured")

#: Valid blocks in all at each look.
LOOKS: dict[Look, int] = {1: 8, 2: 16, 3: 32}

#: Blocks that are drawn at most, void ones included: with more, over a third would be void.
MOST_DRAWN = 48

#: Blocks that a look draws at once where it may end early: at first, and then.
STEPS = (4, 2)


def look(
    measured: Callable[[int], Measured],
    decide: Callable[[Measured, Look], Verdict],
    *,
    looks: int,
    settled: Callable[[Measured], bool] | None = None,
) -> tuple[Verdict, Measured]:
    """The verdict over exactly 8 valid blocks, and after an inconclusive one over 16, then over 32.

    Void blocks are replaced by the next ones. The verdict is inconclusive where more than a third of the blocks are
    void when the looks end, and they end as soon as that is certain, so that at most `MOST_DRAWN` blocks are drawn.

    Args:
        measured: a number n -> what is decided on, such as the table of the first n blocks.
        decide: (that, look) -> verdict, whose `blocks` and `void` count the valid and the void blocks.
        looks: how many looks are allowed, 1 to 3.
        settled: asked after every few blocks of a single look: whether it will be inconclusive whatever the other
            blocks say. Then it ends. None draws all blocks.

    Returns:
        The verdict that counts, and what it was decided on.

    Raises:
        ValueError: if looks is not 1 to 3, or not 1 where a look may end early.

    >>> def decide(blocks: int, look: Look) -> Verdict:  # the first two blocks are void
    ...     return Verdict("op.size", "supported", 2.0, "dB", (1, 3), blocks - 2, 2, look, None, "", "psnr 24/22", {})
    >>> verdict, drawn = look(lambda blocks: blocks, decide, looks=3)
    >>> verdict.outcome, verdict.blocks, verdict.void, drawn
    ('supported', 8, 2, 10)
    """
    if looks not in LOOKS:
        raise ValueError(f"looks: expected 1 to 3, got {looks!r}")
    if settled is not None and looks != 1:  # ranks of later looks may decide what the first one cannot
        raise ValueError(f"looks: expected 1 where a look may end early, got {looks!r}")
    drawn, valid = 0, 0
    for number, needed in list(LOOKS.items())[:looks]:
        while True:
            missing = needed - valid
            drawn += missing if settled is None else min(missing, STEPS[drawn > 0])
            blocks = measured(drawn)
            verdict = decide(blocks, number)
            valid = verdict.blocks
            ended = hopeless(verdict.void, looks=looks)
            if valid >= needed or ended:
                break
            if settled is not None and settled(blocks):
                return certain(verdict), blocks
        if valid < needed:
            return _inconclusive(verdict, _too_few(valid, drawn, needed)), blocks
        if ended or verdict.outcome != "inconclusive":
            break
    if verdict.outcome != "inconclusive" and 3 * verdict.void > drawn:
        return _inconclusive(verdict, f"{verdict.void} of {drawn} blocks are void: expected at most a third"), blocks
    return verdict, blocks


def certain(verdict: Verdict) -> Verdict:
    """The verdict of a first look that will be inconclusive whatever its other blocks say; without an interval."""
    valid, needed = verdict.blocks, LOOKS[1]
    if hopeless(verdict.void, looks=1):
        return _inconclusive(verdict, _too_few(valid, valid + verdict.void, needed))
    reason = f"certain after {valid} of {needed} valid blocks, whatever the others say"
    return replace(_inconclusive(verdict, reason), measured=reason)


def hopeless(void: int, *, looks: int) -> bool:
    """Whether not even the valid blocks of the last look can bring this number of void ones down to a third.

    >>> hopeless(4, looks=1), hopeless(5, looks=1), hopeless(5, looks=2)
    (False, True, False)
    """
    return 2 * void > list(LOOKS.values())[looks - 1]


def _too_few(valid: int, drawn: int, needed: int) -> str:
    return f"{valid} of {drawn} blocks are valid: expected {needed}"


def _inconclusive(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, outcome="inconclusive", detail={**verdict.detail, "reason": reason})
