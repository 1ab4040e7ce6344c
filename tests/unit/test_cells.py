"""The cells of the matrix: each is a row of the register, at every scale, and its blocks can be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims import reduced
from claims.factors import attack_types, cell_of
from claims.scales import SCALES
from gia.attacks import CARDS
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.decide.register import load_register

REGISTER = load_register(Path(__file__).parents[2] / "claims" / "claims.toml")
CELLS = [(factor, name) for factor, cells in reduced.CELLS.items() for name in cells]

#: Attack type -> the leaf of the paper's taxonomy that its attack must belong to.
LEAVES = {
    "op": "OP",
    "gen_z": "GEN-z",
    "gen_w": "GEN-W",
    "gen_inv": "GEN-inverter",
    "ana_arch": "ANA-architecture",
    "ana_param": "ANA-parameters",
}


def test_all_scales_have_the_same_cells_and_rows() -> None:
    """If this fails, a claim runs at one scale and is skipped at another, or ends there in a KeyError."""
    for scale in SCALES:
        assert sorted((factor, name) for factor, cells in scale.CELLS.items() for name in cells) == sorted(CELLS)
        assert sorted(scale.ROWS) == sorted(reduced.ROWS)
        assert set(scale.VISUAL) == set(scale.PROTOCOLS) == set(LEAVES)


@pytest.mark.parametrize(("factor", "name"), CELLS)
def test_a_cell_is_a_row_whose_blocks_can_be_drawn(factor: str, name: str) -> None:
    """A space that nothing can be drawn from would show after minutes, or a cell would attack something else."""
    claim, cell = REGISTER[f"{name}.{factor}"], reduced.CELLS[factor][name]
    assert len(draw_blocks(claim.id, cell.protocol.vary, 1)) == 1
    for scale in SCALES:
        attack = scale.CELLS[factor][name].protocol.attacker.attack
        assert isinstance(attack, str)
        assert CARDS[attack].leaf == LEAVES[name]
    if claim.kind in ("trend", "equivalence") and factor != "original":
        assert len(cell.levels) >= 2


class Smaller:
    """A scale without a cell of batch sizes for Inverting Gradients."""

    PROTOCOLS, ROWS, VISUAL = reduced.PROTOCOLS, reduced.ROWS, reduced.VISUAL
    CELLS = {**reduced.CELLS, "batch_size": {"gen_w": reduced.CELLS["batch_size"]["gen_w"]}}  # noqa: RUF012 - a constant


def test_a_cell_that_its_scale_lacks_is_skipped_with_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a cell that exists at one scale only is an error at the others, or is never collected."""
    monkeypatch.setattr("claims.factors.SCALES", (Smaller(), reduced))
    assert "op" in [parameter.values[0] for parameter in attack_types("batch_size")]
    assert cell_of(Smaller(), "gen_w", "batch_size") is reduced.CELLS["batch_size"]["gen_w"]
    with pytest.raises(pytest.skip.Exception, match=r"no cell at this scale: op\.batch_size"):
        cell_of(Smaller(), "op", "batch_size")
