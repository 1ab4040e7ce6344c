"""Activations by name, none of them in place or random."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ACTIVATIONS", "MeanSlopeRReLU"]


class MeanSlopeRReLU(nn.Module):
    """RReLU (Xu et al., 2015) with its mean slope, (1/8 + 1/3) / 2, in training too.

    Departure: random slopes would move the global random state and make a gradient irreproducible.
    """

    slope = (1 / 8 + 1 / 3) / 2

    def forward(self, inputs: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return F.leaky_relu(inputs, self.slope)


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "rrelu": MeanSlopeRReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
