"""What holds on a machine without a second device: no tensor is made without a device, and no step waits for one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import gia
from gia.attacks import CARDS
from gia.attacks.matching import loop
from tests.contracts.cases import CASES, build, each, pictures, private, share
from tests.contracts.devices import Homeless, Waits
from tests.contracts.fresh import equipped
from tests.contracts.test_battery import ATTACKS, each_attack, quick, seeded


def test_a_call_without_a_device_is_noticed() -> None:
    """If it fails, the tests below pass whatever the code does."""
    with Homeless():
        assert torch.zeros(2).device.type == torch.tensor([1.0]).device.type == "meta"
        assert torch.zeros(2, device="cpu").device.type == "cpu"
        assert torch.rand(2, generator=seeded()).device.type == "cpu"
        with pytest.raises(RuntimeError, match=r"(?i)meta"):
            torch.ones(2, device="cpu")[torch.arange(2) != 1].sum().item()


@each_attack
def test_an_attack_makes_every_tensor_on_the_observation_s_device(name: str) -> None:
    """If it fails, the attack stops on a GPU at the first operation that mixes devices."""
    model = build(CASES[name], torch.float32)
    observation = share(CASES[name], model, *CASES[name].batch(0, 1))
    settings = equipped(quick(name), model, observation)
    with Homeless():
        found = gia.attacks.ATTACKS[name](model, observation, generator=seeded(), **settings)
    assert found.images.device.type == "cpu"


def classifier(images: torch.Tensor) -> torch.Tensor:
    """Logits of a kind."""
    return images.flatten(1)[:, :10]


METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    **{name: getattr(gia.metrics, name) for name in ("cw_ssim", "exact", "exact_share", "lpips", "match", "psnr")},
    **{name: getattr(gia.metrics, name) for name in ("recovered_share", "rmse", "ssim", "score")},
    "align": lambda x, y: gia.metrics.align(x, y, blind=gia.metrics.blind_guess(y)),
    "blind_guess": lambda x, y: gia.metrics.blind_guess(y),
    "jaccard": partial(gia.metrics.jaccard, classifier=classifier),
    "lpips_nearest": lambda x, y: gia.metrics.lpips_nearest(x, y.repeat(25, 1, 1, 1)),
    "match by lpips": partial(gia.metrics.match, by="lpips"),
    "rdlv": lambda x, y: gia.metrics.rdlv(x, y, prior=y.flip(0)),
}


def test_every_metric_is_asked_where_it_makes_tensors() -> None:
    """If it fails, a metric escapes the test below."""
    public = {name for name in gia.metrics.__all__ if callable(getattr(gia.metrics, name))}
    assert public - {"Metric"} <= set(METRICS)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_makes_every_tensor_on_the_images_device(name: str) -> None:
    """If it fails, images on a GPU cannot be scored there."""
    originals = gia.data.load("cifar10-samples", image_size=64).images[:4]
    found = (originals + 0.1).clamp(0, 1)
    METRICS[name](found, originals)  # loads the nets of perceptual metrics, which move to the images later
    with Homeless():
        METRICS[name](found, originals)


DEFENSES = {
    "clip": lambda: gia.defenses.clip(1.0),
    "noise": lambda: gia.defenses.noise(0.1),
    "laplace": lambda: gia.defenses.noise(0.1, kind="laplace"),
    "prune": lambda: gia.defenses.prune(0.1),
    "quantize": lambda: gia.defenses.quantize(4),
    "soteria": lambda: gia.defenses.soteria(0.4),
    "dp_sgd": lambda: gia.defenses.dp_sgd(1.0, 0.1),
}


@pytest.mark.parametrize("local", [None, gia.LocalTraining(epochs=2, batch_size=2, lr=0.1)], ids=["gradient", "update"])
@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_a_defense_makes_every_tensor_on_the_model_s_device(name: str, local: gia.LocalTraining | None) -> None:
    """If it fails, a client on a GPU cannot defend itself."""
    model = build(CASES["linear_layer"], torch.float32)
    images, labels = private(torch.float32, 0, 1, 2, 3)
    client = gia.federated.Client(
        images, labels, local=local, defenses=[DEFENSES[name]()], defense_generator=seeded(), generator=seeded()
    )
    if name in ("soteria", "dp_sgd") and local is not None:
        pytest.skip("defends single gradients, or its own steps")
    with Homeless():
        observation = client.answer(model)
    assert {tensor.device.type for tensor in observation.gradients.values()} == {"cpu"}


def aggregate(model: torch.nn.Module) -> object:
    """Of two clients."""
    return gia.defenses.secure_aggregation([share(CASES["linear_layer"], model, i) for i in (0, 1)])


def average(model: torch.nn.Module) -> object:
    """Two clients, two rounds."""
    images = pictures()
    parts = gia.federated.split_by_label(images.labels[:20], 2, concentration=10.0, generator=seeded(), least=4)
    local = gia.LocalTraining(epochs=1, batch_size=4, lr=0.1, momentum=0.9)
    clients = [gia.federated.Client(images.images[part], images.labels[part], local=local) for part in parts]
    return gia.federated.federated_averaging(model, clients, rounds=2, held_out=images)


def invert(model: torch.nn.Module) -> object:
    """An inverter that is trained for an epoch."""
    images, labels = pictures().images, pictures().labels
    return gia.attacks.train_inverter(
        model, images, labels, batch_size=1, generator=seeded(), hidden=(8,), hashed=32, epochs=1, training_batch=8
    )


TRAINING: dict[str, Callable[[torch.nn.Module], Any]] = {
    "secure_aggregation": aggregate,
    "federated_averaging": average,
    "train_inverter": invert,
    "fit": lambda model: gia.federated.fit(model, pictures(), epochs=1, batch_size=8, lr=0.01, generator=seeded()),
    "validate_model": lambda model: gia.validate_model(model, model, batch=private(torch.float32, 0, 1)),
    "design_findings": gia.defenses.design_findings,
}


@pytest.mark.parametrize("name", sorted(TRAINING))
def test_training_makes_every_tensor_on_the_model_s_device(name: str) -> None:
    """If it fails, nothing can be trained on a GPU."""
    model = build(CASES["linear_layer"], torch.float32)
    pictures()
    with Homeless():
        TRAINING[name](model)


#: Attacks whose steps ask for numbers, and why.
ASKS = {"dlg": "L-BFGS and its line search decide on the host", "idlg": "L-BFGS and its line search decide on the host"}


@each(name for name in ATTACKS if CARDS[name].iterative and name not in ASKS)
def test_a_step_waits_for_no_answer_of_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a GPU stands still once a step, since nothing is queued while the program waits.

    Checks of convergence have a cadence of their own. torch's Adam reads its counter of steps, one for each variable,
    which lies on the CPU.
    """
    monkeypatch.setattr(loop._Best, "cheap_to_check", property(lambda _: False, lambda *_: None), raising=False)
    model = build(CASES[name], torch.float32)
    observation = share(CASES[name], model, *CASES[name].batch(0, 1))
    variables: list[int] = []
    waited = {}
    for steps in (2, 6):
        settings = quick(name) | {
            "steps": steps,
            "callback": lambda progress: variables.append(len(progress.variables)),
        }
        with Waits() as waits:
            ATTACKS[name](model, observation, generator=seeded(), **settings)
        waited[steps] = sum(waits.counted.values())
    phases = 1 + (name == "gias")  # it searches latents, then a decoder's weights
    assert waited[6] - waited[2] <= 4 * max(variables) * phases


def test_an_attack_whose_steps_wait_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the test above passes whatever an attack does."""
    with Waits() as waits:
        float(torch.ones(()))
        torch.ones(2).nonzero()
    assert sum(waits.counted.values()) == 2
