"""A cell of the matrix of factors and attack types: what the levels of a factor share, and the levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gia.harness.protocol import Protocol

Level = str | int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row `TYPE.FACTOR` of the register at one scale.

    Args:
        protocol: what all levels share.
        levels: what is compared inside each block, the register's A first; the first one's control counts.
        shown: further levels that an equivalence does not judge; other verdicts take only two of the levels anyway.
        change: (protocol, level) -> protocol of that level; None takes the factor's own (its module's in `claims/`).
        x: where a trend's levels lie, in the register's unit; None takes the factor's own.
        reported: level -> the paper's number, shown beside ours; `reported_as` says what it is.
    """

    protocol: Protocol
    levels: tuple[Level, ...]
    shown: tuple[Level, ...] = ()
    change: Callable[[Protocol, Any], Protocol] | None = None
    x: Callable[[Any], float] | None = None
    reported: Mapping[Level, float] = field(default_factory=dict)
    reported_as: str = "the paper"
