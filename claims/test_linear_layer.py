"""The input of a linear layer from its gradient, for one image and for several (arXiv 2503.11514, Sec. II-C)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn

from gia import pictures
from gia.attacks import linear_layer
from gia.data import load_cached
from gia.federated import Observation, share_gradient
from gia.harness.decide.counterexamples import exact
from gia.harness.plugin.claims import Claims
from gia.models import build
from gia.theory import conditioning, signals, weighted_average

SOURCES = {"cifar10-samples": 32, "imagenet-samples": 32, "faces": 24, "photos": 32, "digits": 8}

VICTIMS: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from(sorted(SOURCES)),
    "hidden": st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    "activation": st.sampled_from(["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"]),
    "seed": st.integers(0, 2**32 - 1),
}


def shared(
    source: str, hidden: tuple[int, ...], activation: str, seed: int, count: int
) -> tuple[nn.Module, Tensor, Observation, Tensor]:
    """A victim, some real images with labels, what they share, and each neuron's signals, all in float64."""
    g = torch.Generator().manual_seed(seed)
    data = load_cached(source, image_size=SOURCES[source])
    chosen = torch.randperm(len(data.labels), generator=g)[:count]
    images, labels = data.images[chosen].double(), data.labels[chosen]
    model = build(
        "mlp",
        num_classes=data.num_classes,
        image_size=SOURCES[source],
        channels=images.shape[1],
        hidden=hidden,
        activation=activation,
        generator=g,
        dtype=torch.float64,
    )
    first = model.get_submodule("layers.0")
    assert isinstance(first, nn.Linear)
    return model, images, share_gradient(model, images, labels), signals(model, first, images, labels)


def quotients(observation: Observation) -> Tensor:
    """gW_i / gb_i of the first layer."""
    return observation.gradients["layers.0.weight"] / observation.gradients["layers.0.bias"][:, None]


def error_where_one_image_is_active(count: int, **victim: Any) -> float:
    """Largest error of a pixel over the neurons that one image alone reaches; for one image also the attack's."""
    assume(count == 1 or victim["activation"] == "relu")  # no other activation leaves a neuron to one image alone
    model, images, observation, s = shared(count=count, **victim)
    alone = (s != 0).sum(0) == 1
    assume(bool(alone.any()))
    private = images.flatten(1)[(s != 0).int().argmax(0)]
    error = (quotients(observation) - private)[alone].abs().max()
    if count == 1:
        found = linear_layer(model, observation, generator=torch.Generator()).images
        error = torch.maximum(error, (found - images).abs().max())
    return float(error)


def error_of_the_average(count: int, **victim: Any) -> float:
    """Largest difference of a pixel from the weighted average, over what its cancellation magnifies."""
    _, images, observation, s = shared(count=count, **victim)
    active = observation.gradients["layers.0.bias"] != 0
    assume(bool(active.any()))
    error = (quotients(observation) - weighted_average(images.flatten(1), s)).abs().amax(1) / conditioning(s)
    return float(error[active].max())


def figure2(path: Path) -> Path:
    """The paper's Fig. 2: eight drawn images, each shared alone, then all at once (the eight strongest quotients)."""
    model, images, observation, _ = shared("cifar10-samples", hidden=(256,), activation="relu", seed=0, count=8)

    def found(observation: Observation) -> Tensor:
        return linear_layer(model, observation, generator=torch.Generator()).images[:8]

    labels = torch.zeros(1, dtype=torch.int64)  # any label gives the image away
    alone = torch.cat([found(share_gradient(model, image[None], labels)) for image in images])
    pictures.grid(path, {"private": images, "shared alone": alone, "shared at once": found(observation)})
    return path


@pytest.mark.claim("linear.exact")
def test_a_linear_layer_gives_a_single_image_away_exactly(claims: Claims) -> None:
    """x = gW_i / gb_i in any multilayer perceptron, alone or wherever no other image of the batch reaches neuron i."""
    claims.exact("linear.exact", error_where_one_image_is_active, VICTIMS | {"count": st.integers(1, 6)})


@pytest.mark.claim("linear.mixture")
def test_several_images_come_back_as_their_weighted_average(claims: Claims) -> None:
    """gW_i / gb_i is the average weighted by dL/dy_i; Fig. 2 is drawn with the verdict."""
    claims.without_attack()
    verdict = exact(claims.claim("linear.mixture"), error_of_the_average, VICTIMS | {"count": st.integers(2, 8)})
    claims.record(verdict, pictures=[figure2(claims.images / "linear.mixture.png")])
