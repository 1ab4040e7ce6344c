"""What one call of a torch function does to data: applies a matrix, normalizes, scales, shifts or transposes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "SHORTEST_IMAGE",
    "SUMS",
    "Applied",
    "Normalization",
    "applied",
    "attention_mask",
    "fold",
    "hides_rows",
    "is_matrix",
    "normalization_of",
    "turns",
]

#: Rows shorter than this hold no image; the smallest images of this project have 8 x 8 pixels.
SHORTEST_IMAGE = 64

#: Settings of a convolution, and their defaults.
_CONV = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
#: Matrix products of two tensors, and whether the second one comes first.
_PRODUCTS = {"matmul": False, "__matmul__": False, "mm": False, "__rmatmul__": True, "rmatmul": True}
#: Sums of two terms, and the sign of the second.
SUMS = {"add": 1, "__add__": 1, "__radd__": 1, "__iadd__": 1, "add_": 1, "sub": -1, "__sub__": -1, "__isub__": -1}
#: Products of two factors, and the exponent of the second.
_FACTORS = {"mul": 1, "__mul__": 1, "__rmul__": 1, "__imul__": 1, "mul_": 1, "div": -1, "true_divide": -1}
_FACTORS |= {"__truediv__": -1, "__div__": -1, "__itruediv__": -1, "div_": -1}
#: Functions that put tensors beside each other.
_JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "row_stack", "column_stack", "dstack"})
#: Functions that apply a vector to data as a matrix of one row.
_ROW_PRODUCTS = frozenset({*_PRODUCTS, "mv", "dot", "vdot", "inner", "einsum", "tensordot", "addmv", "linear"})


@dataclass(frozen=True, eq=False)
class Normalization:
    """One batch or instance normalization that used its running statistics.

    Attributes:
        mean, variance: the running statistics, (channels,).
        weight, bias: of its affine map, or None.
        eps: added to the variance.
        inputs: what it normalized (N, channels, ...), detached.
        instance: whether it is an instance normalization, which takes the statistics of each image in training.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    inputs: Tensor
    instance: bool = False

    def as_in_training(self) -> Tensor:
        """The inputs normalized by their own statistics, without derivatives."""
        channels = (-1,) + (1,) * (self.inputs.dim() - 2)
        dims = [dim for dim in range(self.inputs.dim()) if dim > 1 or (dim == 0 and not self.instance)]
        variance, mean = torch.var_mean(self.inputs, dims, correction=0, keepdim=True)
        result = (self.inputs - mean) * (variance + self.eps).rsqrt()
        result = result if self.weight is None else result * self.weight.view(channels)
        return result if self.bias is None else result + self.bias.view(channels)


@dataclass(frozen=True, eq=False)
class Applied:
    """How a call applies a matrix to data; `turned` means that images are columns."""

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    settings: tuple[Any, ...] | None = None
    turned: bool = False


def applied(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], data: dict[int, Tensor]
) -> Applied | None:
    """The matrix that a call applies, or None for a call that is no linear layer or 2D convolution."""
    if func in (F.linear, torch.conv2d):
        given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, strict=False))
        given |= kwargs
        images_are_rows = id(given["weight"]) in data and id(given["input"]) not in data
        if images_are_rows or given["weight"].dim() < 2:
            return None
        settings = tuple(given.get(key, default) for key, default in _CONV) if func is torch.conv2d else None
        return Applied(given["weight"], given.get("bias"), given["input"], settings)
    if name == "addmm" and len(args) == 3 and not kwargs and id(args[1]) in data and id(args[2]) not in data:
        bias = args[0] if id(args[0]) not in data and args[0].numel() == args[2].shape[1] else None
        return None if bias is None else Applied(args[2].mT, bias.flatten(), args[1])
    if name in _PRODUCTS and len(args) == 2 and not kwargs:
        left, right = reversed(args) if _PRODUCTS[name] else args
        # A matrix for all images is a weight, also if it was computed from them.
        if id(left) in data and right.dim() == 2 and left.dim() > 1:
            return Applied(right.mT, None, left)
        if id(right) in data and id(left) not in data and left.dim() == 2 and right.dim() > 1:
            return Applied(left, None, right, turned=True)
    return None


