"""Trap weights (Boenisch et al., EuroS&P 2023): a linear layer whose neurons fire rarely, and then for one image."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["trap_weights"]


def trap_weights(
    model: nn.Module, *, layer: str | None = None, scale: float = 0.95, generator: torch.Generator
) -> nn.Module:
    """A copy of `model` with trap weights in a linear layer (Boenisch et al., 2023).

    In each row a random half of the weights is negative, -|z| with normal z. The other half is positive, `scale` times
    the same numbers |z| in another order. The row's sum is a little below 0, so few images activate the neuron. Weights
    keep the standard deviation of the layer; biases become 0.

    Args:
        model: has a linear layer with a bias that sees the image; it is not changed.
        layer: name of that layer; None takes the first linear layer.
        scale: positive; neurons fire more rarely the smaller it is. With 500 neurons and 64 photo crops of 32 px, 16
            images are the only one to activate some neuron of an honest layer; with trap weights these are 28, 35 and 0
            images for scale .95, .97 and .99.
        generator: source of the weights.

    Returns:
        The model to send.

    Raises:
        ValueError: a layer that is not a linear layer with a bias and at least two inputs, or `scale` <= 0.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> sent = gia.federated.server.trap_weights(model, generator=g)
    >>> bool((sent.layers[0].weight.sum(1) < 0).all()), bool(sent.layers[0].bias.any())
    (True, False)
    """
    if not scale > 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    copied = copy.deepcopy(model)
    linear = {name: module for name, module in copied.named_modules() if isinstance(module, nn.Linear)}
    target = next(iter(linear.values()), None) if layer is None else linear.get(layer)
    if target is None or target.bias is None or target.in_features < 2:
        raise ValueError(
            f"layer: expected a linear layer with a bias and at least two inputs, one of {list(linear)}, got {layer!r}"
        )
    rows, inputs = target.weight.shape
    half = inputs // 2

    def shuffled(columns: int) -> Tensor:
        return torch.rand(rows, columns, generator=generator, device=generator.device, dtype=torch.float32).argsort(1)

    with torch.no_grad():
        sizes = torch.randn(
            rows, inputs - half, generator=generator, device=generator.device, dtype=torch.float32
        ).abs()
        values = torch.cat([-sizes, scale * sizes.gather(1, shuffled(inputs - half))[:, :half]], 1)
        values = values.gather(1, shuffled(inputs))
        target.weight.copy_(values.to(target.weight) * target.weight.std())
        target.bias.zero_()
    return copied
