"""The cells of the matrix: each is a row of the register, at every scale, and its blocks can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from claims import reduced
from claims.changes import (
    CLASS_FISHING,
    averaging,
    batches_of,
    in_state,
    on_network,
    resized,
    unchanged,
    with_equal_labels,
)
from claims.factors import attack_types, cell_of, row_of
from claims.reduced.spaces import DATA, DETAILED, LEARNED, PEFT, REPEATED
from claims.scales import SCALES, Scale
from gia.attacks import CARDS
from gia.experiment import Protocol
from gia.experiment.controls import path_works, shares_gradients
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
#: Attack type, or "peft" -> the space that its rows draw from.
SPACES = {**reduced.PROTOCOLS, "peft": PEFT}
TYPES = {protocol.attacker.attack: name for name, protocol in SPACES.items()}

#: Factor -> what its levels change where a cell does not say it.
CHANGES: dict[str, Callable[[Protocol, Any], Protocol]] = {
    "batch_size": batches_of,
    "resolution": resized,
    "same_labels": with_equal_labels,
    "training_state": in_state,
    "architecture": on_network,
    "fedavg": averaging,
    "original": unchanged,
}


def compared(scale: Scale = reduced) -> Iterator[tuple[str, Protocol, dict[Any, Protocol]]]:
    """Every comparison of a scale: its id, what all levels share, and its levels."""
    for factor, name in CELLS:
        cell = scale.CELLS[factor][name]
        change = cell.change or CHANGES[factor]
        yield (
            row_of(name, factor),
            cell.protocol,
            {of: change(cell.protocol, of) for of in (*cell.levels, *cell.shown)},
        )
    for id, row in scale.ROWS.items():
        yield id, row.protocol, {level: row.change(row.protocol, level) for level in row.levels}
    for name, protocol in scale.VISUAL.items():
        yield f"visual_quality/2 of {name}", protocol, {name: protocol}


ROWS = {id: (protocol, levels) for id, protocol, levels in compared()}
EVERY = [
    pytest.param(id, levels, id=f"{scale.__name__.rpartition('.')[2]}-{id}")
    for scale in SCALES
    for id, _, levels in compared(scale)
]

#: Levels without a control: all are shown and not judged, but for those of the auxiliary data, where the row asks
#: whether they teach anything.
UNCONTROLLED = {
    "op.fedavg": {"weak"},
    "ana_param.same_labels": {CLASS_FISHING},
    "sigmoid.mechanism/2": {"sigmoid/4", "4*sigmoid", "sigmoid-1/2", "linear"},
    "gen_inv.auxiliary/2": {"noise"},
}

#: Rows in which gradients are compared and nothing is attacked.
NOT_ATTACKED = {"prop1.table2", "prop1.trained_similar/2", "sigmoid.inputs"}

#: Row -> the factors of its type's space that it does not draw, because its levels or its statement set them.
SET = {
    "op.resolution": {"batch.image_size"},
    "op.resolution_over_batch": {"batch.image_size"},
    "thm1.empirical": {"batch.image_size"},
    "gen_z.resolution/2": {"batch.image_size"},
    "gen_w.resolution": {"batch.image_size"},
    "gen_inv.resolution/2": {"batch.image_size"},
    "ana_arch.resolution": {"batch.image_size"},
    "peft.resolution": {"batch.data", "batch.image_size"},
    "peft.resized": {"batch.image_size"},
    "peft.model_size": {"victim.width"},
    "ana_param.resolution": {"batch.image_size"},
    "op.architecture": {"victim.name", "batch.image_size"},
    "op.depth_over_batch": {"victim.name"},
    "gen_z.architecture/2": {"victim.name"},
    "gen_w.architecture": {"victim.name", "batch.image_size"},
    "gen_inv.architecture/2": {"victim.name"},
    "ana_arch.architecture": {"victim.name"},
    "ana_param.architecture": {"victim.name", "batch.image_size"},
    # Simulated steps and trained nets cost most, so they are those of sixteen pixels.
    "op.fedavg": {"batch.image_size"},
    "op.fedavg_strong": {"batch.image_size"},
    "gen_w.fedavg": {"batch.image_size"},
    "ana_arch.training_state/2": {"batch.image_size"},
    # The float32 of real clients.
    "ana_arch.fedavg/2": {"victim.dtype"},
    # No search, so nothing for total variation to weigh.
    "prop1.table2": {"attacker.settings.total_variation"},
    "prop1.trained_similar/2": {"attacker.settings.total_variation"},
    # The paper's argument is about Sigmoid after batch normalization.
    "gen_w.sigmoid/2": {"victim.name", "victim.activation", "client.training", "batch.image_size"},
    "sigmoid.mechanism/2": {"victim.name", "victim.activation", "client.training", "batch.image_size"},
    "sigmoid.inputs": {
        "victim.name",
        "victim.activation",
        "client.training",
        "batch.image_size",
        "attacker.settings.lr",
    },
    "gen_inv.auxiliary/2": {"batch.data"},
    # All types attack the same faces.
    **{f"visual_quality/2 of {name}": {"batch.data", "batch.image_size"} for name in LEAVES},
    "visual_quality/2 of gen_z": {"batch.data", "batch.image_size", "attacker.seed"},
}

#: Row -> a factor whose values are no subset of its type's space, and these values.
OTHER_VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    # Deep or many nets, which are narrow for two cores.
    "op.architecture": {"victim.width": (8, 12, 16)},
    "ana_param.architecture": {"victim.width": (8, 12, 16)},
    "prop1.table2": {"victim.width": (8, 12, 16)},
    "prop1.trained_similar/2": {"victim.width": (8, 12, 16)},
    # Inverters that serve all levels are drawn, because they cannot be the block's own.
    "gen_inv.same_labels/2": {"attacker.seed": tuple(range(8))},
}


def narrowed_values(key: str) -> Mapping[str, tuple[Any, ...]]:
    """Row -> the values of this factor that it draws, for rows that draw some of their type's values only."""
    rows = {id: (protocol.vary, SPACES[TYPES[protocol.attacker.attack]].vary) for id, (protocol, _) in ROWS.items()}
    return {
        id: tuple(drawn[key])
        for id, (drawn, space) in rows.items()
        if key in drawn and key in space and set(drawn[key]) < set(space[key])
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
    claim, cell = REGISTER[row_of(name, factor)], reduced.CELLS[factor][name]
    assert len(draw_blocks(claim.id, cell.protocol.vary, 1)) == 1
    for scale in SCALES:
        attack = scale.CELLS[factor][name].protocol.attacker.attack
        assert isinstance(attack, str)
        assert CARDS[attack].leaf == LEAVES[name]
    if claim.kind in ("trend", "equivalence") and factor != "original":
        assert len(cell.levels) >= 2


@pytest.mark.parametrize("id", reduced.ROWS)
def test_every_row_of_a_scale_is_one_of_the_register(id: str) -> None:
    """If this fails, a row's levels are found under an id that no test asks for, and the row ends in a KeyError."""
    assert id in REGISTER


@pytest.mark.parametrize(("id", "levels"), EVERY)
def test_every_level_that_is_judged_has_the_control_of_its_kind(id: str, levels: dict[Any, Protocol]) -> None:
    """If this fails, a level whose attack is broken counts as one that leaks nothing, and supports "worse"."""
    assert {level for level, protocol in levels.items() if protocol.scoring.control is None} == UNCONTROLLED.get(
        id, set()
    )
    control = shares_gradients if id in NOT_ATTACKED else path_works
    assert {protocol.scoring.control for protocol in levels.values()} - {None} == {control}


@pytest.mark.parametrize("id", ["op.fedavg", "ana_param.same_labels", "sigmoid.mechanism/2"])
def test_levels_without_a_control_come_after_those_that_are_judged(id: str) -> None:
    """If this fails, the row's pair, or its first levels, hold one that nothing controls."""
    _, levels = ROWS[id]
    judged = {"op.fedavg": 2, "ana_param.same_labels": 4, "sigmoid.mechanism/2": 4}[id]
    assert not UNCONTROLLED[id] & set(list(levels)[:judged])


@pytest.mark.parametrize("id", ROWS)
def test_a_row_draws_from_the_space_of_its_attack_type(id: str) -> None:
    """If this fails, a row was given its own settings, which may have been chosen for its result.

    It may set a factor or draw fewer of its values. New factors are those of the training and of the local training,
    which its type's space does not have.
    """
    drawn = ROWS[id][0].vary
    space = SPACES[TYPES[ROWS[id][0].attacker.attack]].vary
    assert set(space) - set(drawn) == SET.get(id, set())
    others = OTHER_VALUES.get(id, {})
    for key, values in drawn.items():
        if key in others:
            assert tuple(values) == others[key]
            assert not set(values) <= set(space.get(key, ()))
        elif key in space:
            assert set(values) <= set(space[key]), key
            assert values, key
        else:
            assert key.startswith(("fit.", "client.local.")), key


def test_rows_draw_fewer_values_of_nothing_but_data_sets_and_networks() -> None:
    """If this fails, a row leaves out a size, a width or an activation that its type's space has."""
    keys = {key for protocol in reduced.PROTOCOLS.values() for key in protocol.vary}
    widths = {id for id, others in OTHER_VALUES.items() if "victim.width" in others}
    for key in sorted(keys - {"batch.data", "victim.name"}):
        assert set(narrowed_values(key)) <= (widths if key == "victim.width" else set()), key


def test_rows_leave_out_data_sets_for_what_their_statement_needs() -> None:
    """If this fails, a row draws other sets than those that can show its factor: detailed, repeated or learned ones."""
    faces, digits = ("faces",), ("digits",)
    assert narrowed_values("batch.data") == {
        "op.resolution": DETAILED,
        "op.resolution_over_batch": DETAILED,
        "thm1.empirical": DETAILED,
        "gen_w.resolution": DETAILED,
        "peft.resized": DETAILED,
        "ana_arch.resolution": ("photos", "faces"),
        **dict.fromkeys(("gen_z.resolution/2", "gen_inv.resolution/2", "ana_param.resolution"), faces),
        **dict.fromkeys(("op.same_labels", "gen_w.same_labels", "op.original", "gen_w.original"), REPEATED),
        **dict.fromkeys(("ana_param.same_labels", "ana_param.original"), ("faces", "digits")),
        **dict.fromkeys(("gen_z.same_labels/2", "gen_inv.same_labels/2"), digits),
        **dict.fromkeys(("op.training_state", "gen_w.training_state", "ana_arch.training_state/2"), LEARNED),
        **dict.fromkeys(("gen_z.training_state/2", "gen_inv.training_state/2"), digits),
        **dict.fromkeys(("ana_param.training_state", "ana_param.batch_size"), faces),
        **dict.fromkeys(("prop1.table2", "prop1.trained_similar/2"), ("faces", "digits")),
    }
    assert set(DETAILED) | set(REPEATED) | set(LEARNED) <= set(DATA)


def test_rows_leave_out_networks_only_where_local_training_is_simulated() -> None:
    """If this fails, a row that simulates no local steps draws fewer networks than its type's space has."""
    assert narrowed_values("victim.name") == {
        **dict.fromkeys(("op.fedavg", "op.fedavg_strong", "gen_z.fedavg/2", "gen_w.fedavg"), ("convnet", "mlp")),
        "gen_inv.fedavg/2": ("lenet", "mlp"),
    }


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


@pytest.mark.parametrize(("id", "levels"), EVERY)
def test_every_level_of_a_row_sets_something_that_its_first_does_not(id: str, levels: dict[Any, Protocol]) -> None:
    """If this fails, a factor's change changes nothing, and "no difference" is certain."""
    described = [protocol.described() for protocol in levels.values()]
    for number, level in enumerate(described):
        assert level not in described[:number], f"{id} at {list(levels)[number]}"
