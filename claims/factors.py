"""A factor's module in three lines: which attack types have a cell, and the verdict that the register asks of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from claims.protocols import CELLS
from gia.harness.decide.verdicts import Verdict
from gia.harness.protocol import Protocol
from gia.harness.session import Claims
from gia.harness.table import Table


def attack_types(factor: str) -> list[Any]:
    """Those with a cell of this factor, each marked with its row of the register."""
    return [pytest.param(name, marks=pytest.mark.claim(f"{name}.{factor}")) for name in CELLS["reduced"][factor]]


def decide(
    claims: Claims,
    attack_type: str,
    factor: str,
    change: Callable[[Protocol, Any], Protocol],
    x: Callable[[Any], float] = float,
) -> Verdict:
    """The verdict on `TYPE.FACTOR`, of the register's kind; a cell may have a change or an x of its own."""
    cell = CELLS[claims.scale][factor][attack_type]
    return claims.cell(
        f"{attack_type}.{factor}",
        cell.protocol,
        levels=cell.levels + cell.shown,
        **({"shown": len(cell.shown)} if cell.shown else {}),
        change=cell.change or change,
        x=cell.x or x,
        reported=cell.reported,
        reported_as=cell.reported_as,
    )


def table(
    claims: Claims, attack_type: str, factor: str, change: Callable[[Protocol, Any], Protocol], blocks: int
) -> Table:
    """The blocks behind `TYPE.FACTOR`, for another claim that reads some of its levels."""
    cell = CELLS[claims.scale][factor][attack_type]
    return claims.table(
        f"{attack_type}.{factor}", cell.protocol, levels=cell.levels, change=cell.change or change, blocks=blocks
    )
