"""Trap weights: rows that few images activate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gia
from gia.federated.server import trap_weights
from tests.contracts.cases import CLASSES, tangled
from tests.contracts.snapshots import bits, global_state, model_state


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def test_half_of_each_row_is_negative_and_the_other_half_a_scaled_copy():
    """Boenisch et al., 2023, Sec. V. If it fails, rows are no traps: their sum is not a little below zero."""
    model = gia.models.build(
        "mlp", num_classes=CLASSES, image_size=8, width=50, generator=seeded(), dtype=torch.float64
    )
    trapped = trap_weights(model, scale=0.9, generator=seeded()).layers[0]
    for row in trapped.weight:
        negative, positive = row[row < 0], row[row > 0]
        assert len(negative) == len(positive) == 96
        torch.testing.assert_close(positive.sort().values, 0.9 * (-negative).sort().values)
    assert not trapped.bias.any()
    size = (trapped.weight[trapped.weight < 0].square().mean()).sqrt()
    torch.testing.assert_close(size, model.layers[0].weight.std(), rtol=0.05, atol=0)
    assert not (trapped.weight[0] < 0).equal(trapped.weight[1] < 0)


def test_fewer_neurons_fire_and_more_of_them_for_one_image():
    """Sixteen images at 32 pixels. If it fails, the trap is not worth its name.

    Measured with three victims: 8 % of honest neurons fire for one image alone, and of trapped ones 20 %/30 %/5 % at
    scale .95/.97/.99.
    """
    images = gia.data.load("cifar10-samples").images[:16]
    model = gia.models.build("mlp", num_classes=CLASSES, image_size=32, width=500, generator=seeded())
    single = {}
    for name, victim in {"honest": model, "trapped": trap_weights(model, scale=0.97, generator=seeded())}.items():
        active = victim.layers[0](images.flatten(1)) > 0
        single[name] = float((active.sum(0) == 1).double().mean())
        if name == "trapped":
            assert active.double().mean() < 0.2
    assert single["trapped"] > 2 * single["honest"]


def test_the_given_model_is_left_alone_and_the_generator_decides():
    """If it fails, a server's edit changes the model that it was given, or cannot be repeated."""
    model = tangled()
    before = model_state(model), global_state()
    first, again, other = (trap_weights(model, generator=seeded(seed))[1].weight for seed in (0, 0, 1))
    assert (model_state(model), global_state()) == before
    assert bits(first) == bits(again) != bits(other)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (nn.Conv2d(3, 3, 3), {}, r"layer: expected a linear layer with a bias .* one of \[\], got None"),
        (nn.Linear(4, 3, bias=False), {}, "layer: expected a linear layer with a bias"),
        (tangled(), {"layer": "3"}, "layer: expected a linear layer with a bias .*, got '3'"),
        (tangled(), {"scale": 0.0}, "scale: expected a positive number, got 0"),
    ],
)
def test_what_cannot_be_trapped_is_named(model, settings, message):
    """If it fails, a model without the layer is sent as it was."""
    with pytest.raises(ValueError, match=message):
        trap_weights(model, generator=seeded(), **settings)
