"""The easy case of each attack: a small victim, real images and a few steps on which it must succeed in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gia
from tests.contracts.fresh import edited

SIZE = 8
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """What the battery needs to know of an attack beyond its card.

    Attributes:
        victim: arguments of `gia.models.build`, so that a fresh process can build it too.
        settings: of the attack, enough of a search to succeed; a `decoder` or an `inverter` is made of
            its arguments (`equipped`).
        quick: settings that replace some of them where success does not matter.
        reveal: what leaks.
        gain: decibels above the blind guess that images 0-3 must reach on average, about half of what was measured.
        largest: the most images that a batch of it may hold, None for any number.
        edit: what a malicious server does to the victim, by name in `gia.federated.server` and its settings.
        disturbed: makes a victim in a state that is easily disturbed, of a kind that this attack takes.
        package: an optional package that its victim needs.
        exempt: contract -> the reason why this attack is excused from it.
    """

    victim: Mapping[str, Any]
    settings: Mapping[str, Any]
    quick: Mapping[str, Any]
    reveal: tuple[str, ...]
    gain: float
    largest: int | None = None
    edit: Mapping[str, Any] = field(default_factory=dict)
    disturbed: Callable[[], nn.Module] | None = None
    package: str | None = None
    exempt: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        """Whether the package that its victim needs is not installed."""
        return self.package is not None and find_spec(self.package) is None

    def batch(self, *chosen: int) -> tuple[int, ...]:
        """As many of the chosen images as it may hold."""
        return chosen[: self.largest]


def tangled_transformer() -> nn.Module:
    """As `tangled`, with patches, position embeddings, attention and a frozen class token."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"patch": 4, "width": 72, "depth": 1, "heads": 2}
    model = gia.models.build("vit_tiny", num_classes=CLASSES, image_size=SIZE, **sizes, generator=generator)
    model.set_submodule("pos_drop", nn.Dropout(0.5))
    model.set_submodule("norm", nn.Sequential(nn.LayerNorm(72), nn.RReLU()))
    model.blocks[0].eval()
    model.cls_token.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.head.register_forward_hook(lambda *_: None)
    return model


CASES = {
    # Measured: 5.4 and 6.1 dB above the blind guess (generators 0-3, 10-13), 2.9 dB for the worst image.
    "inverting_gradients": Case(
        victim={"name": "convnet", "width": 16, "activation": "sigmoid", "init": "dlg"},
        settings={"steps": 40},
        quick={"steps": 3},
        reveal=("labels",),
        gain=3,
    ),
    # Measured: 4.6 and 5.3 dB above the blind guess (generators 0-3, 10-13), 2.4 dB for the worst image.
    "gradinversion": Case(
        victim={"name": "convnet", "width": 16, "activation": "sigmoid", "init": "dlg"},
        settings={"steps": 40},
        quick={"steps": 3},
        reveal=("labels",),
        gain=2.5,
    ),
    # Measured: 17.3 and 17.5 dB above the blind guess (generators 0-3, 10-13), 14.1 dB for the worst image.
    "ci_net": Case(
        victim={"name": "convnet", "width": 16, "activation": "sigmoid", "init": "dlg"},
        settings={"steps": 25, "lr": 3e-3},
        quick={"steps": 3},
        reveal=("labels",),
        gain=8,
        exempt={"the start is an image": "it searches a decoder's weights"},
    ),
    # Measured: 6.2 dB above the blind guess, 2.9 dB for the worst image; nothing is drawn by the attack.
    "learning_to_invert": Case(
        victim={"name": "mlp", "width": 16, "activation": "sigmoid"},
        settings={
            "inverter": {
                "copies": 4,
                "hidden": (128,),
                "hashed": 512,
                "epochs": 30,
                "lr": 3e-3,
                "training_batch": 64,
            }
        },
        quick={"inverter": {"copies": 1, "hidden": (8,), "hashed": 32, "epochs": 1}},
        reveal=(),
        gain=3,
        exempt={"labels out of range": "labels are not used"},
    ),
    # A decoder that knows nothing: all of what is found comes from the gradient. Measured: 10.2 and 10.4 dB above the
    # blind guess (generators 0-3, 10-13), 7.1 dB for the worst image.
    "ggl": Case(
        victim={"name": "convnet", "width": 16, "activation": "sigmoid", "init": "dlg"},
        settings={
            "optimizer": "adam",
            "steps": 40,
            "lr": 0.3,
            "bound": 4.0,
            "decoder": {"latent_shape": (3, SIZE, SIZE)},
        },
        quick={"steps": 3},
        reveal=("labels",),
        gain=5,
        exempt={"the start is an image": "it searches latents"},
    ),
    # An untrained decoder stands in for a trained one, which would cost more. Measured: 14.2 and 14.0 dB above the
    # blind guess (generators 0-3, 10-13), 13.1 dB for the worst image.
    "gias": Case(
        victim={"name": "convnet", "width": 16, "activation": "sigmoid", "init": "dlg"},
        settings={
            "steps": 40,
            "latent_steps": 5,
            "latent_lr": 0.1,
            "decoder": {"image_shape": (3, SIZE, SIZE), "batch_size": 1},
        },
        quick={"steps": 3, "latent_steps": 1},
        reveal=("labels",),
        gain=7,
        exempt={"the start is an image": "it searches latents and a decoder's weights"},
    ),
    # Measured: 21 and 19 dB above the blind guess, 4.4 dB for the worst image, with the labels found on the way.
    "dlg": Case(
        victim={"name": "lenet", "width": 8, "activation": "sigmoid", "init": "dlg"},
        settings={"steps": 3},
        quick={"steps": 1},
        reveal=(),
        gain=9,
    ),
    # Measured: 32 and 30 dB above the blind guess, 18 dB for the worst image.
    "idlg": Case(
        victim={"name": "lenet", "width": 8, "activation": "sigmoid", "init": "dlg"},
        settings={"steps": 3},
        quick={"steps": 1},
        reveal=(),
        gain=15,
        largest=1,
        exempt={"labels out of range": "labels that leaked are not read"},
    ),
    # Exact; PSNR is capped at 100 dB, which is 86 dB above the blind guess.
    "linear_layer": Case(
        victim={"name": "mlp", "width": 16},
        settings={},
        quick={},
        reveal=(),
        gain=80,
        exempt={
            "labels out of range": "labels are not used",
            "zero gradients": "reported as a layer without an active neuron",
        },
    ),
    # Exact, as above.
    "robbing_the_fed": Case(
        victim={"name": "mlp", "width": 16},
        settings={},
        quick={},
        reveal=(),
        gain=80,
        edit={"name": "imprint", "image_shape": (3, SIZE, SIZE), "bins": 32},
        exempt={"labels out of range": "labels are not used", "zero gradients": "reported as bins without a signal"},
    ),
    "trap_weights": Case(
        victim={"name": "mlp", "width": 16},
        settings={},
        quick={},
        reveal=(),
        gain=80,
        edit={"name": "trap_weights"},
        exempt={
            "labels out of range": "labels are not used",
            "zero gradients": "reported as a layer without an active neuron",
        },
    ),
    # Exact up to rounding in float32, too.
    "patch_embedding": Case(
        victim={"name": "vit_tiny", "patch": 4, "width": 72, "depth": 1, "heads": 2},
        settings={},
        quick={},
        reveal=(),
        gain=50,
        disturbed=tangled_transformer,
        package="timm",
        exempt={"labels out of range": "labels are not used"},
    ),
    # Exact up to rounding, which is 40 dB above the blind guess in float32.
    "patch_span": Case(
        victim={"name": "vit_tiny", "patch": 4, "width": 72, "depth": 1, "heads": 2},
        settings={},
        quick={},
        reveal=(),
        gain=20,
        disturbed=tangled_transformer,
        package="timm",
        exempt={"labels out of range": "labels are not used"},
    ),
    # Measured: 6.7 and 8.6 dB above the blind guess (generators 0-3, 10-13), 4.0 dB for the worst image.
    "fishing": Case(
        victim={"name": "convnet", "width": 16, "activation": "sigmoid", "init": "dlg"},
        settings={"steps": 40, "target": 0},
        quick={"steps": 3},
        reveal=(),
        gain=3,
        edit={"name": "fish_feature", "decoy": 9, "cutoff": -1e4},  # any image is above the cut-off
        exempt={
            "labels out of range": "labels are not used",
            "an image for each": "the isolated image alone is reconstructed",
            "simulated local training": "the target is alone in every step: an update is matched as its gradient",
        },
    ),
}