def normalization_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Normalization | None:
    """The batch or instance normalization that a call makes with running statistics, if it does."""
    names = ("input", "running_mean", "running_var", "weight", "bias")
    if func in (torch.batch_norm, torch.instance_norm):
        names = ("input", "weight", "bias", "running_mean", "running_var")
    elif func not in (F.batch_norm, F.instance_norm):
        return None
    instance = func in (F.instance_norm, torch.instance_norm)
    own = "use_input_stats" if instance else "training"
    given = {own: instance} | dict(zip((*names, own, "momentum", "eps"), args, strict=False)) | kwargs
    if given[own] or given.get("running_mean") is None:
        return None
    weight, bias = (given.get(key) for key in ("weight", "bias"))
    return Normalization(
        given["running_mean"].detach(),
        given["running_var"].detach(),
        None if weight is None else weight.detach(),
        None if bias is None else bias.detach(),
        given.get("eps", 1e-5),
        given["input"].detach(),
        instance,
    )


def fold(
    normalization: Normalization | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    end: Tensor,
    channels: int,
    count: int,
) -> tuple[Tensor, Tensor] | None:
    """(scale, shift) of a call that maps each channel of `end` on its own, or None."""
    if normalization is not None:
        n = normalization
        scale = (n.variance + n.eps).rsqrt() * (1 if n.weight is None else n.weight)
        return scale, (0 if n.bias is None else n.bias) - n.mean * scale
    if len(args) != 2 or kwargs or name not in SUMS | _FACTORS:
        return None
    left, right = args
    inverse = (SUMS | _FACTORS)[name] < 0
    if left is end:
        other = right
    elif right is end and not inverse:
        other = left
    else:
        return None
    value = _by_channel(other, end, channels, count)
    if value is None:
        return None
    if name in SUMS:
        return torch.ones_like(value), (-value if inverse else value)
    return (1 / value if inverse else value), torch.zeros_like(value)


def attention_mask(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an attention adds to its scores, such as the bias of relative positions; None for other functions."""
    if func is not F.scaled_dot_product_attention:
        return None
    return args[3] if len(args) > 3 else kwargs.get("attn_mask")


def turns(func: Any, name: str) -> bool:
    """Whether a call transposes."""
    return name in ("t", "transpose") or getattr(func, "__self__", None) in (torch.Tensor.T, torch.Tensor.mT)


def _by_channel(value: Any, end: Tensor, channels: int, count: int) -> Tensor | None:
    """A number, or a tensor that differs between channels only, as (1,) or (channels,)."""
    if isinstance(value, (int, float)):
        return end.new_tensor([float(value)]).detach()
    if not isinstance(value, Tensor) or value.dim() > end.dim():
        return None
    if value.numel() == 1:
        return value.detach().flatten()
    shape = [1] * end.dim()
    shape[channels] = count
    padded = (1,) * (end.dim() - value.dim()) + tuple(value.shape)
    return value.detach().flatten() if list(padded) == shape else None


def hides_rows(name: str, tensor: Tensor, *, stored: bool) -> bool:
    """Whether a function that is not judged applies rows of this constant to data.

    Sums apply none: what they add is a bias or a position. Elementwise functions scale channels by vectors, and ViTs
    join a token to the patches: vectors count only as parts of a matrix, or in products.

    Args:
        name: of the function.
        tensor: no data.
        stored: whether it is a matrix of the model, or computed from one.
    """
    if name in SUMS or not tensor.is_floating_point():
        return False
    if name in _JOINS:
        return stored and is_matrix(tensor)
    return is_matrix(tensor) or (_is_row(tensor) and (stored or name in _ROW_PRODUCTS))


def is_matrix(tensor: Tensor) -> bool:
    """Whether it has at least two rows, in some orientation, that are long enough to hold an image."""
    sizes = _sizes(tensor)
    return len(sizes) > 1 and math.prod(sizes) // min(sizes) >= SHORTEST_IMAGE


def _is_row(tensor: Tensor) -> bool:
    """Whether it is a single row, in some orientation, that is long enough to hold an image."""
    sizes = _sizes(tensor)
    return len(sizes) == 1 and sizes[0] >= SHORTEST_IMAGE


def _sizes(tensor: Tensor) -> list[int]:
    """The sizes of the dimensions along which entries differ; along others `expand` repeats them."""
    steps = tensor.stride() if tensor.layout is torch.strided else (1,) * tensor.dim()
    return [size for size, step in zip(tensor.shape, steps, strict=True) if size > 1 and step]
