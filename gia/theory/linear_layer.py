"""What the gradient of a biased linear layer gives away: the quotient gW_i / gb_i, for one sample and for several."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def weighted_average(inputs: Tensor, signals: Tensor) -> Tensor:
    """What gW_i / gb_i equals for y = Wx + b: the inputs' average, weighted by each one's dL/dy_i.

    gW_i = sum_n s_ni x_n and gb_i = sum_n s_ni, so the quotient is sum_n (s_ni / gb_i) x_n. The weights add up to 1 but
    may be negative; with one sample active the quotient is that sample (arXiv 2503.11514, Fig. 2).

    Args:
        inputs: x, (N, d).
        signals: s = dL/dy, (N, k), N >= 1.

    Returns (k, d); NaN in the rows of neurons whose signals are all zero or cancel.

    Raises:
        ValueError: if the shapes disagree.
    """
    _check(inputs, signals)
    total = signals.sum(0)
    weights = torch.where(total == 0, torch.nan, signals / total)
    return weights.T @ inputs


def conditioning(signals: Tensor) -> Tensor:
    """How much rounding the quotient of each neuron magnifies: sum_n |s_ni| / |sum_n s_ni|, (N, k) -> (k,), >= 1.

    1 where all signals have one sign, infinite where they cancel, NaN where all are zero.
    """
    return signals.abs().sum(0) / signals.sum(0).abs()


def signals(model: nn.Module, layer: nn.Linear, images: Tensor, labels: Tensor) -> Tensor:
    """s = dL/dy (N, k) of a linear layer inside `model`, L the mean cross-entropy of the batch.

    It needs the private batch, so it explains what a gradient gives away; no attack can compute it.
    """
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        loss = cross_entropy(model(images), labels)
    finally:
        handle.remove()
    return torch.autograd.grad(loss, outputs[0])[0]


def _check(inputs: Tensor, signals: Tensor) -> None:
    if inputs.dim() != 2 or signals.dim() != 2 or len(inputs) != len(signals) or not len(inputs):
        raise ValueError(
            f"inputs and signals must have the shapes (N, d) and (N, k) with N >= 1, "
            f"but have {tuple(inputs.shape)} and {tuple(signals.shape)}"
        )
