"""Trap weights (Boenisch et al., EuroS&P 2023): a linear layer whose neurons rarely fire, and then for one image."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def trap_weights(
    model: nn.Module, *, layer: str | None = None, scale: float = 0.95, generator: torch.Generator
) -> nn.Module:
    """A copy of `model` with trap weights in a linear layer (Boenisch et al., 2023).

    In each row a random half of the weights is negative, minus the size of a normal number; the other half is positive,
    `scale` times the same numbers in another order. The row's sum is a little below 0, so few images activate it. The
    standard deviation is that of the layer's own weights. Biases become 0.

    Args:
        model: has a linear layer with a bias that sees the image; it is not changed.
        layer: name of that layer; None takes the first linear layer.
        scale: positive, the smaller the rarer a neuron fires. With 500 neurons on 64 photo crops of 32 px, 16 images
            are alone at some honest neuron, and 28, 35 and 0 at trapped ones of scale .95, .97 and .99.
        generator: for the weights.

    Raises ValueError for a layer that is no linear layer with a bias and at least two inputs, or `scale` <= 0.
    """
    if not scale > 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    copied = copy.deepcopy(model)
    linear = {name: module for name, module in copied.named_modules() if isinstance(module, nn.Linear)}
    target = next(iter(linear.values()), None) if layer is None else linear.get(layer)
    if target is None or target.bias is None or target.in_features < 2:
        raise ValueError(f"layer: expected a linear layer with a bias, got {layer!r}; there are {list(linear)}")
    rows, inputs = target.weight.shape
    half = inputs // 2

    def shuffled(columns: int) -> Tensor:
        return torch.rand(rows, columns, generator=generator, device=generator.device).argsort(1)

    with torch.no_grad():
        sizes = torch.randn(rows, inputs - half, generator=generator, device=generator.device).abs()
        values = torch.cat([-sizes, scale * sizes.gather(1, shuffled(inputs - half))[:, :half]], 1)
        values = values.gather(1, shuffled(inputs))
        target.weight.copy_(values.to(target.weight) * target.weight.std())
        target.bias.zero_()
    return copied
