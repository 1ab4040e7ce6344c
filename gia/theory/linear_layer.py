"""What the gradient of a linear layer with bias reveals: the quotient gW_i / gb_i, for one sample and for several."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def weighted_average(inputs: Tensor, signals: Tensor) -> Tensor:
    """The value of gW_i / gb_i for y = Wx + b: the average of the inputs, weighted by dL/dy_i of each.

    gW_i = sum_n s_ni x_n and gb_i = sum_n s_ni, so the quotient is sum_n (s_ni / gb_i) x_n. The weights add up to 1 but
    may be negative. If only one sample has a signal, the quotient is that sample (arXiv 2503.11514, Fig. 2).

    Args:
        inputs: x, (N, d).
        signals: s = dL/dy, (N, k), N >= 1.

    Returns:
        Tensor (k, d); NaN in the rows of neurons whose signals are all zero or cancel.

    Raises:
        ValueError: the shapes disagree.

    >>> import torch, gia
    >>> inputs = torch.tensor([[1.0, 0.0], [5.0, 8.0]])
    >>> gia.theory.weighted_average(inputs, torch.tensor([[3.0, 0.0], [1.0, -1.0]]))
    tensor([[2., 2.],
            [5., 8.]])
    """
    _check(inputs, signals)
    total = signals.sum(0)
    weights = torch.where(total == 0, torch.nan, signals / total)
    return weights.T @ inputs


def conditioning(signals: Tensor) -> Tensor:
    """How much the quotient of each neuron magnifies rounding errors: sum_n |s_ni| / |sum_n s_ni|.

    Args:
        signals: s = dL/dy, (N, k).

    Returns:
        Tensor (k,), at least 1: 1 if all signals have one sign, infinite if they cancel, NaN if all are zero.

    >>> import torch, gia
    >>> gia.theory.conditioning(torch.tensor([[1.0, 3.0, 1.0], [2.0, -2.0, -1.0]]))
    tensor([1., 5., inf])
    """
    return signals.abs().sum(0) / signals.sum(0).abs()


def signals(model: nn.Module, layer: nn.Linear, images: Tensor, labels: Tensor) -> Tensor:
    """s = dL/dy of a linear layer inside a model, where L is the mean cross-entropy of the batch.

    It explains what a gradient reveals. An attack cannot compute it, because it needs the private batch.

    Args:
        model: maps images to logits.
        layer: a linear layer of the model that is called once per forward pass, with inputs (N, d).
        images: (N, C, H, W).
        labels: LongTensor (N,).

    Returns:
        Tensor (N, k), k the number of neurons of the layer.

    >>> import torch, gia
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> digits = gia.data.load("digits").take(torch.tensor([0, 1]))
    >>> seen = gia.theory.signals(model, model[1], digits.images, digits.labels)
    >>> tuple(seen.shape), bool(seen.sum(1).abs().max() < 1e-6)  # for logits: (softmax - one hot) / N
    ((2, 10), True)
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
            f"inputs, signals: expected shapes (N, d) and (N, k) with N >= 1, "
            f"got {tuple(inputs.shape)} and {tuple(signals.shape)}"
        )
