"""What parameters do in a layer, z = W * x + b, and the derivatives of it that gradient matching needs.

The product * is linear in W and in x: a convolution, a matrix product, a scale. With d = dL/dz,

    linear       W * c            the derivative of z along x (and of W' * d along d)
    transpose    W' * d           its adjoint, dL/dx
    gradients    d x', sum of d   dL/dW and dL/db, one per trial
    along        V * x + v        the derivative of z along a direction (V, v) of the parameters, one per trial
    back_along   V' * d           the derivative of dL/dx along the same direction

The third derivative, in x and d at once, is none of them: aten's double backward of a convolution computes it in vain.

The B images of each of R trials are interleaved: image b of trial r lies at b*R + r. Then (B*R, C, H, W) is, without a
copy, also (B, R*C, H, W): a convolution with a kernel per trial is one grouped convolution, and batch statistics per
trial are those of R*C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

#: (dL/dW, dL/db) or a direction (V, v), each (R, *shape of the parameter); None where the parameter is not matched.
Pair = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """One use of a weight and a bias.

    Attributes:
        trials: R.
        names: of weight and bias, None where it is absent or not matched.
        weight, bias: detached and shared by all trials; None where absent.
    """

    trials: int
    names: tuple[str | None, str | None]
    weight: Tensor | None
    bias: Tensor | None

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor: ...

    @abstractmethod
    def linear(self, inputs: Tensor) -> Tensor: ...

    @abstractmethod
    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def gradients(self, inputs: Tensor, outputs: Tensor) -> Pair: ...

    @abstractmethod
    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor: ...

    def side_by_side(self, values: Tensor) -> Tensor:
        """(B*R, C, ...) -> (B, R*C, ...)."""
        return values.reshape(-1, self.trials * values.shape[1], *values.shape[2:])

    def apart(self, values: Tensor) -> Tensor:
        """(B*R, ...) -> (B, R, ...)."""
        return values.reshape(-1, self.trials, *values.shape[1:])


@dataclass(frozen=True, eq=False)
class Convolution(Layer):
    """conv2d with zero padding."""

    weight: Tensor
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def linear(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return conv2d_input(shape, self.weight, outputs, self.stride, self.padding, self.dilation, self.groups)

    def gradients(self, inputs: Tensor, outputs: Tensor) -> Pair:
        to_weight = to_bias = None
        if self.names[0]:
            shape = (self.trials * len(self.weight), *self.weight.shape[1:])
            sides = self.side_by_side(inputs), shape, self.side_by_side(outputs)
            to_weight = conv2d_weight(*sides, self.stride, self.padding, self.dilation, self.trials * self.groups)
            to_weight = to_weight.view(self.trials, *self.weight.shape)
        if self.names[1]:
            to_bias = self.apart(outputs.sum((2, 3))).sum(0)
        return to_weight, to_bias

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        weight, bias = direction
        if weight is None:
            assert bias is not None
            return bias.repeat(shape[0] // self.trials, 1)[:, :, None, None].expand(shape)
        flat = weight.flatten(0, 1), None if bias is None else bias.flatten()
        sides = self.side_by_side(inputs)
        return F.conv2d(sides, *flat, self.stride, self.padding, self.dilation, self.trials * self.groups).view(shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        flat = (shape[0] // self.trials, self.trials * shape[1], *shape[2:]), direction.flatten(0, 1)
        sides = self.side_by_side(outputs)
        groups = self.trials * self.groups
        return conv2d_input(*flat, sides, self.stride, self.padding, self.dilation, groups).view(shape)


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """x @ W.T + b over the last dimension of (images, ..., features); an image may be several leading rows.

    Attributes:
        batch: B.
    """

    weight: Tensor
    batch: int

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight, self.bias)

    def linear(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight)

    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return outputs @ self.weight

    def gradients(self, inputs: Tensor, outputs: Tensor) -> Pair:
        rows = self._rows(outputs)
        return rows.mT @ self._rows(inputs) if self.names[0] else None, rows.sum(1) if self.names[1] else None

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        weight, bias = direction
        rows = self._rows(inputs)
        found = rows.new_zeros(self.trials, rows.shape[1], shape[-1]) if weight is None else rows @ weight.mT
        return self._images(found if bias is None else found + bias[:, None], shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        return self._images(self._rows(outputs) @ direction, shape)

    def _rows(self, values: Tensor) -> Tensor:
        """(images, ..., features) -> (R, rows, features)."""
        return values.reshape(self.batch, self.trials, -1, values.shape[-1]).transpose(0, 1).flatten(1, 2)

    def _images(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        return rows.unflatten(1, (self.batch, -1)).transpose(0, 1).reshape(shape)


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """x * W + b entry by entry: the affine part of a normalization, a layer scale or, without W, an addition.

    Attributes:
        shape: of W and b against one image, such as (C, 1, 1).
    """

    shape: tuple[int, ...]

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = self.linear(inputs)
        return scaled if self.bias is None else scaled.add_(self.bias.view(self.shape))

    def linear(self, inputs: Tensor) -> Tensor:
        return inputs.clone() if self.weight is None else inputs * self.weight.view(self.shape)

    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return self.linear(outputs)

    def gradients(self, inputs: Tensor, outputs: Tensor) -> Pair:
        return (
            self._total(inputs * outputs, self.weight) if self.names[0] else None,
            self._total(outputs, self.bias) if self.names[1] else None,
        )

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        weight, bias = (None if one is None else one.view(self._trials(inputs.dim())) for one in direction)
        if weight is None:
            assert bias is not None
            return bias.expand_as(self.apart(inputs)).reshape(shape)
        found = self.apart(inputs) * weight
        return (found if bias is None else found.add_(bias)).view(shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        return (self.apart(outputs) * direction.view(self._trials(outputs.dim()))).view(shape)

    def _total(self, values: Tensor, parameter: Tensor | None) -> Tensor:
        assert parameter is not None
        found = self.apart(values).sum(0).sum_to_size(self._trials(values.dim()))
        return found.view(self.trials, *parameter.shape)

    def _trials(self, dimensions: int) -> tuple[int, ...]:
        return (self.trials, *[1] * (dimensions - 1 - len(self.shape)), *self.shape)


@dataclass(frozen=True, eq=False)
class FixedNormalization(Layer):
    """Batch normalization by running statistics, (x - mean) / sqrt(variance + eps) * W + b.

    A `Scale` of normalized inputs would do; aten's kernels take one pass over memory where that takes two.
    """

    mean: Tensor
    variance: Tensor
    eps: float

    def forward(self, inputs: Tensor) -> Tensor:
        return F.batch_norm(inputs, self.mean, self.variance, self.weight, self.bias, eps=self.eps)

    def linear(self, inputs: Tensor) -> Tensor:
        slope = self._slope if self.weight is None else self._slope * self.weight
        return inputs * slope.view(-1, *[1] * (inputs.dim() - 2))

    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return self.linear(outputs)

    def gradients(self, inputs: Tensor, outputs: Tensor) -> Pair:
        mean, variance = self.mean.repeat(self.trials), self.variance.repeat(self.trials)
        wanted = [False, *(name is not None for name in self.names)]
        found = torch.ops.aten.native_batch_norm_backward(
            self.side_by_side(outputs), self.side_by_side(inputs), None, mean, variance, None, None, False, self.eps, wanted
        )
        to_weight, to_bias = (
            one.view(self.trials, -1) if want else None for one, want in zip(found[1:], wanted[1:], strict=True)
        )
        return to_weight, to_bias

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        mean, variance = self.mean.repeat(self.trials), self.variance.repeat(self.trials)
        weight, bias = (torch.zeros_like(mean) if one is None else one.flatten() for one in direction)
        return F.batch_norm(self.side_by_side(inputs), mean, variance, weight, bias, eps=self.eps).view(shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        slope = direction * self._slope
        return (self.apart(outputs) * slope.view(*slope.shape, *[1] * (outputs.dim() - 2))).view(shape)

    @property
    def _slope(self) -> Tensor:
        return (self.variance + self.eps).rsqrt()
