"""The looks at a claim: each on an exact number of valid blocks, a further one only after an inconclusive one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gia.harness.decide.looks import LOOKS, MOST_DRAWN, look
from gia.harness.decide.statistics import RANKS
from gia.harness.decide.verdicts import Look, Verdict


def verdict(outcome: str, look: Look, blocks: int, void: int = 0) -> Verdict:
    """A verdict with this outcome over this number of blocks."""
    detail = {"reason": "planted"}
    return Verdict("toy", outcome, 1.0, "dB", None, blocks, void, look, None, "", "", detail)


def run(
    outcomes: list[str], void: set[int], *, looks: int = 3, settled: Callable[[list[bool]], bool] | None = None
) -> tuple[Verdict, list[int]]:
    """The verdict where these blocks are void and the looks end so, and the numbers of blocks that were drawn."""
    drawn: list[int] = []

    def measured(blocks: int) -> list[bool]:
        drawn.append(blocks)
        return [index not in void for index in range(blocks)]

    def decide(valid: list[bool], number: Look) -> Verdict:
        return verdict(outcomes[number - 1], number, sum(valid), len(valid) - sum(valid))

    found, blocks = look(measured, decide, looks=looks, settled=settled)
    assert len(blocks) == drawn[-1]  # what is returned is what the verdict was decided on
    return found, drawn


@pytest.mark.parametrize(
    ("outcomes", "looked_at"),
    [
        (["supported"], [8]),
        (["refuted"], [8]),
        (["inconclusive", "supported"], [8, 16]),
        (["inconclusive", "refuted"], [8, 16]),
        (["inconclusive", "inconclusive", "supported"], [8, 16, 32]),
        (["inconclusive", "inconclusive", "inconclusive"], [8, 16, 32]),
    ],
)
def test_only_an_inconclusive_look_is_followed_by_another_and_the_third_is_the_last(
    outcomes: list[str], looked_at: list[int]
) -> None:
    """With more looks, or a further one after a refutation, some look would support any claim."""
    found, drawn = run(outcomes, set())
    assert drawn == looked_at
    assert (found.outcome, found.look, found.blocks) == (outcomes[-1], len(outcomes), looked_at[-1])


@pytest.mark.parametrize(("looks", "blocks"), [(1, 8), (2, 16), (3, 32)])
def test_a_run_takes_no_more_looks_than_it_is_allowed(looks: int, blocks: int) -> None:
    """The first look alone is what the daily run costs."""
    found, _ = run(["inconclusive"] * 3, set(), looks=looks)
    assert (found.look, found.blocks) == (looks, blocks)


def test_void_blocks_are_replaced_by_the_next_ones() -> None:
    """Fewer valid blocks would be decided at another error than the stated one. Block 9 is void and a replacement."""
    found, drawn = run(["supported"], {0, 1, 9})
    assert drawn == [8, 10, 11]
    assert (found.outcome, found.blocks, found.void) == ("supported", 8, 3)


def test_the_looks_end_when_void_blocks_are_certain_to_be_too_many() -> None:
    """Forty void blocks would be paid for, to say what five of twelve say. An earlier look goes on if it can help."""
    found, drawn = run(["supported"], {0, 1, 2, 3}, looks=1)
    assert (found.outcome, drawn) == ("supported", [8, 12])
    found, drawn = run(["supported"], {0, 1, 2, 3, 4}, looks=1)
    assert (found.outcome, drawn) == ("inconclusive", [8])
    assert "3 of 8 blocks are valid" in found.detail["reason"]
    found, drawn = run(["inconclusive", "supported"], {0, 1, 2, 3, 4}, looks=2)
    assert (found.outcome, found.blocks, found.void, drawn) == ("supported", 16, 5, [8, 13, 21])


def test_a_further_look_adds_to_the_blocks_that_are_there() -> None:
    """Blocks that are left out after a look would let it be tried again."""
    found, drawn = run(["inconclusive", "refuted"], {0, 12})
    assert drawn == [8, 9, 17, 18]
    assert (found.outcome, found.look, found.blocks, found.void) == ("refuted", 2, 16, 2)


@pytest.mark.parametrize(("void", "outcome"), [(4, "supported"), (5, "inconclusive")])
def test_more_than_a_third_void_at_the_end_is_inconclusive(void: int, outcome: str) -> None:
    """A verdict on the blocks that are left would be one on a selection. 4 of 12 is a third, 5 of 13 is more."""
    found, _ = run(["supported"], set(range(void)))
    assert (found.outcome, found.blocks, found.void) == (outcome, 8, void)
    reason = "planted" if outcome == "supported" else "5 of 13 blocks are void: expected at most a third"
    assert found.detail["reason"] == reason


def test_the_share_of_void_blocks_counts_at_the_end_and_not_at_an_earlier_look() -> None:
    """A few dead settings among the first blocks would end a run that finds many live ones."""
    found, _ = run(["inconclusive", "supported"], set(range(5)))
    assert (found.outcome, found.look, found.void) == ("supported", 2, 5)


@pytest.mark.parametrize(("first", "look", "valid", "drawn"), [(0, 1, 0, 24), (8, 2, 8, 32), (16, 3, 16, 48)])
def test_a_look_that_lacks_valid_blocks_is_inconclusive(first: int, look: Look, valid: int, drawn: int) -> None:
    """All blocks from `first` on are void: 17 of them are more than a third, whatever the next ones are."""
    found, numbers = run([*["inconclusive"] * (look - 1), *["supported"] * 3], set(range(first, 100)))
    assert numbers[-1] == drawn <= MOST_DRAWN == 48
    assert (found.outcome, found.look, found.blocks) == ("inconclusive", look, valid)
    assert found.detail["reason"] == f"{valid} of {drawn} blocks are valid: expected {LOOKS[look]}"


def test_a_third_of_all_blocks_may_be_void() -> None:
    """The most that are drawn are 48, of which 16 may be void."""
    found, drawn = run(["inconclusive", "inconclusive", "supported"], set(range(16)))
    assert (found.outcome, found.blocks, found.void, drawn[-1]) == ("supported", 32, 16, MOST_DRAWN)


def test_the_looks_are_those_that_have_an_interval() -> None:
    """A look without an interval could decide nothing. Rule: 8, 16 and 32 valid blocks."""
    assert list(LOOKS.values()) == [8, 16, 32] == list(RANKS)
    assert np.diff([0, *LOOKS.values()]).min() > 0


@pytest.mark.parametrize("looks", [0, 4])
def test_a_number_of_looks_that_no_rule_has_is_refused(looks: int) -> None:
    """A fourth look would have no error rate."""
    with pytest.raises(ValueError, match=f"looks: expected 1 to 3, got {looks}"):
        run(["supported"], set(), looks=looks)


def test_a_look_that_may_end_early_asks_after_every_few_blocks_and_ends_when_it_is_settled() -> None:
    """CI would pay for blocks that cannot change what a row says."""
    found, drawn = run(["supported"], {1}, looks=1, settled=lambda blocks: len(blocks) >= 6)
    assert drawn == [4, 6]
    assert (found.outcome, found.blocks, found.void) == ("inconclusive", 5, 1)
    assert found.measured == found.detail["reason"]
    assert found.measured == "certain after 5 of 8 valid blocks, whatever the others say"


def test_a_look_that_is_never_settled_has_the_blocks_and_the_verdict_of_any_other() -> None:
    """A supported row would be decided on fewer blocks than its error rate needs."""
    found, drawn = run(["supported"], {0, 1, 9}, looks=1, settled=lambda blocks: False)
    assert drawn == [4, 6, 8, 10, 11]
    assert (found, drawn[-1]) == (run(["supported"], {0, 1, 9}, looks=1)[0], 11)


def test_void_blocks_end_a_look_that_may_end_early_as_soon_as_they_are_too_many() -> None:
    """Five of six say what five of eight say."""
    found, drawn = run(["supported"], {0, 1, 2, 3, 4}, looks=1, settled=lambda blocks: False)
    assert (found.outcome, drawn) == ("inconclusive", [4, 6])


def test_only_a_run_of_one_look_may_end_early() -> None:
    """The intervals of later looks leave extreme blocks out, and may decide what the first one never can."""
    with pytest.raises(ValueError, match="looks: expected 1 where a look may end early, got 3"):
        run(["supported"], set(), settled=lambda blocks: True)
