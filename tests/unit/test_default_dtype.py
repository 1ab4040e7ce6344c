"""What a generator decides does not depend on torch's default dtype, which belongs to the user's code."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

import gia
from gia.experiment import Exchange, Round
from gia.experiment.controls import path_works
from tests.unit.experiment.toy import BLOCK, PROTOCOL

DIGITS = gia.data.load("digits", image_size=8).take(torch.arange(60))
SHAPE = (1, 8, 8)

#: Functions of torch that draw numbers in the default dtype unless they are told another one.
DRAWS = {"rand", "randn"}


def seeded():
    """A generator."""
    return torch.Generator().manual_seed(0)


def mlp():
    """A victim."""
    return gia.models.build("mlp", num_classes=10, image_size=8, channels=1, width=12, generator=seeded())


def imprint():
    """The network of a server with an imprint module."""
    return gia.federated.server.imprint(mlp(), image_shape=SHAPE, bins=4, generator=seeded())


def trap_weights():
    """The network of a server with trap weights."""
    return gia.federated.server.trap_weights(mlp(), generator=seeded())


def decoder():
    """A trained decoder."""
    return gia.models.train_decoder(DIGITS, latent=4, width=16, epochs=1, generator=seeded())


def overparameterized():
    """The decoder of CI-Net."""
    return gia.models.OverParameterized(image_shape=SHAPE, batch_size=1, generator=seeded())


def inverter():
    """A trained inverter."""
    images, settings = DIGITS.images, {"hidden": (8,), "epochs": 1, "training_batch": 4}
    return gia.attacks.train_inverter(mlp(), images, DIGITS.labels, batch_size=1, generator=seeded(), **settings)


def fitted():
    """A trained victim."""
    settings = {"lr": 0.1, "epochs": 1, "batch_size": 20, "generator": seeded()}
    return gia.federated.fit(mlp(), DIGITS, held_out=DIGITS, **settings).model


def new_classifier():
    """A trunk with a classifier of other classes."""
    settings = {"num_classes": 7, "image_size": 8, "patch": 4, "width": 16, "depth": 1, "generator": seeded()}
    return gia.models.add_classifier(gia.models.build("vit_tiny", **settings), num_classes=3, generator=seeded())


def noisy_gradient():
    """What a client with noise in its gradient shares."""
    asked = gia.federated.Client(
        DIGITS.images[:2],
        DIGITS.labels[:2],
        defenses=[gia.defenses.parse("noise=0.1"), gia.defenses.parse("quantize=4")],
        defense_generator=seeded(),
    )
    return asked.answer(mlp())


def placebo_noise():
    """The images of the placebo attacker that returns noise."""
    exchange = Exchange(round := Round(PROTOCOL, BLOCK), round.private)
    (answer, *_) = exchange.answers
    return exchange.placebos.returned("noise", *answer.truth, target=None, number=0)


def control():
    """The positive control of a search, which compares with random images and noise."""
    return path_works(PROTOCOL, BLOCK)


MADE = [
    *(mlp, imprint, trap_weights, decoder, overparameterized, inverter, fitted, new_classifier),
    *(noisy_gradient, placebo_noise, control),
]


def contents(made):
    """Tensors of a result by name, or the result itself where it holds none."""
    if isinstance(made, torch.nn.Module):
        return made.state_dict()
    if isinstance(made, gia.Observation):
        return made.gradients
    return {"": made} if isinstance(made, torch.Tensor) else repr(dataclasses.asdict(made))


@pytest.mark.parametrize("make", MADE)
def test_the_default_dtype_does_not_change_what_a_seed_gives(make):
    """If it fails, a user who sets torch's default dtype to float64 gets other weights, images or controls, or none."""
    expected = contents(make())
    torch.set_default_dtype(torch.float64)
    try:
        found = contents(make())
    finally:
        torch.set_default_dtype(torch.float32)
    if isinstance(expected, str):
        assert found == expected
        return
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].tolist()) == (tensor.dtype, tensor.tolist()), name


def test_every_draw_names_its_dtype():
    """If it fails, a call draws in torch's default dtype, and other numbers where a user's code has set another one."""
    unnamed = []
    for path in sorted(Path(gia.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in DRAWS:
                named = "dtype" in [keyword.arg for keyword in call.keywords]
                unnamed += [] if named else [f"{path}:{call.lineno}: {ast.unparse(call)}"]
    assert not unnamed
