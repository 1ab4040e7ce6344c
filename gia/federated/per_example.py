"""The share of a single image in a batch gradient: D-SNR and transmit-SNR (Garov et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from gia.federated.layers import set_mode
from gia.federated.losses import Loss, check_labels
from gia.federated.victims import differentiating, watch

__all__ = ["Recorder", "Use", "dominance", "norms", "operations", "transmit_snr"]


@dataclass(frozen=True, eq=False)
class Use:
    """One application of a linear layer or convolution.

    Attributes:
        weight, bias: the tensors that were applied; they need not be parameters of the model.
        inputs, outputs: the layer's input, detached, and its output, part of the autograd graph.
        settings: stride, padding, dilation and groups of a convolution; None for a linear layer.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    outputs: Tensor
    settings: tuple[Any, ...] | None


class Recorder(TorchFunctionMode):
    """Records the operations of a forward pass, whatever the classes and names of the modules.

    Args:
        taps: whether to record the uses of linear layers and convolutions in place of the names of operations. Each is
            then applied with a detached weight, so that a backward pass to its output computes no weight gradient.

    Attributes:
        uses: the recorded uses, in order.
        operations: names of the functions that were called, in order.

    >>> import torch
    >>> from gia.federated.per_example import Recorder
    >>> with Recorder(taps=True) as recorder:
    ...     _ = torch.nn.Linear(3, 2)(torch.zeros(4, 3))
    >>> recorder.uses[0].inputs.shape, recorder.uses[0].outputs.shape
    (torch.Size([4, 3]), torch.Size([4, 2]))
    """

    def __init__(self, *, taps: bool) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.operations: list[str] = []
        self._taps = taps

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Torch calls this in place of every function of tensors."""
        kwargs = kwargs or {}
        if not self._taps or func not in (F.linear, torch.conv2d):
            self.operations.append(getattr(func, "__name__", str(func)))
            return func(*args, **kwargs)
        given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False))
        given |= kwargs
        inputs, weight, bias = given["input"], given["weight"].detach(), given.get("bias")
        outputs = func(**(given | {"weight": weight, "bias": None if bias is None else bias.detach()}))
        if not outputs.requires_grad:
            outputs.requires_grad_()
        settings = tuple(given.get(name, default) for name, default in _CONV) if func is torch.conv2d else None
        self.uses.append(Use(weight, bias, inputs.detach(), outputs, settings))
        return outputs.clone()  # an in-place activation would overwrite the recorded output


_CONV = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))


def operations(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the torch functions that a forward pass on `images` (N, C, H, W) calls, in order.

    >>> import torch
    >>> from gia.federated.per_example import operations
    >>> operations(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))
    ['flatten', 'linear']
    """
    with torch.no_grad(), _in_mode(model, False), Recorder(taps=False) as recorder:
        model(images)
    called: list[str] = recorder.operations
    return called


@differentiating()
def norms(
    model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, training: bool
) -> tuple[list[Use], list[Tensor]]:
    """The uses of linear layers and convolutions, and the norms of what each image adds to their weights' gradients.

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
        The uses in the order of the forward pass, and as many tensors (N,) of norms.

    >>> import torch
    >>> from gia.federated.per_example import norms
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> images, labels = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1])
    >>> norms(model, images, labels, loss=torch.nn.functional.cross_entropy, training=False)[1]
    [tensor([0., 0., 0.])]
    """
    with _in_mode(model, training):
        with Recorder(taps=True) as recorder:
            logits = model(images)
        check_labels(labels, logits, loss)
        uses = recorder.uses
        if not uses:
            return [], []
        outputs = [use.outputs for use in uses]
        signals = torch.autograd.grad(loss(logits, labels), outputs, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        return uses, [_norms(use, signal) for use, signal in zip(uses, signals, strict=True)]


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


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Run the model in this mode, then restore all modes and buffers, such as running statistics.

    Copying a small network would take as long as its forward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    hooks = watch(model)
    try:
        set_mode(model, training)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


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
