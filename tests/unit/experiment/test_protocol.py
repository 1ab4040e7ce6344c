"""What a protocol refuses, how a nested field is changed, what is drawn into it, and what its digest depends on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gia.attacks import Reconstruction, inverting_gradients
from gia.data.assets import ASSETS
from gia.defenses import clip
from gia.experiment import (
    Attacker,
    Batch,
    Client,
    Fishing,
    Measurement,
    Protocol,
    Scoring,
    Victim,
    measure,
)
from gia.experiment.controls import shares_gradients
from gia.federated import LocalTraining, Observation
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.sources import closure_of
from tests.unit.experiment.toy import BLOCK, FITTING, PROTOCOL, bright, silence, unchanged

LOCAL = LocalTraining(epochs=1, batch_size=2, lr=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "ripe"}, "state: expected one of .* got 'ripe'"),
        ({"state": "traned"}, "got 'traned'; did you mean 'trained'"),
        ({"half": 2}, "half: expected between 0 and epochs=2"),
    ],
)
def test_a_training_that_cannot_be_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        replace(FITTING, **changes)


@pytest.mark.parametrize(("changes", "message"), [({"kind": "net"}, "kind: expected"), ({"targets": 0}, "targets:")])
def test_fishing_that_cannot_be_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        Fishing(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch.size": 3}, "images: expected a positive multiple of size=3, got 4"),
        ({"victim.fish": Fishing(targets=5)}, "images: expected at least 5 to fish in, got 4"),
        ({"attacker.disjoint": "people"}, r"disjoint: expected one of \['images', 'labels'\], got 'people'"),
        ({"attacker.seed": 0, "attacker.disjoint": "labels"}, "seed: expected None where labels are disjoint"),
        ({"scoring.metrics": ("label_agreement",)}, "judge: expected a callable that makes a classifier"),
        ({"attacker.placebo": "saboteur"}, r"placebo: expected one of .* got 'saboteur'"),
        ({"scoring.metrics": ("agreement_leak",)}, "judge: expected .* for 'agreement_leak', got None"),
        ({"victim.dtype": "float16"}, "dtype: expected one of .* got 'float16'"),
        ({"scoring.metrics": ("psnr", "ssmi")}, "metrics: expected one of .* got 'ssmi'; did you mean 'ssim'"),
        (
            {"attacker.assumed": LocalTraining(1, 1, 0.1), "client.reveal": ("local",)},
            "assumed: expected None where 'local' is revealed",
        ),
    ],
)
def test_a_protocol_that_cannot_run_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.with_(changes)


def test_an_unknown_space_is_refused_by_the_attack() -> None:
    """A level would be measured in another space than it says."""
    with pytest.raises(ValueError, match=r"space: expected .* got 'latent'"):
        measure(PROTOCOL.with_({"attacker.settings.space": "latent"}), BLOCK)


def test_a_victim_has_a_name() -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(TypeError, match="name"):
        Victim(options={"width": 3})  # type: ignore[call-arg]


def test_a_nested_field_is_changed_by_its_dotted_key() -> None:
    """A level would be the base protocol, or lose what else the part holds."""
    base = PROTOCOL.with_({"client.local": LOCAL, "fit": FITTING})
    changed = base.with_(
        {
            "device": "cuda",
            "batch.size": 4,
            "client.local.epochs": 5,
            "fit.state": "untrained",
            "attacker.settings.lr": 0.5,
            "victim.width": 24,
            "victim.dtype": "float64",
            "scoring.control": None,
        }
    )
    assert changed == Protocol(
        victim=Victim(name="mlp", options={"width": 24}, dtype="float64"),
        batch=replace(base.batch, size=4),
        attacker=replace(base.attacker, settings={"steps": 5, "total_variation": 0.0, "lr": 0.5}),
        client=Client(local=replace(LOCAL, epochs=5)),
        scoring=replace(base.scoring, control=None),
        fit=replace(FITTING, state="untrained"),
        device="cuda",
    )
    assert base.attacker.settings == PROTOCOL.attacker.settings, "the base protocol stays as it was"
    assert PROTOCOL.with_({}) == PROTOCOL


def test_a_key_of_the_victim_that_is_no_field_is_an_option_of_its_network() -> None:
    """A width would be an error or, worse, be ignored."""
    changed = PROTOCOL.with_({"victim.activation": "sigmoid", "victim.name": "lenet"})
    assert changed.victim == Victim(name="lenet", options={"width": 32, "activation": "sigmoid"})
    assert changed == PROTOCOL.with_({"victim.options.activation": "sigmoid", "victim.name": "lenet"})
    assert PROTOCOL.with_({"victim.options": {}}).victim.options == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"batch.size": 3, "batch.images": 6},
        {"client.reveal": ("local",), "client.local": LOCAL, "attacker.assumed": None},
        {"victim.fish": Fishing(targets=8), "batch.images": 8},
        {"scoring.metrics": ("label_agreement",), "scoring.judge": bright},
    ],
    ids=lambda changes: " and ".join(changes),
)
def test_fields_that_depend_on_each_other_are_changed_at_once(changes: dict[str, Any]) -> None:
    """A valid level could not be reached, since the way to it leads through one that is refused."""
    base = PROTOCOL.with_({"attacker.assumed": LOCAL})
    for order in (changes, dict(reversed(changes.items()))):
        changed = base.with_(order)
        assert all(changed.at(key) == value for key, value in changes.items())


def test_a_whole_field_is_put_in_before_what_is_changed_in_it() -> None:
    """A level that names both would lose one of the two."""
    for changes in (
        {"attacker.settings": {"lr": 1.0}, "attacker.settings.steps": 9},
        {"attacker.settings.steps": 9, "attacker.settings": {"lr": 1.0}},
    ):
        assert PROTOCOL.with_(changes).attacker.settings == {"lr": 1.0, "steps": 9}
    assert PROTOCOL.with_({"fit": FITTING, "fit.state": "untrained"}).at("fit.state") == "untrained"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bach.size", r"changes: expected one of \['victim', .*\], got 'bach'; did you mean 'batch'\?"),
        ("width", r"changes: expected one of .* got 'width'"),
        ("batch.sise", r"batch: expected one of \['data', .*\], got 'sise'; did you mean 'size'\?"),
        ("client.local.epoch", "client.local: expected one of .* got 'epoch'; did you mean 'epochs'"),
        ("batch.images.first", "changes: expected batch.images to have fields, got 4"),
        ("fit.state", "changes: expected fit to be set before its fields, got None for fit"),
        ("victim.fish.targets", "changes: expected victim.fish to be set before its fields, got None"),
    ],
)
def test_a_key_that_names_no_field_is_refused(key: str, message: str) -> None:
    """A misspelt key would be drawn or compared, stored, and ignored."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.with_({"client.local": LOCAL, key: 3})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 3}, "got 'width'"),
        ({"batch.images.first": 3}, "expected batch.images to have fields"),
        ({"attacker.settings.objektive.weight": 1.0}, "expected attacker.settings.objektive to be set"),
    ],
)
def test_a_drawn_key_that_fits_no_field_is_refused(setting: dict[str, Any], message: str) -> None:
    """A misspelt key would be drawn, stored and ignored."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.drawn(setting)


def test_a_value_is_read_at_its_dotted_key() -> None:
    """The harness would compare levels by something else than what they set."""
    protocol = PROTOCOL.with_({"client.local": LOCAL})
    assert protocol.at("batch.size") == 1
    assert protocol.at("victim.width") == protocol.at("victim.options.width") == 32
    assert protocol.at("attacker.settings.steps") == 5
    assert protocol.at("client.local") == LOCAL
    assert protocol.at("client.local.epochs") == 1
    assert protocol.at("fit") is None
    assert protocol.at("fit.epochs") is None
    assert protocol.at("victim.activation") is None
    for key in ("bach.size", "batch.sise"):
        with pytest.raises(ValueError, match="did you mean"):
            protocol.at(key)


def test_local_training_is_drawn_field_by_field_and_left_out_where_there_is_none() -> None:
    """FedSGD would be given local steps, or the epochs would be the same in every block."""
    base = PROTOCOL.with_(
        {"client.local": LOCAL, "vary": {"client.local.epochs": (2, 5), "client.local.batch_size": (1, 4)}}
    )
    drawn = base.drawn({"client.local.epochs": 5, "client.local.batch_size": 1})
    assert drawn.client.local == LocalTraining(epochs=5, batch_size=1, lr=0.1)
    none = base.with_({"client.local": None})
    assert none.drawn({"client.local.epochs": 5, "batch.size": 2}) == none.with_({"batch.size": 2})
    assert PROTOCOL.drawn({"fit.epochs": 5, "victim.fish.targets": 2}) == PROTOCOL
    assert set(Experiment("toy", {"sgd": none, "avg": base}).levels) == {"sgd", "avg"}
    with pytest.raises(ValueError, match=r"the same 'client\.local\.epochs' in all, since it is drawn"):
        Experiment("toy", {"one": base, "two": base.with_({"client.local.epochs": 2})})


def test_a_factor_cannot_be_both_compared_and_drawn() -> None:
    """The draw would overwrite the level, and all levels would be alike."""
    base = PROTOCOL.with_({"vary": {"victim.width": (8, 16)}})
    levels = {width: base.with_({"victim.width": width}) for width in (8, 32)}
    with pytest.raises(ValueError, match=r"the same 'victim\.width' in all, since it is drawn"):
        Experiment("toy", levels)


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
    assert described["attacker"]["attack"] == f"{__name__}:stranger"
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
    assert f"attacker={__name__}:stranger)" in repr(PROTOCOL.with_({"attacker.attack": stranger}))


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


def test_a_level_is_placed_on_a_device_with_the_users_data() -> None:
    """A claim would run on another device than the command line says."""
    placed = PROTOCOL.placed(device="cuda", root="data")
    assert (placed.device, placed.root, placed.dtype) == ("cuda", "data", "float32")
    assert placed.with_({"device": "cpu", "root": None}) == PROTOCOL
    assert placed.control is PROTOCOL.scoring.control


def test_full_sets_of_the_user_take_the_place_of_their_samples(tmp_path: Path) -> None:
    """With `--data` a claim would still be about twenty bundled images."""
    changes = {"batch.data": "cifar10-samples", "attacker.public": "cifar100-samples"}
    drawn = {"batch.data": ("cifar10-samples", "imagenet-samples", "faces"), "victim.width": (8, 16)}
    protocol = PROTOCOL.with_({**changes, "vary": drawn})
    assert protocol.placed(device="cpu", root=str(tmp_path)).with_({"root": None}) == protocol
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "imagenet").mkdir()
    placed = protocol.placed(device="cpu", root=str(tmp_path))
    assert (placed.batch.data, placed.attacker.public) == ("cifar10", "cifar100-samples")
    assert placed.vary == {"batch.data": ("cifar10", "imagenet", "faces"), "victim.width": (8, 16)}
    (tmp_path / "cifar-100-python").mkdir()
    assert protocol.placed(device="cpu", root=str(tmp_path)).attacker.public == "cifar100"


def stranger(model: nn.Module, observation: Observation, *, generator: torch.Generator, gain: float = 1.0) -> Any:
    """An attack from outside, without a card."""
    shape = (observation.batch_size, *observation.image_shape)
    return Reconstruction(images=gain * torch.rand(shape, generator=generator), gradient_evaluations=1)


def test_an_attack_is_taken_as_a_name_as_a_function_and_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack from outside could not be measured, or would be another one under each of its names."""
    (tmp_path / "outside_attack.py").write_text(
        "import torch\n"
        "from gia.attacks import Reconstruction, inverting_gradients as known\n"
        "def stranger(model, observation, *, generator, gain=1.0):\n"
        "    shape = (observation.batch_size, *observation.image_shape)\n"
        "    return Reconstruction(images=gain * torch.rand(shape, generator=generator), gradient_evaluations=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outside_attack", raising=False)

    def measured(attack: Any, **settings: Any) -> Measurement:
        settings = settings or dict(PROTOCOL.attacker.settings)
        return measure(PROTOCOL.with_({"attacker": Attacker(attack=attack, settings=settings)}), BLOCK)

    own = [measured(attack) for attack in ("inverting_gradients", inverting_gradients, "outside_attack:known")]
    outside = [measured(attack, gain=0.5) for attack in (stranger, "outside_attack:stranger")]
    for first, *others in (own, outside):
        for other in others:
            assert other.values == first.values
            assert np.array_equal(other.arrays["reconstructions"], first.arrays["reconstructions"])
    assert own[0].values != outside[0].values
    with pytest.raises(ValueError, match=r"attack: .*did you mean 'outside_attack:stranger'"):
        measured("outside_attack:strange")


