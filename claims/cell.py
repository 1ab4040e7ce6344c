"""What a row of the register compares at one scale: a cell of the matrix of factors and attack types, or any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gia.experiment import Protocol

Level = str | int
#: (protocol, level) -> the protocol of that level.
Change = Callable[[Protocol, Any], Protocol]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The row `TYPE.FACTOR` of the register at one scale.

    Args:
        protocol: what all levels share.
        levels: what is compared inside each block, the register's A first; each has its control.
        shown: further levels that an equivalence does not judge; other verdicts take only two of the levels anyway.
        change: None takes the factor's own, that of its module in `claims/`.
        x: where a trend's levels lie, in the register's unit; None takes the factor's own.
    """

    protocol: Protocol
    levels: tuple[Level, ...]
    shown: tuple[Level, ...] = ()
    change: Change | None = None
    x: Callable[[Any], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A comparison whose levels are given by what they change, such as a row that is no cell of the matrix.

    Args:
        protocol: what all levels share.
        levels: label -> what the level changes, as `Protocol.with_` takes it; the register's A first.
    """

    protocol: Protocol
    levels: Mapping[Level, Mapping[str, Any]]

    def change(self, protocol: Protocol, level: Level) -> Protocol:
        """The protocol of that level."""
        return protocol.with_(self.levels[level])


def by_factor(types: Mapping[str, Mapping[str, Cell]]) -> dict[str, dict[str, Cell]]:
    """Factor -> attack type -> cell, from attack type -> factor -> cell."""
    cells: dict[str, dict[str, Cell]] = {}
    for attack_type, own in types.items():
        for factor, cell in own.items():
            cells.setdefault(factor, {})[attack_type] = cell
    return cells
