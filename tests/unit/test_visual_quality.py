"""The row about visual quality measures every attack type, unless the first ones leave too many blocks void."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from claims import reduced
from claims.test_visual_quality import FIRST, TYPES, measured, of_each


@pytest.mark.parametrize(
    ("void", "types"),
    [
        ({"gen_inv": {0, 1, 2, 3}}, TYPES),
        ({"gen_inv": {0, 1, 2}, "gen_z": {2, 3}}, TYPES),
        ({"gen_inv": {0, 1, 2, 3, 4}}, ["gen_inv"]),
        ({"gen_inv": {0, 1, 2}, "gen_z": {2, 3, 4}}, ["gen_inv", "ana_arch", "gen_z"]),
    ],
)
def test_types_are_measured_until_more_than_half_of_the_blocks_are_void(
    void: dict[str, set[int]], types: list[str]
) -> None:
    """Two thirds of the row's time went into blocks that another attack type had voided."""

    def table(id: str, protocol: Any, *, levels: tuple[str], change: Any, blocks: int) -> Any:
        (name,) = levels
        results = [
            SimpleNamespace(valid=number not in void.get(name, ()), levels={name: {"leak": float(number)}})
            for number in range(blocks)
        ]
        return SimpleNamespace(results=results)

    tables = measured(SimpleNamespace(table=table, looks=1), SimpleNamespace(VISUAL=reduced.VISUAL), 8)
    assert list(tables) == types
    assert sorted(FIRST) == sorted(TYPES)
    leaks = of_each(tables, "leak")
    assert leaks.shape == ((4, 6) if types == TYPES else (0, 6))
