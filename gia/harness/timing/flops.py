"""Counted floating point operations: a cost that no noisy machine can hide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_flops(work: Callable[[], object]) -> int:
    """The floating point operations of one call of `work`, by torch's formulas, forward and backward alike.

    Counted where operators are dispatched, so also inside a double backward, where `FlopCounterMode` raises. A multiply
    and an add are two; only products and convolutions have a formula, elementwise work counts as nothing. The backward
    pass of a convolution has a formula of its own, since torch's counts the weight gradient of a grouped convolution as
    if it were not grouped.
    """
    counter = _Counter()
    with counter:
        work()
    return counter.flops


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            self.flops += _convolution_backward(*args)
        elif (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out


def _convolution_backward(outputs: Tensor, inputs: Tensor, weight: Tensor, *rest: Any) -> int:
    """The forward pass's products once more for each of the two gradients that are asked for, grouped or not.

    Every entry of the weight, of shape (out, in / groups, height, width), meets each position of each image once.
    """
    transposed, wanted = rest[4], rest[-1]
    places = (inputs if transposed else outputs).shape[2:]
    return 2 * len(inputs) * math.prod(places) * weight.numel() * int(sum(wanted[:2]))
