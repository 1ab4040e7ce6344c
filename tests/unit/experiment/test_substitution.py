"""Another attack in the place of a protocol's own: which protocols it can take, and what of them stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from claims import reduced
from gia.defenses import clip, dp_sgd, noise
from gia.experiment import Fishing, Protocol, defended, measure, substitution
from gia.experiment.controls import path_works, shares_gradients
from tests.unit.experiment.toy import BLOCK, PROTOCOL, unchanged

OUTSIDE = """
import torch
from gia.attacks import Card, Reconstruction

def plain(model, observation, *, generator, gain=1.0):
    shape = (observation.batch_size, *observation.image_shape)
    return Reconstruction(images=gain * torch.rand(shape, generator=generator), gradient_evaluations=3)

def needy(model, observation, *, generator):
    return plain(model, observation, generator=generator)

needy.card = Card(leaf="GEN-z", needs=frozenset({"auxiliary"}), iterative=False, source="Doe et al., 2026")
"""


def own_control(*arguments: Any, **options: Any) -> Any:
    """A control of a row's own."""


def equipment(*arguments: Any, **options: Any) -> dict[str, Any]:
    """A setting that only the protocol's own attack has."""
    return {"inverter": None}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module beside gia that holds attacks."""
    (tmp_path / "attacks_of_others.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "attacks_of_others", raising=False)


@pytest.mark.parametrize(
    ("attack", "changes", "obstacle"),
    [
        ("dlg", {"client.reveal": ()}, None),
        ("gradinversion", {"client.reveal": ("labels",)}, None),
        ("gradinversion", {"client.reveal": ("local",)}, "the attack needs labels"),
        ("trap_weights", {}, "the attack needs a malicious server"),
        ("trap_weights", {"victim.edit": unchanged}, None),
        ("linear_layer", {"victim.name": "mlp"}, None),
        ("linear_layer", {"victim.name": "lenet"}, "the attack needs a linear layer that sees the image"),
        ("linear_layer", {"victim.name": "lenet", "victim.edit": unchanged}, None),
        ("ggl", {}, "the attack needs 'decoder'"),
        ("learning_to_invert", {}, "the attack needs 'auxiliary'"),
        ("dlg", {"victim.fish": Fishing(targets=1)}, "the server of this row fishes for single images"),
        ("attacks_of_others:plain", {"client.reveal": (), "victim.name": "lenet"}, None),
        ("attacks_of_others:plain", {"victim.fish": Fishing(targets=1)}, "the server of this row fishes"),
        ("attacks_of_others:needy", {}, "the attack needs 'auxiliary'"),
    ],
)
@pytest.mark.usefixtures("outside")
def test_an_attack_takes_the_protocols_that_give_it_what_it_needs(
    attack: str, changes: dict[str, Any], obstacle: str | None
) -> None:
    """An attack would be blamed for what a row does not give it, or the reason would not be told."""
    substituted = substitution(attack, {})(PROTOCOL.with_(changes))
    if obstacle is None:
        assert isinstance(substituted, Protocol)
        assert substituted.attacker.attack == attack
    else:
        assert isinstance(substituted, str)
        assert substituted.startswith(obstacle)


def test_what_was_set_or_made_for_the_own_attack_is_dropped_and_all_else_stays() -> None:
    """The attack would be given another's settings, or attack other images than the row's."""
    own = PROTOCOL.with_(
        {
            "attacker.equip": equipment,
            "attacker.public": "faces",
            "attacker.seed": 3,
            "batch.size": 2,
            "victim.width": 16,
            "vary": {"victim.width": (8, 16), "attacker.settings.total_variation": (0.0, 0.1)},
        }
    )
    settings = {"steps": 7}
    substituted = substitution("dlg", settings)(own)
    assert isinstance(substituted, Protocol)
    changes = {"attacker.attack": "dlg", "attacker.settings": {"steps": 7}, "attacker.equip": None}
    changes["vary"] = {"victim.width": (8, 16)}
    assert substituted == own.with_(changes)
    assert substituted.attacker.settings is not settings
    assert own.attacker.equip is equipment, "the row's protocol stays as it was"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (own_control, path_works),
        (path_works, path_works),
        (shares_gradients, shares_gradients),
        (None, None),
    ],
)
def test_it_is_controlled_as_every_attack_where_something_is_attacked(own: Any, expected: Any) -> None:
    """A row's own control would be run on an attack that it does not fit, or a row would lose its control."""
    substituted = substitution("dlg", {})(PROTOCOL.with_({"scoring.control": own}))
    assert isinstance(substituted, Protocol)
    assert substituted.control is expected


@pytest.mark.usefixtures("outside")
def test_an_attack_from_outside_is_measured_and_controlled() -> None:
    """It would be accepted, and fail in the first block."""
    substituted = substitution("attacks_of_others:plain", {"gain": 0.5})(PROTOCOL)
    assert isinstance(substituted, Protocol)
    measurement = measure(substituted, BLOCK)
    assert measurement.counts["gradient_evaluations"] == 4 * 3
    assert measurement.arrays["reconstructions"].max() <= 128
    control = path_works(substituted, BLOCK)
    assert not control.passed
    assert "found" in control.reason.partition("failed: ")[2]


def test_an_unknown_attack_is_refused_before_any_row_is_tried() -> None:
    """Every row would say that it cannot be taken, and the run would pass."""
    with pytest.raises(ValueError, match=r"attack: expected one of .* got 'idgl'; did you mean 'idlg'"):
        substitution("idgl", {})


def wordless(observation: Any) -> None:
    """A defense that forgets to return."""


def test_defenses_follow_the_protocols_own_and_all_else_stays() -> None:
    """A row's own defense would be lost, or the attack would be told of another one."""
    own = PROTOCOL.with_({"client.defenses": (noise(std=1.0),)})
    changed = defended(["clip=1.0", "dp_sgd=1.0,noise=0.5"])(own)
    assert changed == own.with_({"client.defenses": (noise(std=1.0), clip(norm=1.0), dp_sgd(clip=1.0, noise=0.5))})


@pytest.mark.parametrize(
    ("spec", "changes", "reason"),
    [
        ("dp_sgd=1.0,noise=0.0", {"victim.name": "resnet8", "client.training": True}, "model: expected batch normal"),
        ("dp_sgd=1.0,noise=0.0", {"client.defenses": (dp_sgd(clip=1.0, noise=0.0),)}, "defenses: expected at most one"),
        (f"{__name__}:wordless", {}, "expected an Observation, got NoneType"),
        (
            "dp_sgd=1.0,noise=0.0",
            {"client.training": True, "vary": {"victim.name": ("mlp", "resnet8")}},
            "model: expected batch normalization in eval mode",
        ),
    ],
)
def test_clients_that_cannot_take_a_defense_say_why(spec: str, changes: dict[str, Any], reason: str) -> None:
    """A row would fail in its first block, or in the first that draws another network."""
    refused = defended([spec])(PROTOCOL.with_(changes))
    assert isinstance(refused, str)
    assert refused.startswith(f"the defense does not take the clients of this row: {reason}")
    trained = {**changes, "client.training": False, "client.defenses": ()}
    assert isinstance(defended([spec])(PROTOCOL.with_(trained)), str if "wordless" in spec else Protocol)


def test_every_row_of_the_reduced_scale_takes_a_defense_of_finished_answers() -> None:
    """If it fails, a network is not built as its row builds it."""
    put = defended(["clip=1.0"])
    protocols = [cell.protocol for cells in reduced.CELLS.values() for cell in cells.values()]
    assert not [changed for protocol in protocols if isinstance(changed := put(protocol), str)]
