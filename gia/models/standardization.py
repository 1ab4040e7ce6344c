"""Standardization as the first layer of a victim, so that the victim takes images in [0, 1]."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["standardization", "standardize"]

_MEAN, _STD = "standardization_mean", "standardization_std"


def standardize(net: nn.Module, *, mean: float | Sequence[float], std: float | Sequence[float]) -> nn.Module:
    """A copy of `net` that computes net((images - mean) / std), per channel.

    Names, parameters and state_dict stay those of `net`. The first layer is a forward pre-hook with two buffers that
    are not part of the state_dict. It follows `.to()`, deepcopy, pickle and `torch.func.functional_call`, and has no
    gradient.

    Args:
        net: takes images (N, C, H, W); it is not changed.
        mean: one number, or one per channel.
        std: one positive number, or one per channel.

    Raises:
        ValueError: lengths that differ, a value that is not finite, a std that is not positive, or a net that
            standardizes already.

    >>> import torch, gia
    >>> net = torch.nn.Flatten()
    >>> net.register_parameter("weight", torch.nn.Parameter(torch.ones(1)))
    >>> gia.models.standardize(net, mean=0.5, std=0.25)(torch.ones(1, 1, 1, 2))
    tensor([[2., 2.]])
    """
    means, stds = ([float(x) for x in ([v] if isinstance(v, (int, float)) else v)] for v in (mean, std))
    if len(means) != len(stds) or not means:
        raise ValueError(f"mean, std: expected one number each or one per channel, got {len(means)} and {len(stds)}")
    if not all(map(math.isfinite, means)):
        raise ValueError(f"mean: expected finite numbers, got {means}")
    if not all(math.isfinite(s) and s > 0 for s in stds):
        raise ValueError(f"std: expected positive finite numbers, got {stds}")
    if _standardized(net) is not None:
        raise ValueError("net: expected one that does not standardize its input yet, got a standardized one")
    like = next(net.parameters())
    copied = copy.deepcopy(net)
    copied.register_buffer(_MEAN, torch.tensor(means, dtype=like.dtype, device=like.device), persistent=False)
    copied.register_buffer(_STD, torch.tensor(stds, dtype=like.dtype, device=like.device), persistent=False)
    copied.register_forward_pre_hook(_standardize_input)
    return copied


def standardization(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Copies of the mean and std, each (C,) or (1,), of a model that `standardize` made; 0 and 1 of any other model.

    A wrapper around a standardized model, such as its adapted form, counts as standardized.

    >>> import gia
    >>> [value.tolist() for value in gia.models.standardization(gia.models.pretrained("face-decoder"))]
    [[0.0], [1.0]]
    """
    if (module := _standardized(model)) is not None:
        return module.get_buffer(_MEAN).clone(), module.get_buffer(_STD).clone()
    like = next(model.parameters())
    return like.new_zeros(1), like.new_ones(1)


def _standardized(model: nn.Module) -> nn.Module | None:
    """The module that standardizes the model's input: itself, or the only one in its wrappers, as peft's are."""
    while _MEAN not in model._buffers:
        children = list(model.children())
        if len(children) != 1 or list(model.parameters(recurse=False)):
            return None
        (model,) = children
    return model


def _standardize_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *rest = inputs
    mean, std = module.get_buffer(_MEAN), module.get_buffer(_STD)
    return (images - mean[:, None, None]) / std[:, None, None], *rest
