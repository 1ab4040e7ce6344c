"""What the claims about Sigmoid rest on: in train mode a single image shows only where a residual net is not linear."""

from __future__ import annotations

import pytest
import torch

import gia
from gia.theory import as_rows, cosines


@pytest.mark.parametrize(
    ("name", "training", "alike"),
    [("resnet10", True, True), ("resnet10", False, False), ("resnet8", True, False)],
    ids=["train", "eval", "shortcuts that skip pixels"],
)
def test_a_linear_residual_net_in_train_mode_gives_the_same_gradient_for_every_single_image(name, training, alike):
    """Normalized over its own places, each map has the mean 0, and the mean over places is all that the classifier
    gets; but not over every second place, which is what ResNet-8's shortcuts take. If it fails, the level "linear" of
    `sigmoid.mechanism` says something else than the register's reason."""
    victim = {"name": name, "activation": "linear", "width": 4, "num_classes": 10, "image_size": 16}
    model = gia.models.build(generator=torch.Generator().manual_seed(0), dtype=torch.float64, **victim)
    data = gia.data.load("cifar10-samples", image_size=16)
    images, label = data.images[:3].double(), torch.tensor([4])
    shared = [gia.share_gradient(model, images[i : i + 1], label, training=training) for i in range(3)]
    least = float(cosines(as_rows(shared)).min())
    assert (least == pytest.approx(1, abs=1e-9)) == alike
