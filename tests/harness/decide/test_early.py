"""When a first look is over before its last block: only where no further block can change what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import BlockResult
from gia.harness.decide.early import stays_inconclusive, witness
from gia.harness.decide.looks import certain, look
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict, count
from gia.harness.plugin.deciding import Rule, decided
from tests.harness.planted import Level

MARGIN = 1.0
KINDS = ("trend", "paired", "affected", "equivalence", "count")

#: Two or three levels of one block. Few values, so that ends of the margin are met exactly.
BLOCKS = st.lists(
    st.lists(st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=3, max_size=3), min_size=8, max_size=8
)


def claim(kind: str, metric: str = "psnr") -> Claim:
    """A row of this kind; a count claims one at every level."""
    direction = "worse" if kind in ("trend", "paired") else None
    number = 1.0 if kind == "count" else None
    row = Claim("op.a", "So.", kind, metric, "dB", MARGIN, direction, "Fig. 1", "1 to 2", number=number)
    return replace(row, leak=metric == "leak")


def table(rows: list[list[float] | None], metric: str = "psnr") -> Table:
    """Blocks with these values at the levels 0, 1, 2; a void one for None. The first costs most, the last least."""
    results = [
        BlockResult(
            block=Block("op.a", index, {}),
            levels={str(level): {metric: value} for level, value in enumerate(values or [])},
            controls={},
            valid=values is not None,
            seconds=float(len(rows) - index),
        )
        for index, values in enumerate(rows)
    ]
    return Table(Experiment("op.a", {level: Level(size=level) for level in range(3)}), results)


def rule(kind: str, metric: str = "psnr"):
    """What decides on a table of that kind."""
    return lambda table, look: decided(claim(kind, metric), table, look, 1, Rule())


@pytest.mark.parametrize("metric", ["psnr", "leak"])
@pytest.mark.parametrize("kind", KINDS)
@settings(settings.get_profile("unit"), max_examples=150)
@given(rows=BLOCKS, seen=st.integers(1, 7))
def test_what_is_settled_is_inconclusive_whatever_the_other_blocks_say(
    kind: str, metric: str, rows: list[list[float]], seen: int
) -> None:
    """A row would be called inconclusive that all of its blocks support or refute."""
    if stays_inconclusive(claim(kind, metric), table(rows[:seen], metric), rule(kind, metric)):
        assert rule(kind, metric)(table(rows, metric), 1).outcome == "inconclusive"


@pytest.mark.parametrize("metric", ["psnr", "leak"])
@pytest.mark.parametrize("kind", KINDS)
@settings(settings.get_profile("unit"), max_examples=150)
@given(
    rows=BLOCKS,
    void=st.sets(st.integers(0, 15), max_size=8),
    chosen=st.sets(st.integers(0, 15), min_size=1),
)
def test_what_some_blocks_settle_is_inconclusive_in_the_look_that_draws_all(
    kind: str, metric: str, rows: list[list[float]], void: set[int], chosen: set[int]
) -> None:
    """A block that the look never reaches would settle it, or void blocks before a valid one would be forgotten."""
    values = iter(rows * 2)
    seen = table([None if index in void else next(values) for index in range(16)], metric)
    if stays_inconclusive(claim(kind, metric), seen.at(sorted(chosen)), rule(kind, metric)):
        drawn = look(lambda blocks: seen.at(range(blocks)), rule(kind, metric), looks=1)[0]
        assert drawn.outcome == "inconclusive"


def test_a_block_counts_only_if_the_look_surely_reaches_it() -> None:
    """The ninth valid block belongs to no first look, and a void one before it makes it the eighth."""
    rows: list[list[float] | None] = [[0.0] * 3, *[None] * 7, [0.0, -2.0, -4.0]]
    seen = table(rows)
    assert not stays_inconclusive(claim("trend"), seen.at([0, 8]), rule("trend"))
    assert stays_inconclusive(claim("trend"), seen.at([0, 1, 8]), rule("trend"))


def test_too_many_void_blocks_settle_a_look() -> None:
    """Rule: over a third of the eight valid blocks that it needs, and of these, would be void."""
    seen = table([None] * 12)
    assert stays_inconclusive(claim("trend"), seen.at([0, 2, 4, 6, 11]), rule("trend"))
    assert not stays_inconclusive(claim("trend"), seen.at([0, 2, 4, 6]), rule("trend"))
    verdict = certain(rule("trend")(seen.at([0, 2, 4, 6, 11]), 1))
    assert (verdict.outcome, verdict.detail["reason"]) == ("inconclusive", "0 of 5 blocks are valid: expected 8")


def test_the_witness_is_what_costs_least_among_the_blocks_that_settle_a_look() -> None:
    """CI would pay for a large set of blocks where a small one says the same."""
    still, worse = [0.0] * 3, [0.0, -2.0, -4.0]
    row, decide = claim("trend"), rule("trend")
    assert witness(row, table([worse, still, worse, still]), decide) == [2, 3]
    assert witness(row, table([[0.0, -0.5, -1.5], worse, still]), decide) == [1, 2]
    assert witness(row, table([still] * 8), decide) is None
    assert witness(row, table([worse, None, None, None, None, None]), decide) == [1, 2, 3, 4, 5]
    assert witness(row, table([None, None, None, None, None, still, worse]), decide) == [5, 6]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swing", [-2.0, 2.0])
def test_one_block_on_either_side_of_the_margin_settles_a_look(kind: str, swing: float) -> None:
    """No look would ever end early: CI would take as long as before."""
    still = 1.0 if kind == "count" else 0.0
    rows = [[still] * 3, [still, still + swing, still + 2 * swing]]
    settled = kind in ("affected", "equivalence", "count") or swing < 0  # worse is what the others claim
    assert stays_inconclusive(claim(kind), table(rows), rule(kind)) == settled
    assert not stays_inconclusive(claim(kind), table(rows[:1]), rule(kind))


def test_a_lack_of_room_settles_a_look_once_most_of_its_blocks_lack_it() -> None:
    """What can be lost is a median: four of eight blocks without room may still have it, five cannot."""
    poor, rich = [0.5, 0.0, -0.5], [90.0, 90.0, 90.0]
    row, decide = claim("trend", "leak"), rule("trend", "leak")
    verdict = decide(table([poor] * 8, "leak"), 1)
    assert (verdict.outcome, verdict.detail["by_interval"]) == ("inconclusive", "refuted")
    assert not stays_inconclusive(row, table([poor] * 4, "leak"), decide)
    assert decide(table([poor] * 4 + [rich] * 4, "leak"), 1).detail["room"]["largest"] > 40
    assert stays_inconclusive(row, table([poor] * 5, "leak"), decide)
    assert decide(table([poor] * 5 + [rich] * 3, "leak"), 1).detail["reason"] == "nothing to lose"
    assert not stays_inconclusive(claim("trend"), table([poor] * 5), rule("trend"))


def test_void_blocks_count_for_nothing() -> None:
    """Values of a block whose control failed would end a look."""
    blocks = table([[0.0, 0.0, 0.0], [0.0, -2.0, -4.0]])
    void = BlockResult(block=Block("op.a", 1, {}), levels={}, controls={}, valid=False, seconds=1.0)
    assert stays_inconclusive(claim("trend"), blocks, rule("trend"))
    more = BlockResult(block=Block("op.a", 2, {}), levels={}, controls={}, valid=False, seconds=1.0)
    assert stays_inconclusive(claim("trend"), Table(blocks.experiment, [*blocks.results, more]), rule("trend"))
    assert not stays_inconclusive(claim("trend"), Table(blocks.experiment, [blocks.results[0], void]), rule("trend"))
    assert not stays_inconclusive(claim("trend"), Table(blocks.experiment, [void]), rule("trend"))


def test_rates_of_trials_are_never_settled() -> None:
    """Their interval becomes narrower with more trials, not wider."""

    def decide(seen: Table, look: Look) -> Verdict:
        return count(replace(claim("count"), margin=0.1), seen.values("psnr") > 0, look=look)

    seen = table([[1.0, 1.0, 1.0]] * 4)
    assert decide(seen.at([0, 1, 2, 3, 0, 1, 2, 3]), 1).outcome == "inconclusive"
    assert not stays_inconclusive(claim("count"), seen, decide)
