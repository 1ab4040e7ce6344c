"""What a protocol refuses, where it is placed, what it reads, and which attack and how many steps it takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia.attacks import inverting_gradients
from gia.data.assets import ASSETS
from gia.experiment import Attacker, Fishing, Measurement, Victim, measure
from gia.federated import LocalTraining
from tests.unit.experiment.toy import BLOCK, FITTING, PROTOCOL, stranger


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
