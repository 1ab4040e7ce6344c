"""A factor's module in three lines: which attack types have a cell, and the verdict that the register asks of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from claims.cell import Cell, Change
from claims.reported import REPORTED
from claims.scales import SCALES, Scale
from gia.harness.decide.register import load_register
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Verdict
from gia.harness.plugin.claims import Claims, Deciding


@cache
def _rows() -> dict[str, str]:
    """Id without its version -> id, of every row of the register."""
    return {id.partition("/")[0]: id for id in load_register(Path(__file__).with_name("claims.toml"))}


def row_of(attack_type: str, factor: str) -> str:
    """The register's row `TYPE.FACTOR`, with its version."""
    return _rows()[f"{attack_type}.{factor}"]


def attack_types(factor: str) -> list[Any]:
    """Those with a cell of this factor at any scale, each marked with its row of the register."""
    names = dict.fromkeys(name for scale in SCALES for name in scale.CELLS.get(factor, {}))
    return [pytest.param(name, marks=pytest.mark.claim(row_of(name, factor))) for name in names]


def cell_of(scale: Scale, attack_type: str, factor: str) -> Cell:
    """The cell; the running test is skipped where this scale has none."""
    cell = scale.CELLS.get(factor, {}).get(attack_type)
    if cell is None:
        pytest.skip(f"no cell at this scale: {attack_type}.{factor}")
    return cell


def decide(
    claims: Claims,
    scale: Scale,
    attack_type: str,
    factor: str,
    change: Change,
    *,
    x: Callable[[Any], float] = float,
    value: Deciding | None = None,
) -> Verdict:
    """The verdict on the row `TYPE.FACTOR`, of the register's kind; the cell's own change and x come first."""
    id, cell = row_of(attack_type, factor), cell_of(scale, attack_type, factor)
    return claims.compare(
        id,
        cell.protocol,
        levels=cell.levels + cell.shown,
        shown=len(cell.shown),
        change=cell.change or change,
        x=cell.x or x,
        value=value,
        reported=REPORTED.get(f"{attack_type}.{factor}"),
    )


def table(claims: Claims, scale: Scale, attack_type: str, factor: str, change: Change, blocks: int) -> Table:
    """The blocks behind the row `TYPE.FACTOR`, for another claim that reads some of its levels."""
    cell = cell_of(scale, attack_type, factor)
    return claims.table(
        row_of(attack_type, factor), cell.protocol, levels=cell.levels, change=cell.change or change, blocks=blocks
    )
