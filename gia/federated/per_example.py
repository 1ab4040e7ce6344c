"""The share of a single image in a batch gradient: D-SNR and transmit-SNR (Garov et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from gia.federated.losses import Loss, check_labels
from gia.federated.recorder import Recorder, Use
from gia.federated.victims import differentiating, in_mode, outputs_of

__all__ = ["dominance", "norms", "transmit_snr"]


@differentiating()
def norms(
    model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, training: bool
) -> tuple[Recorder, list[Tensor]]:
    """A record of the forward pass, and the norms of what each image adds to the gradients of the weights it used.

    The norms follow from layer inputs and output derivatives, at about the cost of one training step. In evaluation
    mode an image adds its own gradient. With batch statistics the batch gradient is still a sum over images, but each
    term depends on the other images too.

    Args:
        model: not changed.
        images: (N, C, H, W).
        labels: (N,) int64.
        loss: (logits, labels) -> scalar.
        training: whether batch normalization uses the statistics of the batch.

    Returns:
        The record, and a tensor (N,) of norms for each of its uses, in the order of the forward pass.

    Raises:
        ValueError: the model does not run on the images, does not return logits (N, classes), or has no gradient.

    >>> import torch
    >>> from gia.federated.per_example import norms
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> images, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1])
    >>> norms(model, images, labels, loss=torch.nn.functional.cross_entropy, training=False)[1]
    [tensor([0., 0., 0.])]
    """
    with in_mode(model, training):
        with Recorder(images, taps=True) as recorder:
            logits = outputs_of(model, images)
        uses = recorder.uses
        check_labels(labels, logits, loss)
        if not uses:
            return recorder, []
        outputs, value = [use.outputs for use in uses], loss(logits, labels)
        if not value.requires_grad:
            raise ValueError("model: expected a forward pass that autograd records, got outputs without a gradient")
        signals = torch.autograd.grad(value, outputs, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        return recorder, [_norms(use, signal) for use, signal in zip(uses, signals, strict=True)]


def dominance(norms: Tensor) -> float:
    """D-SNR of one weight: the largest norm divided by the sum of the others plus 1e-6 (Garov et al., 2024).

    Args:
        norms: (N,), one per image.

    >>> import torch
    >>> from gia.federated.per_example import dominance
    >>> round(dominance(torch.tensor([1.0, 3.0, 1.0])), 3)
    1.5
    """
    largest = float(norms.max())
    return largest / (float(norms.sum()) - largest + 1e-6)


def transmit_snr(weight: Tensor) -> float:
    """Transmit-SNR, the largest max|w| / (sum|w| - max|w| + 1e-6) of a kernel of the first layer (Garov et al., 2024).

    Args:
        weight: (kernels, ...); a row of a linear layer counts as a kernel.

    >>> import torch
    >>> from gia.federated.per_example import transmit_snr
    >>> round(transmit_snr(torch.tensor([[1.0, 1.0, 1.0], [1.0, -4.0, 1.0]])), 3)
    2.0
    """
    sizes = weight.flatten(1).abs().double()
    largest = sizes.amax(1)
    return float((largest / (sizes.sum(1) - largest + 1e-6)).max())


def _norms(use: Use, signal: Tensor) -> Tensor:
    """Per-image norms of the weight's gradient, from the gradient or from two Gram matrices, whichever is smaller."""
    inputs, settings = use.inputs, use.settings
    count, rows, columns = len(inputs), len(use.weight), use.weight[0].numel()
    each: Tensor
    if settings is None:
        x, d = inputs.reshape(count, -1, columns), signal.reshape(count, -1, rows)
        if x.shape[1] == 1:
            each = x.flatten(1).norm(dim=1) * d.flatten(1).norm(dim=1)
            return each
        if _gram_is_smaller(x.shape[1], rows, columns):
            return _from_grams(x, d)
        each = (d.mT @ x).flatten(1).norm(dim=1)
        return each
    stride, padding, dilation, groups = settings
    if isinstance(padding, str):
        inputs, padding = _padded(inputs, use.weight, padding, dilation), 0
    if groups == 1 and _gram_is_smaller(signal[0, 0].numel(), rows, columns):
        return _from_grams(F.unfold(inputs, use.weight.shape[2:], dilation, padding, stride).mT, signal.flatten(2).mT)
    # Images as groups of one convolution, which takes a third of the time of unfolding them.
    gradient: Callable[..., Tensor] = conv2d_weight  # torch does not annotate it
    gathered = [tensor.reshape(1, -1, *tensor.shape[2:]) for tensor in (inputs, signal)]
    shape = (count * rows, *use.weight.shape[1:])
    gradients = gradient(gathered[0], shape, gathered[1], stride, padding, dilation, count * groups)
    each = gradients.view(count, -1).norm(dim=1)
    return each


def _gram_is_smaller(places: int, rows: int, columns: int) -> bool:
    return places * (rows + columns) <= rows * columns


def _from_grams(x: Tensor, d: Tensor) -> Tensor:
    norms: Tensor = ((x @ x.mT) * (d @ d.mT)).sum((1, 2)).clamp_min(0).sqrt()
    return norms


def _padded(inputs: Tensor, weight: Tensor, padding: str, dilation: Any) -> Tensor:
    """The inputs with the border that torch's "same" adds, an odd surplus at the end; "valid" adds nothing."""
    if padding == "valid":
        return inputs
    steps = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    pads: list[int] = []
    for step, size in zip(reversed(steps), reversed(weight.shape[2:]), strict=True):
        surplus = step * (size - 1)
        pads += [surplus // 2, surplus - surplus // 2]
    return F.pad(inputs, pads)
