"""The gradients of R trials beside their targets: the sums that objectives see, and V, the way in which these fall.

With a and b from the objective, dD/dg = a*g + b*t =: V. A gradient is `Full`, or `Factored` where it is a product of so
few columns that it is cheaper never to form it: in ResNet-18 at one image those are 10 of 11 million parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gia.attacks.matching.layers import Pair
from gia.attacks.matching.tapped import Tap
from gia.attacks.objectives import Agreement


class Gradient(Protocol):
    """g and t of one parameter. The sums are (R,), in float64."""

    def inner(self) -> Tensor: ...
    def squared(self) -> Tensor: ...
    def difference(self) -> Tensor: ...


class Full:
    """g (R, *shape), with t (R, *shape) or (1, *shape)."""

    def __init__(self, value: Tensor, target: Tensor) -> None:
        self._value, self._target = value, target

    def inner(self) -> Tensor:
        return _dot(self._value, self._target)

    def squared(self) -> Tensor:
        return _dot(self._value, self._value)

    def difference(self) -> Tensor:
        apart = self._value - self._target
        return _dot(apart, apart)

    def direction(self, a: Tensor, b: Tensor) -> Tensor:
        """V, for a and b (R,). It overwrites g, which is not needed again."""
        shape = (-1, *[1] * (self._value.dim() - 1))
        return self._value.mul_(a.view(shape)).addcmul_(self._target, b.view(shape))


class Factored:
    """g = D C' of a single tap, with C (R, K, M) and D (R, O, M), and t as in `Full`."""

    def __init__(self, tap: Tap, factors: tuple[Tensor, Tensor], target: Tensor) -> None:
        self._tap, self._target = tap, target
        self._c, self._d = factors
        layer, inputs, outputs = tap
        self._along = layer.along(inputs, Pair(target, None), outputs.shape)  # t * x
        # In float64, since <D'D, C'C> cancels where g is small against its terms.
        c, d = self._c.double(), self._d.double()
        self._cc, self._dd = c.mT @ c, d.mT @ d

    def inner(self) -> Tensor:
        """<D C', t> = <d, t * x>."""
        products = self._tap.layer.apart(self._tap.outputs * self._along)
        return products.flatten(2).sum((0, 2), dtype=torch.float64)

    def squared(self) -> Tensor:
        """<D C', D C'> = <D'D, C'C>."""
        return (self._cc * self._dd).sum((1, 2))

    def difference(self) -> Tensor:
        return Full(self._d @ self._c.mT, self._target.flatten(2)).difference()

    def seeds(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """V * x = a D (C'C) + b (t * x) and V' * d = a C (D'D) + b (t' * d), where V = a D C' + b t."""
        (layer, inputs, outputs), dtype = self._tap, self._c.dtype
        a = a.view(-1, 1, 1)
        along = layer.to_outputs(self._d @ (a * self._cc).to(dtype), outputs.shape)
        back = layer.to_inputs(self._c @ (a * self._dd).to(dtype), inputs.shape)
        for seed, of_target in (along, self._along), (back, layer.back_along(outputs, self._target, inputs.shape)):
            apart = layer.apart(seed)
            apart.addcmul_(layer.apart(of_target), b.view(-1, *[1] * (seed.dim() - 1)))
        return along, back


class Sums(Agreement):
    """`Agreement` of all trials, with sums (R, P) in float64, which notes the sums that an objective asks for."""

    def __init__(self, gradients: dict[str, Gradient], targets: Sequence[Tensor], trials: int) -> None:
        super().__init__(list(gradients), [], targets)
        self._all, self._trials = list(gradients.values()), trials

    @cached_property
    def inner(self) -> Tensor:
        return torch.stack([one.inner() for one in self._all], -1).requires_grad_()

    @cached_property
    def squared(self) -> Tensor:
        return torch.stack([one.squared() for one in self._all], -1).requires_grad_()

    @cached_property
    def target_squared(self) -> Tensor:
        sums = torch.stack([_dot(target, target) for target in self._targets], -1)
        return sums.expand(self._trials, -1)

    @cached_property
    def difference(self) -> Tensor:
        return torch.stack([one.difference() for one in self._all], -1).requires_grad_()

    def slopes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, each (R, P), with d(values)/dg = a*g + b*t."""
        asked = [name for name in ("inner", "squared", "difference") if name in self.__dict__]
        leaves = [self.__dict__[name] for name in asked]
        found = torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True)
        slope = dict.fromkeys(("inner", "squared", "difference"), torch.zeros_like(leaves[0]))
        slope |= dict(zip(asked, found, strict=True))
        return 2 * (slope["squared"] + slope["difference"]), slope["inner"] - 2 * slope["difference"]


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Sum of products of each trial in float64; within a row of a weight torch's pairwise float32 sum loses nothing."""
    products = left * right
    rows = products.flatten(2).sum(2) if products.dim() > 2 else products.flatten(1)
    return rows.sum(1, dtype=torch.float64)
