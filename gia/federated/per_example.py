"""How much of a batch gradient is one image's: D-SNR and transmit-SNR (Garov et al., ICLR 2024)."""

from __future__ import annotations

import copy
from collections.abc import Callable
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
    with torch.no_grad(), Recorder(taps=False) as recorder:
        _in_mode(model, False)(images)
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
    with Recorder(taps=True) as recorder:
        logits = _in_mode(model, training)(images)
    uses = recorder.uses
    if not uses:
        return [], []
    signals = torch.autograd.grad(
        loss(logits, labels), [use.outputs for use in uses], allow_unused=True, materialize_grads=True
    )
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


def _in_mode(model: nn.Module, training: bool) -> nn.Module:
    """A copy that shares the parameters, which nothing here changes; batch statistics it may."""
    return set_mode(copy.deepcopy(model, {id(p): p for p in model.parameters()}), training)


def _norms(use: Use, signal: Tensor) -> Tensor:
    """Per-image norms of the weight's gradient: of the gradient itself, or from two Gram matrices if they are less."""
    inputs, settings = use.inputs, use.settings
    count, rows, columns = len(inputs), len(use.weight), use.weight[0].numel()
    if settings is None:
        x, d = inputs.reshape(count, -1, columns), signal.reshape(count, -1, rows)
    else:
        stride, padding, dilation, groups = settings
        if groups > 1 or isinstance(padding, str):
            return _one_by_one(use, signal)
        x = F.unfold(inputs, use.weight.shape[2:], dilation, padding, stride).mT
        d = signal.flatten(2).mT
    places = x.shape[1]
    if places == 1:
        sizes: Tensor = x.flatten(1).norm(dim=1) * d.flatten(1).norm(dim=1)
    elif places * (rows + columns) > rows * columns:
        sizes = (d.mT @ x).flatten(1).norm(dim=1)
    else:
        sizes = ((x @ x.mT) * (d @ d.mT)).sum((1, 2)).clamp_min(0).sqrt()
    return sizes


def _one_by_one(use: Use, signal: Tensor) -> Tensor:
    stride, padding, dilation, groups = use.settings or ()
    gradient: Callable[..., Tensor] = conv2d_weight  # which torch does not annotate
    shape = use.weight.shape
    each = [
        gradient(x, shape, d, stride, padding, dilation, groups).norm()
        for x, d in zip(use.inputs.unsqueeze(1), signal.unsqueeze(1), strict=True)
    ]
    return torch.stack(each)
