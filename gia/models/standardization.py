"""Standardization as the first layer of a victim, so that victims take images in [0, 1]."""

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

    Names, parameters and state_dict are those of `net`: the first layer is a forward pre-hook with two buffers that are
    not saved, so it follows `.to()`, deepcopy, pickle and `torch.func.functional_call`, and has no place in a gradient.

    Args:
        mean: one number, or one a channel.
        std: likewise, positive.

    Raises:
        ValueError: lengths that differ, a value that is not finite, a std that is not positive, or a net that
            standardizes already.
    """
    means, stds = ([float(x) for x in ([v] if isinstance(v, (int, float)) else v)] for v in (mean, std))
    if len(means) != len(stds) or not means:
        raise ValueError(f"mean and std must be one number or one a channel, not {len(means)} and {len(stds)} numbers")
    if not all(map(math.isfinite, means)) or not all(math.isfinite(s) and s > 0 for s in stds):
        raise ValueError(f"mean must be finite and std positive, not {means} and {stds}")
    if hasattr(net, _MEAN):
        raise ValueError("net standardizes its input already")
    like = next(net.parameters())
    copied = copy.deepcopy(net)
    copied.register_buffer(_MEAN, torch.tensor(means, dtype=like.dtype, device=like.device), persistent=False)
    copied.register_buffer(_STD, torch.tensor(stds, dtype=like.dtype, device=like.device), persistent=False)
    copied.register_forward_pre_hook(_standardize_input)
    return copied


def standardization(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and std, each (C,) or (1,), of a model made by `standardize`; (0,), (1,) of any other model."""
    if hasattr(model, _MEAN):
        return model.get_buffer(_MEAN).clone(), model.get_buffer(_STD).clone()
    like = next(model.parameters())
    return like.new_zeros(1), like.new_ones(1)


def _standardize_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *rest = inputs
    mean, std = module.get_buffer(_MEAN), module.get_buffer(_STD)
    return (images - mean[:, None, None]) / std[:, None, None], *rest
