"""Counted floating point operations: a cost that does not depend on the machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_flops(work: Callable[[], object]) -> int:
    """The floating point operations of one call of `work`, forward and backward, by torch's formulas.

    They are counted when operators are dispatched, so also inside a double backward, where `FlopCounterMode` raises. A
    multiply-add counts two; only products and convolutions have a formula, elementwise work counts zero. The backward
    pass of a convolution is computed here, since torch counts the weight gradient of a grouped convolution as if it
    were not grouped.

    >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
    60
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
    """Each of the two gradients, if asked for, takes as many products as the forward pass, grouped or not.

    Every entry of the weight (out, in / groups, height, width) is used once at each position of each image.
    """
    transposed, wanted = rest[4], rest[-1]
    places = (inputs if transposed else outputs).shape[2:]
    return 2 * len(inputs) * math.prod(places) * weight.numel() * int(sum(wanted[:2]))
