"""The paper's own scale: a module per attack type, with the cells that it fills in the paper's matrix.

Attack types are the paper's: op (Inverting Gradients), gen_z (GGL), gen_w (CI-Net), gen_inv (Learning to Invert),
ana_arch (Robbing the Fed), ana_param (Fishing). Rows on shared adapters (peft) are no part of the matrix.
"""

from __future__ import annotations

from claims.cell import Cell, Row, by_factor
from claims.paper import ana_arch, ana_param, gen_inv, gen_w, gen_z, op, peft, visual
from gia.experiment import Protocol

_TYPES = {
    "op": op,
    "gen_z": gen_z,
    "gen_w": gen_w,
    "gen_inv": gen_inv,
    "ana_arch": ana_arch,
    "ana_param": ana_param,
}

#: Attack type -> the protocol that its cells start from.
PROTOCOLS: dict[str, Protocol] = {name: module.PROTOCOL for name, module in _TYPES.items()}

#: Factor -> attack type -> cell.
CELLS: dict[str, dict[str, Cell]] = by_factor({name: module.CELLS for name, module in _TYPES.items()})

#: Id of a row that is no cell of the matrix -> what it compares.
ROWS: dict[str, Row] = {**op.ROWS, **gen_w.ROWS, **gen_inv.ROWS, **peft.ROWS}

#: Attack type -> its protocol on the pictures that all types attack.
VISUAL: dict[str, Protocol] = visual.PROTOCOLS

#: The paper measures no defense.
STAGES: dict[str, dict[str, Row]] = {}
COST: Row | None = None
