"""The only place where the scale of a run is chosen: each of the register's scales is a package of this name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol as Structure
from typing import cast

from claims import paper, reduced
from claims.cell import Cell, Row
from gia.experiment import Protocol


class Scale(Structure):
    """What a package such as `claims.reduced` holds."""

    @property
    def PROTOCOLS(self) -> Mapping[str, Protocol]:
        """Attack type -> the protocol that its cells start from."""

    @property
    def CELLS(self) -> Mapping[str, Mapping[str, Cell]]:
        """Factor -> attack type -> cell."""

    @property
    def ROWS(self) -> Mapping[str, Row]:
        """Id of a row that is no cell of the matrix -> what it compares."""

    @property
    def VISUAL(self) -> Mapping[str, Protocol]:
        """Attack type -> its protocol on the pictures that all types attack."""

    @property
    def STAGES(self) -> Mapping[str, Mapping[str, Row]]:
        """Row of the defense -> attack type that it addresses -> what it compares."""

    @property
    def COST(self) -> Row | None:
        """What the row on the defense's cost compares; None where a scale does not measure it."""


#: All of them.
SCALES: tuple[Scale, ...] = (reduced, paper)


def at(name: str) -> Scale:
    """The scale of this name."""
    return cast(Scale, importlib.import_module(f"claims.{name}"))
