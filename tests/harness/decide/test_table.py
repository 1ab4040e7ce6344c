"""Tables of blocks: two of the same blocks are joined, what is drawn has a digest, what is void is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import BlockResult, Control
from gia.harness.decide.table import Table
from tests.harness.planted import Level


def table(levels: dict[str, list[float]], *, void: tuple[int, ...] = (), claim: str = "op.a") -> Table:
    """A table with these numbers of each level, block by block; a void block fails at its last level."""
    count = len(next(iter(levels.values())))
    last = list(levels)[-1]
    results = [
        BlockResult(
            block=Block(claim, index, {"width": 8 * (1 + index % 2)}),
            levels={} if index in void else {label: {"psnr": values[index]} for label, values in levels.items()},
            controls={label: Control(index not in void or label != last, f"{label}: {index}") for label in levels},
            valid=index not in void,
            seconds=float(len(levels)),
            details={} if index in void else {label: {"placebo": {"psnr": 9.0}} for label in levels},
            pictures=(Path(f"{'-'.join(levels)}-{index}.npz"),),
        )
        for index in range(count)
    ]
    return Table(Experiment(claim, {label: Level(attack=label) for label in levels}), results)


def test_levels_of_another_table_join_block_by_block() -> None:
    """Numbers of other blocks, or of the level next to the one asked for, would be compared as a pair."""
    own, other = table({"large": [1, 2, 3]}), table({"r10": [4, 5, 6], "r34": [7, 8, 9]})
    joined = own.joined(other).of("large", "r34")
    assert joined.levels == ["large", "r34"]
    assert joined.values("psnr").tolist() == [[1, 7], [2, 8], [3, 9]]
    assert joined.results[1].pictures == (Path("large-1.npz"), Path("r10-r34-1.npz"))
    assert joined.results[2].details["r34"] == {"placebo": {"psnr": 9.0}}
    assert joined.described()["seconds"] == 3  # the two seconds per block of the other are in its own row


def test_a_block_is_void_where_it_is_in_either() -> None:
    """A void block has no numbers; that one of two controls passed does not give it any."""
    own, other = table({"large": [1, 2, 3]}, void=(0,)), table({"r34": [7, 8, 9]}, void=(2,))
    joined = own.joined(other)
    assert joined.void == 2
    assert joined.values("psnr").tolist() == [[2, 8]]
    assert list(joined.described()["void"].items()) == [("0", "large: 0"), ("2", "r34: 2")]
    assert set(joined.results[1].controls) == {"large", "r34"}


@pytest.mark.parametrize("place", [0, 1])
def test_numbers_of_an_earlier_run_are_marked_in_either_table(place: int) -> None:
    """A cached row that does not say so hides a regression."""
    tables = [table({"large": [1, 2]}), table({"r34": [7, 8]})]
    earlier = [replace(result, cached=True) for result in tables[place].results]
    tables[place] = replace(tables[place], results=earlier)
    assert tables[0].joined(tables[1]).cached == 2


def test_tables_of_other_blocks_or_with_the_same_levels_do_not_join() -> None:
    """Blocks of another claim have other victims and other images: nothing in them is paired."""
    own = table({"large": [1, 2]})
    for other in (table({"r34": [7, 8]}, claim="op.b"), table({"r34": [7, 8, 9]})):
        with pytest.raises(ValueError, match=r"other: expected the blocks of 'op\.a'"):
            own.joined(other)
    with pytest.raises(ValueError, match="other: expected none of the levels"):
        own.joined(table({"r34": [7, 8], "large": [1, 2]}))


def test_levels_are_chosen_in_the_order_of_their_comparison() -> None:
    """A pair is the first two levels: in another order B would be compared with A, or a third level with either."""
    three = table({"r10": [1, 2], "r18": [3, 4], "r34": [5, 6]})
    assert three.of("r34", "r10").values("psnr").tolist() == [[5, 1], [6, 2]]
    with pytest.raises(ValueError, match=r"levels: expected some of .* got 'r50'"):
        three.of("r34", "r50")


def test_a_void_block_is_shown_with_the_first_control_that_failed() -> None:
    """The reason of a control that passed, or of a later failure, would be taken for the cause."""
    seen = table({"small": [1, 2], "large": [3, 4]}, void=(1,))
    assert seen.described()["void"] == {"1": "large: 1"}
    assert seen.void == 1
    both = {label: Control(False, f"{label} failed") for label in ("small", "large")}
    seen = replace(seen, results=[replace(seen.results[0], controls=both, valid=False), seen.results[1]])
    assert seen.described()["void"] == {"0": "small failed", "1": "large: 1"}


def test_the_share_of_void_blocks_is_counted_for_each_drawn_value() -> None:
    """A factor whose every value of one kind is void would hide in the total. Blocks 0 and 2 have width 8."""
    assert table({"a": [1, 2, 3]}, void=(0,)).described()["void_shares"] == {"width": {"8": [1, 2], "16": [0, 1]}}


def test_searches_are_counted_by_the_data_term_at_which_they_ended() -> None:
    """A gradient that does not identify the images would pass for an optimizer that fails, or the other way round."""
    seen = table({"a": [1, 2, 3], "b": [1, 2, 3]}, void=(2,))
    terms = [{"found": 0.1, "truth": 0.2}, {"found": 0.2, "truth": 0.2}, {"found": 0.3, "truth": 0.2}, {"found": 0.3}]
    ends = iter([*terms, *terms[:2]])  # the last two in the void block
    results = [
        replace(result, controls={label: replace(c, values=next(ends)) for label, c in result.controls.items()})
        for result in seen.results
    ]
    assert replace(seen, results=results).described()["controls"] == {"ambiguous": 2, "not found": 1}
    assert seen.described()["controls"] == {"ambiguous": 0, "not found": 0}


def test_seconds_are_counted_for_the_look_that_spent_them() -> None:
    """The cost of void blocks would be charged to a further look, which took none. Ten valid blocks end the second."""
    seen = table({"a": [0.0] * 12}, void=(0, 9))
    assert seen.described()["seconds_per_look"] == [9, 3, 0]
    assert table({"a": [0.0] * 40}).described()["seconds_per_look"] == [8, 8, 24]
    assert seen.described()["seconds"] == 12


def test_room_is_the_median_over_the_valid_blocks_of_each_level() -> None:
    """A void block would give room to a row, or a run without valid blocks would crash."""
    levels = {"a": [0.0, 1.0, 2.0, 90.0], "b": [5.0, 4.0, 3.0, 90.0]}
    assert table(levels, void=(3,)).room("psnr").tolist() == [1, 4]
    assert table(levels, void=(0, 1, 2, 3)).room("psnr").tolist() == [0, 0]


def test_a_digest_is_that_of_the_blocks_and_levels_and_not_of_what_was_measured() -> None:
    """Another protocol would be held to a record of other blocks, or a drift pass as new blocks."""
    seen = table({"a": [1, 2], "b": [3, 4]})
    digest = seen.digest()
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    assert table({"a": [7, 8], "b": [9, 9]}, void=(1,)).digest() == digest
    first, second = seen.results
    other_blocks = [
        [first],
        [first, replace(second, block=replace(second.block, lane="confirm:5a17"))],
        [first, replace(second, block=replace(second.block, index=2))],
        [first, replace(second, block=replace(second.block, setting={"width": 9}))],
    ]
    others = [replace(seen, results=results) for results in other_blocks]
    others += [seen.of("a"), seen.of("b", "a")]
    others += [replace(seen, experiment=Experiment("op.a", {"a": Level(attack="a"), "b": Level(attack="c")}))]
    assert len({digest, *(other.digest() for other in others)}) == 1 + len(others)
