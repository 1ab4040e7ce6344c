"""What a protocol is described by: its digest, its line in a failed comparison, and the callables that take part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from gia.attacks import inverting_gradients
from gia.defenses import clip
from gia.experiment import Attacker, Batch, Fishing, Protocol, Scoring, Victim
from gia.experiment.controls import shares_gradients
from gia.federated import Observation
from gia.harness.blocks.sources import closure_of
from tests.unit.experiment.toy import FITTING, LOCAL, PROTOCOL, bright, silence, stranger, unchanged


@dataclass(frozen=True)
class Mild:
    """A setting."""

    weight: float = 1.0


@dataclass(frozen=True)
class Sharp:
    """Another with the same fields."""

    weight: float = 1.0


def halved(observation: Observation, *, generator: torch.Generator) -> Observation:
    """A defence."""
    return replace(observation, gradients={k: g / 2 for k, g in observation.gradients.items()})


def equipment(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Nothing."""
    return {}


#: The toy protocol with every optional part.
WHOLE = PROTOCOL.with_(
    {
        "client.local": LOCAL,
        "fit": FITTING,
        "victim.fish": Fishing(targets=1),
        "batch.images": 8,
        "batch.size": 2,
        "attacker.assumed": LOCAL,
    }
)


#: Dotted key of every field of every part -> a value other than that of `WHOLE`.
OTHERS: dict[str, Any] = {
    "victim.name": "lenet",
    "victim.options": {"width": 8},
    "victim.standardize": {"mean": (0.5,), "std": (0.25,)},
    "victim.edit": silence,
    "victim.fish.kind": "feature",
    "victim.fish.targets": 2,
    "victim.fish.queries": 3,
    "victim.dtype": "float64",
    "batch.data": "faces",
    "batch.image_size": 16,
    "batch.channels": 3,
    "batch.images": 12,
    "batch.size": 4,
    "batch.pattern": "equal",
    "batch.pattern_batch": 2,
    "attacker.attack": inverting_gradients,
    "attacker.settings": {"steps": 6, "total_variation": 0.0},
    "attacker.assumed.epochs": 3,
    "attacker.assumed.batch_size": 3,
    "attacker.assumed.lr": 3.0,
    "attacker.assumed.momentum": 0.3,
    "attacker.equip": equipment,
    "attacker.public": "digits",
    "attacker.seed": 0,
    "attacker.disjoint": "labels",
    "attacker.placebo": "noise",
    "client.reveal": (),
    "client.training": True,
    "client.local.epochs": 3,
    "client.local.batch_size": 3,
    "client.local.lr": 3.0,
    "client.local.momentum": 0.3,
    "client.defenses": (halved,),
    "scoring.metrics": ("rmse", "psnr"),
    "scoring.judge": bright,
    "scoring.control": shares_gradients,
    "scoring.control_images": 3,
    "fit.state": "untrained",
    "fit.epochs": 3,
    "fit.half": 2,
    "fit.batch_size": 3,
    "fit.lr": 3.0,
    "fit.members": False,
    "fit.held_out": 0.3,
    "fit.as_attacked": True,
    "fit.accuracy": 0.3,
    "vary": {"victim.width": (8, 16)},
    "device": "cuda",
    "root": "elsewhere",
}


