"""The row about visual quality measures every attack type, unless the first ones leave too many blocks void."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from claims import reduced
from claims.test_visual_quality import FIRST, GROUPS, LEAK, TYPES, decided, measured, of_each
from gia.harness.decide.register import load_register

CLAIM = load_register(Path(__file__).parents[2] / "claims" / "claims.toml")["visual_quality/2"]


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


@pytest.mark.parametrize(
    ("leak", "worse", "outcome"),
    [(3 * LEAK, 0.2, "supported"), (3 * LEAK, -0.2, "refuted"), (1.9 * LEAK, 0.2, "inconclusive")],
)
def test_blocks_that_are_alive_decide_where_every_type_leaks(leak: float, worse: float, outcome: str) -> None:
    """A confirm run ended in an error at its first blocks that were alive: room was given as infinite."""
    far = {name: place * worse for place, names in enumerate(GROUPS.values()) for name in names}

    def table(name: str) -> Any:
        of = {"leak": leak if name == "gen_z" else 9 * LEAK}
        levels = [{name: {**of, "lpips_nearest": 0.5 + far[name] + number / 1000}} for number in range(8)]
        return SimpleNamespace(results=[SimpleNamespace(valid=True, levels=each) for each in levels])

    verdict = decided(CLAIM, {name: table(name) for name in TYPES}, 1, tries=1)
    assert verdict.outcome == outcome
    assert ("nothing to lose" in verdict.detail["reason"]) is (outcome == "inconclusive")