@lru_cache
def pictures() -> gia.data.Images:
    """Twenty CIFAR-10 test images, resized."""
    return gia.data.load("cifar10-samples", image_size=SIZE)


def private(dtype: torch.dtype, *chosen: int) -> tuple[Tensor, Tensor]:
    """Some of them with their labels."""
    images = pictures()
    return images.images[list(chosen)].to(dtype), images.labels[list(chosen)]


def build(case: Case, dtype: torch.dtype) -> nn.Module:
    """The victim of a case as its server sends it, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    options = {"num_classes": CLASSES, "image_size": SIZE, **case.victim}
    return edited(gia.models.build(generator=generator, dtype=dtype, **options).eval(), case.edit)


def share(case: Case, model: nn.Module, *chosen: int, **settings: Any) -> gia.Observation:
    """What leaks of the chosen private images."""
    images, labels = private(next(model.parameters()).dtype, *chosen)
    return gia.share_gradient(model, images, labels, reveal=case.reveal, **settings)


def tangled() -> nn.Module:
    """A victim that every attack takes, in a state that is easily disturbed.

    Batch statistics, dropout and random slopes; its modules in different modes; a frozen parameter; a `.grad` left
    over; a hook.
    """
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * SIZE * SIZE, 12),
        nn.BatchNorm1d(12),
        nn.Sigmoid(),
        nn.Dropout(0.5),
        nn.RReLU(),
        nn.Linear(12, CLASSES),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    model[3].eval()
    model[6].bias.requires_grad_(False)
    model[1].weight.grad = torch.ones_like(model[1].weight)
    model[6].register_forward_hook(lambda *_: None)
    return model


def disturbed(name: str) -> nn.Module:
    """A victim in a state that is easily disturbed, as the server of this attack's case sends it."""
    return edited((CASES[name].disturbed or tangled)(), CASES[name].edit)


def each(names: Iterable[str]) -> Any:
    """The parameter `name` of a test; a case whose package is missing is skipped."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name,
                marks=pytest.mark.skipif(CASES[name].missing, reason=f"its victim needs {CASES[name].package}"),
            )
            for name in sorted(names)
        ],
    )
