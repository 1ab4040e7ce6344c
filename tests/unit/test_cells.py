"""The cells of the matrix: each is a row of the register, at both scales, with as many blocks as two looks take."""

from __future__ import annotations

from pathlib import Path

import pytest
from claims.protocols import CELLS
from gia.harness.table import LOOKS

from gia.attacks import CARDS
from gia.harness.blocks import draw_blocks
from gia.harness.decide.register import load_register

REGISTER = load_register(Path(__file__).parents[2] / "claims" / "claims.toml")
REDUCED = [(factor, name) for factor, cells in CELLS["reduced"].items() for name in cells]

#: Attack type -> the leaf of the paper's taxonomy that its attack must belong to.
LEAVES = {
    "op": "OP",
    "gen_z": "GEN-z",
    "gen_w": "GEN-W",
    "gen_inv": "GEN-inverter",
    "ana_arch": "ANA-architecture",
    "ana_param": "ANA-parameters",
}


def test_both_scales_have_the_same_cells() -> None:
    """A claim would run at one scale and end in a KeyError at the other."""
    assert sorted(REDUCED) == sorted((factor, name) for factor, cells in CELLS["paper"].items() for name in cells)


@pytest.mark.parametrize(("factor", "name"), REDUCED)
def test_a_cell_is_a_row_with_blocks_for_two_looks(factor: str, name: str) -> None:
    """A second look would find too few settings after minutes of a first one, or a cell would attack something else."""
    claim, cell = REGISTER[f"{name}.{factor}"], CELLS["reduced"][factor][name]
    assert len(draw_blocks(claim.id, cell.protocol.vary, LOOKS[-1])) == LOOKS[-1]
    assert CARDS[cell.protocol.attack].leaf == LEAVES[name]
    assert CELLS["paper"][factor][name].protocol.attack == cell.protocol.attack
    if claim.kind in ("trend", "equivalence") and factor != "original":
        assert len(cell.levels) >= 2
