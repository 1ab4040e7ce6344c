"""Activations by name. None of them works in place or draws random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ACTIVATIONS", "Logistic", "MeanSlopeRReLU"]


class MeanSlopeRReLU(nn.Module):
    """RReLU (Xu et al., 2015) with its mean slope, (1/8 + 1/3) / 2, also in training mode.

    This is a departure: random slopes would move the global random state, and a gradient could not be repeated.

    >>> import torch
    >>> from gia.models.activations import MeanSlopeRReLU
    >>> MeanSlopeRReLU()(torch.tensor([-48.0, 1.0]))
    tensor([-11.,   1.])
    """

    slope = (1 / 8 + 1 / 3) / 2

    def forward(self, inputs: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return F.leaky_relu(inputs, self.slope)


class Logistic(nn.Module):
    """height * sigmoid(steepness * x) + offset, a Sigmoid with separate settings for linearity, range and mean.

    Args:
        steepness: the larger, the less linear the function is near 0.
        height: distance of its limits.
        offset: lower limit.

    Tanh has steepness 2, height 2 and offset -1.

    >>> import torch
    >>> from gia.models.activations import Logistic
    >>> Logistic(height=4.0, offset=-2.0)(torch.zeros(1)).tolist()
    [0.0]
    """

    def __init__(self, *, steepness: float = 1.0, height: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.steepness, self.height, self.offset = steepness, height, offset

    def forward(self, inputs: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return self.height * (self.steepness * inputs).sigmoid() + self.offset

    def extra_repr(self) -> str:
        """The settings, for the `repr` of a network."""
        return f"steepness={self.steepness:g}, height={self.height:g}, offset={self.offset:g}"


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "rrelu": MeanSlopeRReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid(4x)": partial(Logistic, steepness=4.0),
    "sigmoid(2x)": partial(Logistic, steepness=2.0),
    "sigmoid(x/2)": partial(Logistic, steepness=0.5),
    "sigmoid/4": partial(Logistic, height=0.25),
    "4*sigmoid": partial(Logistic, height=4.0),
    "sigmoid-1/2": partial(Logistic, offset=-0.5),
    "linear": nn.Identity,
}
