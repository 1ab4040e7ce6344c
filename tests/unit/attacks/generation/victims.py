"""Small victims of digits."""

from __future__ import annotations

import torch
from torch import nn

import gia

DIGITS = gia.data.load("digits")


def victim(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The paper's victim of a learned inverter, narrow."""
    generator = torch.Generator().manual_seed(seed)
    options = {"num_classes": 10, "image_size": 8, "channels": 1, "width": 4, "activation": "sigmoid", "init": "dlg"}
    return gia.models.build("lenet", generator=generator, dtype=dtype, **options)


def normalized(dtype: torch.dtype) -> nn.Module:
    """A victim with batch statistics, a frozen parameter and RReLU."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.RReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(108, 10)
    ).to(dtype)
    with torch.no_grad():
        for value in [*net.parameters(), net[1].running_mean]:
            value.copy_(torch.randn(value.shape, generator=generator) / 3)
    net[5].bias.requires_grad_(False)
    return net