def keys(part: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all fields, down to those that hold no part."""
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            yield from keys(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


@pytest.mark.parametrize("key", list(keys(WHOLE)))
def test_the_digest_changes_with_every_field(key: str) -> None:
    """Two settings would share a stored baseline or block."""
    more = {"fit.epochs": 4} if key == "fit.half" else {}
    before, changed = WHOLE.with_(more), WHOLE.with_({**more, key: OTHERS[key]})
    assert changed.at(key) == OTHERS[key] != before.at(key)
    assert changed.digest() != before.digest()
    assert json.loads(json.dumps(changed.described())) == changed.described()
    assert len(changed.digest()) == 16


def test_a_digest_depends_on_settings_and_on_nothing_else() -> None:
    """Two settings would share a baseline or a cached block, or one would have several."""
    turned = PROTOCOL.with_({"attacker.settings": dict(reversed(PROTOCOL.attacker.settings.items()))})
    assert PROTOCOL.digest() == turned.digest()
    others = [
        PROTOCOL.with_({"attacker.settings": {"objective": Mild()}}),
        PROTOCOL.with_({"attacker.settings": {"objective": Sharp()}}),
        PROTOCOL.with_({"attacker.settings": {"objective": Sharp(2.0)}}),
        PROTOCOL.with_({"victim.edit": silence}),
        PROTOCOL.with_({"victim.edit": unchanged}),
        PROTOCOL.with_({"scoring.control": None}),
        PROTOCOL.with_({"client.local": LOCAL}),
        PROTOCOL.with_({"attacker.assumed": LOCAL}),
        PROTOCOL.with_({"fit": FITTING}),
    ]
    assert len({PROTOCOL.digest(), *(other.digest() for other in others)}) == 10


def test_the_description_holds_only_what_is_not_default() -> None:
    """A new option would make every stored baseline stale, although nothing that it measures has changed."""
    least = Protocol(
        victim=Victim(name="mlp"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
    )
    assert least.described() == {
        "victim": {"name": "mlp"},
        "batch": {"data": "digits", "image_size": 8},
        "attacker": {"attack": "dlg"},
    }
    default = {"victim.fish": None, "batch.channels": None, "attacker.disjoint": "images", "scoring": Scoring()}
    assert least.with_(default).described() == least.described()
    assert least.with_({"scoring.control_images": 3}).described()["scoring"] == {"control_images": 3}
    described = PROTOCOL.with_({"victim.edit": silence, "attacker.attack": stranger, "fit": FITTING}).described()
    assert described["victim"] == {
        "name": "mlp",
        "options": {"width": 32},
        "edit": "tests.unit.experiment.toy:silence",
    }
    assert described["attacker"]["attack"] == "tests.unit.experiment.toy:stranger"
    assert described["fit"]["class"] == "gia.experiment.protocol:Fitting"


def test_a_setting_that_no_worker_process_can_read_is_refused() -> None:
    """A block could not be stored under a key, or its key would hold an address in memory."""
    for value in (lambda image: image, float("nan"), object()):
        with pytest.raises(TypeError, match=r"protocol\.attacker\.settings\.loss: expected numbers, strings, lists"):
            PROTOCOL.with_({"attacker.settings.loss": value}).described()


def test_a_protocol_prints_on_a_line() -> None:
    """A failed comparison of levels would print pages."""
    assert repr(PROTOCOL) == (
        "Protocol(victim=mlp(width=32), batch=4 of digits at 8 px in batches of 1, attacker=inverting_gradients)"
    )
    assert repr(WHOLE).endswith("batch=8 of digits at 8 px in batches of 2, attacker=inverting_gradients)")
    assert "attacker=tests.unit.experiment.toy:stranger)" in repr(PROTOCOL.with_({"attacker.attack": stranger}))


def test_a_protocol_names_every_callable_that_takes_part() -> None:
    """The source of one of them could change and stored blocks would still be used."""
    protocol = PROTOCOL.with_(
        {
            "attacker.attack": stranger,
            "attacker.equip": equipment,
            "attacker.settings.loss": nn.functional.cross_entropy,
            "client.defenses": (halved,),
            "victim.edit": silence,
            "scoring.judge": bright,
            "scoring.control": shares_gradients,
        }
    )
    expected = {stranger, equipment, nn.functional.cross_entropy, halved, silence, bright, shares_gradients}
    assert set(protocol.callables()) == expected
    assert inverting_gradients in set(PROTOCOL.callables())


@dataclass(frozen=True)
class Step:
    """A step defense of a user's own, which is not callable."""

    share: float = 0.5

    def gradient(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Nothing: it is only described here."""
        return {}


def test_the_code_and_the_settings_of_every_defense_take_part() -> None:
    """Whoever edits a defense would read the old numbers from the store, and other settings would share blocks."""
    plain, defended = PROTOCOL, PROTOCOL.with_({"client.defenses": (clip(norm=1.0), Step(share=0.25))})
    modules = {
        name for name in closure_of(defended.callables()).modules if name not in closure_of(plain.callables()).modules
    }
    assert {"gia.defenses.perturbation", __name__} <= modules
    assert defended.described()["client"]["defenses"] == [
        {"class": "gia.defenses.perturbation:clip", "norm": 1.0},
        {"class": f"{__name__}:Step", "share": 0.25},
    ]
    assert defended.digest() != PROTOCOL.with_({"client.defenses": (clip(norm=1.0), Step(share=0.5))}).digest()
