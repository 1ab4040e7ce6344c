"""How much of a batch gradient is one image's: D-SNR and transmit-SNR (Garov et al., ICLR 2024)."""

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

from gia.federated.client import Loss, set_mode


@dataclass(frozen=True, eq=False)
class Use:
    """One application of a linear layer or convolution.

    Attributes:
        weight, bias: as it was applied, whoever made it.
        inputs, outputs: what went in, detached, and what came out, in the graph.
        settings: stride, padding, dilation and groups of a convolution; None for a linear layer.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    outputs: Tensor
    settings: tuple[Any, ...] | None


class Recorder(TorchFunctionMode):
    """Notes the operations of a forward pass; classes and names of modules play no part.

    With `taps` each linear layer and convolution is applied with a detached weight, so that a backward pass to its
    output leaves the weight gradients out.
    """

    def __init__(self, *, taps: bool) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.operations: list[str] = []
        self._taps = taps

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Called by torch in place of every function of tensors."""
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
        return outputs.clone()  # an activation may work in place


_CONV = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))


def operations(model: nn.Module, images: Tensor) -> list[str]:
    """The functions of torch that a forward pass on `images` calls, in order."""
    with torch.no_grad(), _in_mode(model, False), Recorder(taps=False) as recorder:
        model(images)
    called: list[str] = recorder.operations
    return called


@torch.enable_grad()
def norms(
    model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, training: bool
) -> tuple[list[Use], list[Tensor]]:
    """Every linear layer's and convolution's use, and the norms (N,) of what each image adds to its weight's gradient.

    They come from inputs and output derivatives, at about the cost of one training step. In evaluation mode an image
    adds its own gradient; with batch statistics (`training`) the batch gradient is still the sum of what the rows of
    each layer add, but those depend on the other images too.
    """
    with _in_mode(model, training):
        with Recorder(taps=True) as recorder:
            logits = model(images)
        uses = recorder.uses
        if not uses:
            return [], []
        outputs = [use.outputs for use in uses]
        signals = torch.autograd.grad(loss(logits, labels), outputs, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        return uses, [_norms(use, signal) for use, signal in zip(uses, signals, strict=True)]


def dominance(norms: Tensor) -> float:
    """D-SNR of one weight: the largest norm over the sum of the others, plus 1e-6 (Garov et al., 2024)."""
    largest = float(norms.max())
    return largest / (float(norms.sum()) - largest + 1e-6)


def transmit_snr(weight: Tensor) -> float:
    """Largest over kernels (rows) of the first layer of max|w| / (sum|w| - max|w| + 1e-6) (Garov et al., 2024)."""
    sizes = weight.flatten(1).abs().double()
    largest = sizes.amax(1)
    return float((largest / (sizes.sum(1) - largest + 1e-6)).max())


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Within it the model runs in this mode; then modes and buffers, such as batch statistics, are what they were.

    A copy would cost a small net as much as its forward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        set_mode(model, training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def _norms(use: Use, signal: Tensor) -> Tensor:
    """Per-image norms of the weight's gradient: of the gradient itself, or from two Gram matrices if they are less."""
    inputs, settings = use.inputs, use.settings
    count, rows, columns = len(inputs), len(use.weight), use.weight[0].numel()
    each: Tensor
    if settings is None:
        x, d = inputs.reshape(count, -1, columns), signal.reshape(count, -1, rows)
        if x.shape[1] == 1:
            each = x.flatten(1).norm(dim=1) * d.flatten(1).norm(dim=1)
            return each
        if _gram_is_less(x.shape[1], rows, columns):
            return _from_grams(x, d)
        each = (d.mT @ x).flatten(1).norm(dim=1)
        return each
    stride, padding, dilation, groups = settings
    if isinstance(padding, str):
        inputs, padding = _padded(inputs, use.weight, padding, dilation), 0
    if groups == 1 and _gram_is_less(signal[0, 0].numel(), rows, columns):
        return _from_grams(F.unfold(inputs, use.weight.shape[2:], dilation, padding, stride).mT, signal.flatten(2).mT)
    # Images as groups of one convolution: a third of the time of unfolding them.
    gradient: Callable[..., Tensor] = conv2d_weight  # which torch does not annotate
    gathered = [tensor.reshape(1, -1, *tensor.shape[2:]) for tensor in (inputs, signal)]
    shape = (count * rows, *use.weight.shape[1:])
    gradients = gradient(gathered[0], shape, gathered[1], stride, padding, dilation, count * groups)
    each = gradients.view(count, -1).norm(dim=1)
    return each


def _gram_is_less(places: int, rows: int, columns: int) -> bool:
    return places * (rows + columns) <= rows * columns


def _from_grams(x: Tensor, d: Tensor) -> Tensor:
    norms: Tensor = ((x @ x.mT) * (d @ d.mT)).sum((1, 2)).clamp_min(0).sqrt()
    return norms


def _padded(inputs: Tensor, weight: Tensor, padding: str, dilation: Any) -> Tensor:
    """What torch's "same" adds around the inputs, an odd surplus at the end; "valid" adds nothing."""
    if padding == "valid":
        return inputs
    steps = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    pads: list[int] = []
    for step, side in zip(reversed(steps), reversed(weight.shape[2:]), strict=True):
        surplus = step * (side - 1)
        pads += [surplus // 2, surplus - surplus // 2]
    return F.pad(inputs, pads)
