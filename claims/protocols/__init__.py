"""How each attack type is run, at each scale: a module per type, with the cells that it fills in the paper's matrix.

Attack types are the paper's: op (Inverting Gradients), gen_z (GGL), gen_w (CI-Net), gen_inv (Learning to Invert),
ana_arch (Robbing the Fed), ana_param (Fishing).
"""

from __future__ import annotations

from claims.protocols import ana_arch, ana_param, gen_inv, gen_w, gen_z, op
from claims.protocols.cell import Cell
from gia.harness.protocol import Protocol

_TYPES = {
    "op": op,
    "gen_z": gen_z,
    "gen_w": gen_w,
    "gen_inv": gen_inv,
    "ana_arch": ana_arch,
    "ana_param": ana_param,
}

#: Scale -> attack type -> the protocol that its cells start from.
PROTOCOLS: dict[str, dict[str, Protocol]] = {
    scale: {name: module.PROTOCOLS[scale] for name, module in _TYPES.items()} for scale in ("reduced", "paper")
}

#: Scale -> factor -> attack type -> cell.
CELLS: dict[str, dict[str, dict[str, Cell]]] = {"reduced": {}, "paper": {}}
for _scale, _cells in CELLS.items():
    for _name, _module in _TYPES.items():
        for _factor, _cell in _module.CELLS[_scale].items():
            _cells.setdefault(_factor, {})[_name] = _cell
