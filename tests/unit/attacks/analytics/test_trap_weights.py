"""Trap weights give more images away than the honest layer, and what is believed to be exact is."""

from __future__ import annotations

import torch

import gia
from gia.attacks.analytics import linear_layer, trap_weights
from gia.federated import server


def test_a_trapped_layer_gives_more_images_away_than_an_honest_one():
    """Twenty real images, three victims, float64; 18 against 13 images are alone at some neuron. If it fails, the
    manipulation buys nothing, or averages pass for images."""
    data = gia.data.load("cifar10-samples", image_size=16)
    images, labels = data.images.double(), data.labels
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        options = {"num_classes": 10, "image_size": 16, "width": 500, "dtype": torch.float64}
        honest = gia.models.build("mlp", generator=g, **options)
        trapped = server.trap_weights(honest, generator=g)
        counts = []
        for attack, model in ((linear_layer, honest), (trap_weights, trapped)):
            found = attack(model, gia.share_gradient(model, images, labels), generator=g)
            near = (found.images.flatten(1)[:, None] - images.flatten(1)[None]).abs().amax(2) <= 1e-9
            assert not (found.exact & ~near.any(1)).any()
            counts.append(int(near.any(0).sum()))
        assert counts[1] >= counts[0] + 2, counts
