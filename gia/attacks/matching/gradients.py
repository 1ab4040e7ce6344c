"""The gradients of R trials and their targets: the sums that objectives use, and the direction V = dD/dg.

With a and b from the objective, dD/dg = a*g + b*t =: V. A gradient is `Full`, or `Factored` where it is a product of
few columns and not forming it is cheaper, as for most parameters of a ResNet at one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gia.attacks.matching.tapped import Tap
from gia.attacks.objectives import Agreement


class Target:
    """t of one parameter, (R, *shape) or (1, *shape) for all trials, and what is computed from it only once."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @cached_property
    def squared(self) -> Tensor:
        """(R,) or (1,), in float64."""
        return _dot(self.value, self.value)

    @cached_property
    def matrix(self) -> Tensor:
        """(R, O, K)."""
        return self.value.flatten(2)

    @cached_property
    def transposed(self) -> Tensor:
        """(R, K, O), row by row."""
        return self.matrix.mT.contiguous()


class Gradient(Protocol):
    """g and t of one parameter. The sums are (R,), in float64."""

    def inner(self) -> Tensor: ...
    def squared(self) -> Tensor: ...
    def difference(self) -> Tensor: ...


class Full:
    """g (R, *shape) as a tensor."""

    def __init__(self, value: Tensor, target: Target) -> None:
        self._value, self._target = value, target.value

    def inner(self) -> Tensor:
        return _dot(self._value, self._target)

    def squared(self) -> Tensor:
        return _dot(self._value, self._value)

    def difference(self) -> Tensor:
        apart = self._value - self._target
        return _dot(apart, apart)

    def direction(self, a: Tensor, b: Tensor) -> Tensor:
        """V, for a and b (R,). Overwrites g, which is not needed again."""
        shape = (-1, *[1] * (self._value.dim() - 1))
        return self._value.mul_(a.view(shape)).addcmul_(self._target, b.view(shape))


class Factored:
    """g = D C' of a single tap, with C (R, K, M) and D (R, O, M)."""

    def __init__(self, tap: Tap, factors: tuple[Tensor, Tensor], target: Target) -> None:
        self._tap, self._target = tap, target
        self._c, self._d = factors
        self._tc = _each(target.matrix, self._c)
        # In float64, since <D'D, C'C> cancels where g is small compared with its terms.
        c, d = self._c.double(), self._d.double()
        self._cc, self._dd = c.mT @ c, d.mT @ d

    def inner(self) -> Tensor:
        """<D C', t> = <D, t C>."""
        return _dot(self._d, self._tc)

    def squared(self) -> Tensor:
        """<D C', D C'> = <D'D, C'C>."""
        return (self._cc * self._dd).sum((1, 2))

    def difference(self) -> Tensor:
        apart = self._d @ self._c.mT - self._target.matrix
        return _dot(apart, apart)

    def seeds(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """V * x from V C = a D (C'C) + b (t C), and V' * d from V' D = a C (D'D) + b (t' D), where V = a D C' + b t."""
        (layer, inputs, outputs), dtype = self._tap, self._c.dtype
        a, b = a.view(-1, 1, 1), b.view(-1, 1, 1)
        along = torch.addcmul(self._d @ (a * self._cc).to(dtype), self._tc, b)
        back = torch.addcmul(self._c @ (a * self._dd).to(dtype), _each(self._target.transposed, self._d), b)
        return layer.to_outputs(along, outputs.shape), layer.to_inputs(back, inputs.shape)


def _each(matrices: Tensor, columns: Tensor) -> Tensor:
    """A matrix (R, n, k), or (1, n, k) for all, times columns (R, k, M)."""
    if len(matrices) < len(columns):  # one product, since a batched one copies the matrix for each trial
        together = _product(matrices[0], columns.transpose(0, 1).flatten(1))
        return together.view(len(together), len(columns), -1).transpose(0, 1)
    if not _by_convolution(matrices[0]):
        return matrices @ columns
    return torch.stack([_product(*pair) for pair in zip(matrices, columns, strict=True)])


#: Below this many images torch runs a 1x1 convolution in MKL (on one thread), which is slow here.
_IMAGES = 16


def _by_convolution(matrix: Tensor) -> bool:
    """Whether oneDNN multiplies a matrix (n, k) faster than MKL.

    With MKL_CBWR=AVX2,STRICT MKL takes 2.8 to 4.5 times as long for 4 and 8 columns, and as long for 64 and more.
    """
    large = len(matrix) % _IMAGES == 0 and matrix.numel() >= 2**16
    return large and matrix.dtype == torch.float32 and matrix.device.type == "cpu"


def _product(matrix: Tensor, columns: Tensor) -> Tensor:
    """(n, k) times (k, M), for large matrices as a convolution whose pixels are the rows, with k channels each."""
    if not _by_convolution(matrix):
        return matrix @ columns
    pixels = matrix.view(_IMAGES, -1, 1, matrix.shape[1]).permute(0, 3, 1, 2)
    product = F.conv2d(pixels, columns.mT[:, :, None, None])
    return product.permute(0, 2, 3, 1).reshape(len(matrix), -1)


class Sums(Agreement):
    """`Agreement` of all trials, with sums (R, P) in float64. It records which sums an objective uses."""

    def __init__(self, gradients: dict[str, Gradient], targets: Sequence[Target], trials: int) -> None:
        super().__init__(list(gradients), [], [])
        self._all, self._observed, self._trials = list(gradients.values()), targets, trials

    @cached_property
    def inner(self) -> Tensor:
        return torch.stack([one.inner() for one in self._all], -1).requires_grad_()

    @cached_property
    def squared(self) -> Tensor:
        return torch.stack([one.squared() for one in self._all], -1).requires_grad_()

    @cached_property
    def target_squared(self) -> Tensor:
        return torch.stack([target.squared for target in self._observed], -1).expand(self._trials, -1)

    @cached_property
    def difference(self) -> Tensor:
        return torch.stack([one.difference() for one in self._all], -1).requires_grad_()

    def slopes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, each (R, P), with d(values)/dg = a*g + b*t."""
        asked = [name for name in ("inner", "squared", "difference") if name in self.__dict__]
        leaves = [self.__dict__[name] for name in asked]
        derivatives = torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True)
        slope = dict.fromkeys(("inner", "squared", "difference"), torch.zeros_like(leaves[0]))
        slope |= dict(zip(asked, derivatives, strict=True))
        return 2 * (slope["squared"] + slope["difference"]), slope["inner"] - 2 * slope["difference"]


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Sum of products per trial in float64; within a row of a weight torch's pairwise float32 sum is exact enough."""
    products = left * right
    rows = products.flatten(2).sum(2) if products.dim() > 2 else products.flatten(1)
    return rows.sum(1, dtype=torch.float64)
