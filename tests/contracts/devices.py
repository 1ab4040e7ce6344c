"""What stands in for a second device where there is none: calls that forget the device, and calls that wait for it."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Functions that make a tensor where their argument `device` says, by default on the CPU.
FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        *("arange", "empty", "empty_strided", "eye", "full", "hann_window", "kaiser_window", "linspace", "logspace"),
        *("ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices"),
        *("as_tensor", "asarray", "zeros", "sparse_coo_tensor", "normal"),
    )
)


class Homeless(TorchFunctionMode):
    """Puts a new tensor on `meta` where the call names no device: whoever computes with it on the CPU fails.

    Random numbers are drawn on the CPU, by a generator, and moved to the device, so that a start is the same on every
    device: a call with a generator names its device by that. Converted tensors stay where they are. The same is true of
    the steps that torch's optimizers count, on the CPU whatever the device; with torch 2.6 they are asked for a number.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = any(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values()))
        given |= any(kwargs.get(name) is not None for name in ("device", "generator"))
        if function in FACTORIES and not given and not _name(sys._getframe(1)).startswith("torch.optim."):
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def _name(frame: FrameType) -> str:
    """The module whose code runs in a frame."""
    return str(frame.f_globals.get("__name__", ""))


class Waits(TorchDispatchMode):
    """Counts the operations whose answer the program needs at once: there an accelerator is waited for.

    Attributes:
        counted: name of the operation -> how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in WAITING:
            self.counted[str(function)] += 1
        return function(*args, **(kwargs or {}))


_aten = torch.ops.aten
WAITING = frozenset(
    {
        _aten._local_scalar_dense.default,
        _aten.equal.default,
        _aten.nonzero.default,
        _aten.masked_select.default,
        _aten.is_nonzero.default,
        _aten._unique2.default,
    }
)
