"""The two looks at a claim: a second one after an inconclusive first, and never a third."""

from __future__ import annotations

import pytest

from gia.harness.decide.looks import LOOKS, MOST_BLOCKS, look_twice
from gia.harness.decide.verdicts import Look, Verdict


def verdict(outcome: str, look: Look) -> Verdict:
    """A verdict with this outcome."""
    return Verdict("toy", outcome, 1.0, "dB", None, LOOKS[look], 0, look, None, "", "", {})


@pytest.mark.parametrize(
    ("outcomes", "looked_at"),
    [
        (["supported"], [8]),
        (["refuted"], [8]),
        (["inconclusive", "supported"], [8, 16]),
        (["inconclusive", "refuted"], [8, 16]),
        (["inconclusive", "inconclusive"], [8, 16]),
    ],
)
def test_only_an_inconclusive_first_look_is_followed_by_a_second_and_last(
    outcomes: list[str], looked_at: list[int]
) -> None:
    """With more looks, or a second one after a refutation, some look would support any claim."""
    seen: list[int] = []

    def measured(blocks: int) -> int:
        seen.append(blocks)
        return blocks

    found, blocks = look_twice(measured, lambda blocks, look: verdict(outcomes[look - 1], look))
    assert seen == looked_at
    assert (found.outcome, found.look, blocks) == (outcomes[-1], len(outcomes), looked_at[-1])


def test_the_second_look_has_all_the_blocks_that_a_space_must_hold() -> None:
    """A space that is just large enough for the first look would end the run at the second."""
    assert max(LOOKS.values()) == LOOKS[2] == MOST_BLOCKS