def test_inputs_are_all_data_that_a_block_may_draw_and_the_weights_of_its_metrics() -> None:
    """A stored block would be served although the images behind it, or the net of a metric, were replaced."""
    protocol = PROTOCOL.with_({"batch.data": "digits", "scoring.metrics": ("psnr", "lpips_vgg")})
    digits, vgg = ASSETS["digits"].digest, ASSETS["lpips-vgg"].digest
    assert protocol.inputs() == {"digits": digits, "lpips-vgg": vgg}
    public = protocol.with_({"attacker.public": "faces"})
    assert set(public.inputs()) == {"digits", "faces", "lpips-vgg"}
    drawn = replace(public, vary={"batch.data": ("photos", "digits"), "attacker.public": (None, "cifar10-samples")})
    assert set(drawn.inputs()) == {"photos", "digits", "cifar10-samples", "lpips-vgg"}


def test_inputs_of_a_full_set_are_read_from_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders of the user with other images would share their results."""
    monkeypatch.setattr("gia.experiment.protocol.content_digest", lambda name, root, again: f"{name} in {root}")
    protocol = PROTOCOL.with_({"batch.data": "cifar10", "scoring.metrics": ()}).placed(device="cpu", root="there")
    assert protocol.inputs() == {"cifar10": "cifar10 in there"}


def test_a_budget_multiplies_the_steps_and_uses_all_of_them() -> None:
    """A row would be called robust to its budget although the search ended where it had ended before."""
    assert PROTOCOL.with_budget(4) == PROTOCOL.with_({"attacker.settings.steps": 20})
    converging = PROTOCOL.with_({"attacker.settings.converged": 0.01, "attacker.settings.steps": 10})
    fixed = converging.with_budget(0.25)
    assert fixed is not None
    assert fixed.attacker.settings == {"steps": 2, "total_variation": 0.0, "converged": None}
    default = PROTOCOL.with_({"attacker.settings": {}}).with_budget(2)
    assert default is not None
    assert default.attacker.settings == {"steps": 48_000}, "twice the default of inverting_gradients"
    for attack in ("linear_layer", stranger):
        assert PROTOCOL.with_({"attacker.attack": attack}).with_budget(4) is None
    own = {"attacker.attack": "ci_net", "attacker.settings": {}}
    for size, steps in ((1, 8_000), (32, 20_000)):
        chosen = PROTOCOL.with_({**own, "batch.size": size, "batch.images": size}).with_budget(4)
        assert chosen is not None
        assert chosen.attacker.settings == {"steps": steps}, "four times what ci_net takes for this batch"
