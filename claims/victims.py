"""Honest models and real images, drawn by Hypothesis for the claims about what a malicious server does to them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gia.data import load_cached
from gia.federated import share_gradient
from gia.federated.server import classifier
from gia.models import build

#: Data set -> height and width of its images in pixels.
SOURCES = {"cifar10-samples": 16, "faces": 16, "photos": 16, "digits": 8}

#: The arguments of `drawn`.
VICTIMS: dict[str, st.SearchStrategy[Any]] = {
    "source": st.sampled_from(sorted(SOURCES)),
    "name": st.sampled_from(["convnet", "mlp", "resnet10"]),
    "activation": st.sampled_from(["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"]),
    "batch_size": st.integers(2, 16),
    "dtype": st.sampled_from(["float32", "float64"]),
    "seed": st.integers(0, 2**32 - 1),
}


class Drawn(NamedTuple):
    """An honest model, a client's batch, and the images of the data that are not in it (N, C, H, W).

    `generator` has drawn the model and the batch, and goes on drawing what is made of them.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    others: Tensor
    classes: int
    generator: torch.Generator


def drawn(source: str, name: str, activation: str, batch_size: int, dtype: str, seed: int) -> Drawn:
    """A model of width 8 and a batch of these images."""
    g = torch.Generator().manual_seed(seed)
    size, data = SOURCES[source], load_cached(source, image_size=SOURCES[source])
    chosen = torch.randperm(len(data.labels), generator=g)
    images, labels = data.images[chosen].to(getattr(torch, dtype)), data.labels[chosen]
    model = build(
        name,
        activation=activation,
        generator=g,
        dtype=images.dtype,
        num_classes=data.num_classes,
        image_size=size,
        channels=images.shape[1],
        width=8,
    ).eval()
    return Drawn(model, images[:batch_size], labels[:batch_size], images[batch_size:], data.num_classes, g)


def first_alone(labels: Tensor, classes: int) -> Tensor:
    """The labels (N,), where the images that share the label of the first one get the next label instead."""
    alike = labels == labels[0]
    alike[0] = False
    return torch.where(alike, (labels[0] + 1) % classes, labels)


def before_classifier(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The shared gradient without the classifier's part, one vector, times the number of images."""
    observation = share_gradient(model, images, labels)
    before = [g.flatten() for key, g in observation.gradients.items() if not key.startswith(f"{classifier(model)}.")]
    return len(images) * torch.cat(before).double()
