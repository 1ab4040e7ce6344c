"""Layers z = W * x + b as functions of their parameters, with the derivatives that gradient matching needs.

The product * is linear in W and in x: a convolution, a matrix product, a scale. With d = dL/dz,

    linear       W * c            the derivative of z along x (and of W' * d along d)
    transpose    W' * d           its adjoint, dL/dx
    gradients    d x', sum of d   dL/dW and dL/db, one per trial
    along        V * x + v        the derivative of z along a direction (V, v) of the parameters
    back_along   V' * d           the derivative of dL/dx along the same direction

aten's double backward of a convolution also computes the mixed derivative in x and d, which is not needed.

The B images of each of R trials are interleaved: image b of trial r has index b*R + r. So (B*R, C, H, W) can be viewed,
without a copy, as (B, R*C, H, W): a convolution with one kernel per trial is one grouped convolution, and batch
statistics per trial are those of R*C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: Names of weight and bias.
Names = tuple[str | None, str | None]


class Pair(NamedTuple):
    """One value each for weight and bias, such as dL/dW and dL/db; None where a parameter is absent or not matched."""

    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """One use of a weight and a bias.

    Directions V and v are (R, *shape), one per trial, or (1, *shape), one for all.

    Attributes:
        trials: R.
        names: of weight and bias, None where it is absent or not matched.
        weight, bias: detached and shared by all trials; None where absent.
    """

    trials: int
    names: Names
    weight: Tensor | None
    bias: Tensor | None

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor: ...

    @abstractmethod
    def gradients(self, inputs: Tensor, outputs: Tensor, names: Names) -> Pair: ...

    @abstractmethod
    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor: ...

    def linear(self, inputs: Tensor, shape: Sequence[int]) -> Tensor:
        return inputs if self.weight is None else self.along(inputs, Pair(self.weight[None], None), shape)

    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return outputs if self.weight is None else self.back_along(outputs, self.weight[None], shape)

    def factors(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """C (R, K, M) and D (R, O, M) with dL/dW = D C', where M is small enough that this is cheaper."""
        return None

    def to_outputs(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """(R, O, M), in the layout of D, as an output: the adjoint of the map from d to D."""
        raise TypeError(f"{type(self).__name__} has no factors")

    def to_inputs(self, columns: Tensor, shape: Sequence[int]) -> Tensor:
        """(R, K, M), in the layout of C, as an input: the adjoint of the map from x to C."""
        raise TypeError(f"{type(self).__name__} has no factors")

    def side_by_side(self, values: Tensor, count: int | None = None) -> Tensor:
        """(B*R, C, ...) -> (B, R*C, ...)."""
        count = self.trials if count is None else count
        return values.reshape(-1, count * values.shape[1], *values.shape[2:])

    def apart(self, values: Tensor) -> Tensor:
        """(B*R, ...) -> (B, R, ...)."""
        return values.reshape(-1, self.trials, *values.shape[1:])


#: With a stride, oneDNN's backward pass to fewer input channels than this is slow: it handles eight at a time.
_NARROW = 8
#: dL/dW stays factored if the factors have at most this share of its rows.
_THIN = 1 / 4


@dataclass(frozen=True, eq=False)
class Convolution(Layer):
    """conv2d with zero padding."""

    weight: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def gradients(self, inputs: Tensor, outputs: Tensor, names: Names) -> Pair:
        weight = self._to_weight(inputs, outputs) if names[0] else None
        return Pair(weight, self.apart(outputs.sum((2, 3))).sum(0) if names[1] else None)

    def _to_weight(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        sides = self.side_by_side(outputs), self.side_by_side(inputs)
        kernels = outputs.new_empty(self.trials * len(self.weight), *self.weight.shape[1:])  # for its shape only
        return self._backward(*sides, kernels, self.trials, 1).view(self.trials, *self.weight.shape)

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        weight, bias = direction
        if weight is None:
            assert bias is not None
            return bias.repeat(shape[0] // len(bias), 1)[:, :, None, None].expand(shape)
        sides, flat = self.side_by_side(inputs, len(weight)), None if bias is None else bias.flatten()
        groups = len(weight) * self.groups
        changed = F.conv2d(sides, weight.flatten(0, 1), flat, self.stride, self.padding, self.dilation, groups)
        return changed.view(shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        if self._by_columns:
            kernels = direction.flatten(2).mT
            if len(kernels) == 1:
                return self._fold(F.conv2d(outputs, kernels[0, :, :, None, None]).flatten(2), shape)
            return self._fold(kernels.repeat(len(outputs) // len(kernels), 1, 1) @ outputs.flatten(2), shape)
        sides = self.side_by_side(outputs, len(direction))
        inputs = outputs.new_empty(shape[0] // len(direction), len(direction) * shape[1], *shape[2:])  # for its shape
        return self._backward(sides, inputs, direction.flatten(0, 1), len(direction), 0).view(shape)

    def factors(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor] | None:
        rows = outputs.shape[2] * outputs.shape[3] * len(outputs) // self.trials
        if self.groups > 1 or rows > len(self.weight) * _THIN or rows > self.weight[0].numel() * _THIN:
            return None
        return self._together(self._columns(inputs)), self._together(outputs.flatten(2))

    def to_outputs(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        return self._each(rows, shape[0]).view(shape)

    def to_inputs(self, columns: Tensor, shape: Sequence[int]) -> Tensor:
        return self._fold(self._each(columns, shape[0]), shape)

    def _together(self, each: Tensor) -> Tensor:
        """(B*R, features, positions) -> (R, features, B*positions)."""
        return self.apart(each).permute(1, 2, 0, 3).flatten(2)

    def _each(self, together: Tensor, images: int) -> Tensor:
        cut = together.view(*together.shape[:2], images // self.trials, -1)
        return cut.permute(2, 0, 1, 3).reshape(images, together.shape[1], -1)

    @property
    def _by_columns(self) -> bool:
        narrow = self.groups == 1 and self.weight.shape[1] < _NARROW
        return narrow and max(self.stride) > 1 and self.weight.device.type == "cpu"

    def _columns(self, inputs: Tensor) -> Tensor:
        """(N, C*kernel, positions) as F.unfold returns it, three times as fast: one strided copy."""
        (top, left), (down, right), (high, wide) = self.padding, self.stride, self.weight.shape[2:]
        padded = F.pad(inputs, (left, left, top, top))
        image, channel, row, column = padded.stride()
        heights = (padded.shape[2] - self.dilation[0] * (high - 1) - 1) // down + 1
        widths = (padded.shape[3] - self.dilation[1] * (wide - 1) - 1) // right + 1
        windows = padded.as_strided(
            (*padded.shape[:2], high, wide, heights, widths),
            (image, channel, row * self.dilation[0], column * self.dilation[1], row * down, column * right),
        )
        return windows.reshape(len(inputs), -1, heights * widths)

    def _fold(self, columns: Tensor, shape: Sequence[int]) -> Tensor:
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return F.fold(columns, (shape[2], shape[3]), kernel, self.dilation, self.padding, self.stride)

    def _backward(self, outputs: Tensor, inputs: Tensor, weight: Tensor, trials: int, which: int) -> Tensor:
        # torch.nn.grad computes the same, but copies an expanded tensor of the wanted shape.
        gradient: Tensor = torch.ops.aten.convolution_backward(
            outputs,
            inputs,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            trials * self.groups,
            [which == 0, which == 1, False],
        )[which]
        return gradient


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """x @ W.T + b over the last dimension of (images, ..., features). One image may fill several rows.

    Attributes:
        batch: B.
    """

    weight: Tensor
    batch: int

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight, self.bias)

    def gradients(self, inputs: Tensor, outputs: Tensor, names: Names) -> Pair:
        rows = self._rows(outputs)
        return Pair(rows.mT @ self._rows(inputs) if names[0] else None, rows.sum(1) if names[1] else None)

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        weight, bias = direction
        if weight is not None and len(weight) == 1 and bias is None:
            return F.linear(inputs, weight[0])
        rows = self._rows(inputs)
        changed = rows.new_zeros(self.trials, rows.shape[1], shape[-1]) if weight is None else rows @ weight.mT
        return self._images(changed if bias is None else changed + bias[:, None], shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        if len(direction) == 1:
            return outputs @ direction[0]
        return self._images(self._rows(outputs) @ direction, shape)

    def factors(self, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor] | None:
        rows = inputs.numel() // self.weight.shape[1] // self.trials
        return None if rows > min(self.weight.shape) * _THIN else (self._rows(inputs).mT, self._rows(outputs).mT)

    def to_outputs(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        return self._images(rows.mT, shape)

    def to_inputs(self, columns: Tensor, shape: Sequence[int]) -> Tensor:
        return self._images(columns.mT, shape)

    def _rows(self, values: Tensor) -> Tensor:
        """(images, ..., features) -> (R, rows, features)."""
        return values.reshape(self.batch, self.trials, -1, values.shape[-1]).transpose(0, 1).flatten(1, 2)

    def _images(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        return rows.reshape(self.trials, self.batch, -1, rows.shape[-1]).transpose(0, 1).reshape(shape)


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """x * W + b, entrywise: the affine part of a normalization, a layer scale or, without W, an addition.

    Attributes:
        shape: of W and b broadcast against one image, such as (C, 1, 1).
    """

    shape: tuple[int, ...]

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = inputs.clone() if self.weight is None else inputs * self.weight.view(self.shape)
        return scaled if self.bias is None else scaled.add_(self.bias.view(self.shape))

    def gradients(self, inputs: Tensor, outputs: Tensor, names: Names) -> Pair:
        return Pair(
            self._total(inputs * outputs, self.weight) if names[0] else None,
            self._total(outputs, self.bias) if names[1] else None,
        )

    def along(self, inputs: Tensor, direction: Pair, shape: Sequence[int]) -> Tensor:
        weight, bias = (None if one is None else one.view(self._spread(one, inputs)) for one in direction)
        if weight is None:
            assert bias is not None
            return bias.expand_as(self.apart(inputs)).reshape(shape)
        changed = self.apart(inputs) * weight
        return (changed if bias is None else changed.add_(bias)).view(shape)

    def back_along(self, outputs: Tensor, direction: Tensor, shape: Sequence[int]) -> Tensor:
        return (self.apart(outputs) * direction.view(self._spread(direction, outputs))).view(shape)

    def _total(self, values: Tensor, parameter: Tensor | None) -> Tensor:
        assert parameter is not None
        summed = self.apart(values).sum(0)
        return summed.sum_to_size(self._spread(summed, values)).view(self.trials, *parameter.shape)

    def _spread(self, direction: Tensor, images: Tensor) -> tuple[int, ...]:
        return (len(direction), *[1] * (images.dim() - 1 - len(self.shape)), *self.shape)


@dataclass(frozen=True, eq=False)
class FixedNormalization(Layer):
    """Batch normalization by running statistics, (x - mean) / sqrt(variance + eps) * W + b.

    A `Scale` of normalized inputs computes the same; aten's kernels pass over memory once, a `Scale` twice.
    """

    mean: Tensor
    variance: Tensor
    eps: float

    def forward(self, inputs: Tensor) -> Tensor:
        return F.batch_norm(inputs, self.mean, self.variance, self.weight, self.bias, eps=self.eps)

    def linear(self, inputs: Tensor, shape: Sequence[int]) -> Tensor:
        slope = self._slope if self.weight is None else self._slope * self.weight
        return inputs * slope.view(-1, *[1] * (inputs.dim() - 2))

    def transpose(self, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        return self.linear(outputs, shape)

    def gradients(self, inputs: Tensor, outputs: Tensor, names: Names) -> Pair:
        mean, variance = self.mean.repeat(self.trials), self.variance.repeat(self.trials)
        wanted = [False, *(name is not None for name in names)]
        # Contiguous, since torch 2.14 is wrong where the derivative of a single image is in channels-last layout.
        sides = self.side_by_side(outputs).contiguous(), self.side_by_side(inputs).contiguous()
        _, weight, bias = torch.ops.aten.native_batch_norm_backward(
            *sides, None, mean, variance, None, None, False, self.eps, wanted
        )
        shape = (self.trials, -1)
        return Pair(weight.view(shape) if wanted[1] else None, bias.view(shape) if wanted[2] else None)

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
