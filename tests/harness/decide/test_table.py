"""Tables of blocks: two of the same blocks are joined."""

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
    """A table with these numbers of each level, block by block."""
    count = len(next(iter(levels.values())))
    results = [
        BlockResult(
            block=Block(claim, index, {}),
            levels={} if index in void else {label: {"psnr": values[index]} for label, values in levels.items()},
            control=Control(index not in void, f"{'/'.join(levels)}: {index}"),
            valid=index not in void,
            seconds=float(len(levels)),
            details={} if index in void else {label: {"blind": {"psnr": 9.0}} for label in levels},
            pictures=(Path(f"{'-'.join(levels)}-{index}.npz"),),
        )
        for index in range(count)
    ]
    return Table(Experiment(claim, dict.fromkeys(levels, Level())), results)


def test_levels_of_another_table_join_block_by_block() -> None:
    """Numbers of other blocks, or of the level next to the one asked for, would be compared as a pair."""
    own, other = table({"large": [1, 2, 3]}), table({"r10": [4, 5, 6], "r34": [7, 8, 9]})
    joined = own.joined(other).of("large", "r34")
    assert joined.levels == ["large", "r34"]
    assert joined.values("psnr").tolist() == [[1, 7], [2, 8], [3, 9]]
    assert joined.results[1].pictures == (Path("large-1.npz"), Path("r10-r34-1.npz"))
    assert joined.results[2].details["r34"] == {"blind": {"psnr": 9.0}}
    assert joined.described()["seconds"] == 3  # the two seconds per block of the other are in its own row


def test_a_block_is_void_where_it_is_in_either() -> None:
    """A void block has no numbers; that one of two controls passed does not give it any."""
    own, other = table({"large": [1, 2, 3]}, void=(0,)), table({"r34": [7, 8, 9]}, void=(2,))
    joined = own.joined(other)
    assert joined.void == 2
    assert joined.values("psnr").tolist() == [[2, 8]]
    assert list(joined.described()["void"].items()) == [("0", "large: 0"), ("2", "r34: 2")]


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
