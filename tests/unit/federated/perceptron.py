"""A private batch and a small perceptron, for tests of clients."""

from __future__ import annotations

import torch
from torch import nn

from tests.contracts.cases import CLASSES, SIZE, private

IMAGES, LABELS = private(torch.float64, 0, 1, 2, 3, 4, 5)


def perceptron(seed=0, dtype=torch.float64):
    """Two linear layers with a Sigmoid."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 7), nn.Sigmoid(), nn.Linear(7, CLASSES)).to(dtype)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=g) - 0.5)
    return layers
