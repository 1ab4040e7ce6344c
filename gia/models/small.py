"""Small victims: strided convolutions (DLG's LeNet) and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP", "ConvNet"]


class ConvNet(nn.Module):
    """`depth` 5x5 convolutions of `width` channels with strides 2, 2, 1, 1 ... and padding 2, then one linear layer.

    With width 12 and Sigmoid this is the LeNet of DLG (Zhu et al., NeurIPS 2019, section 4.1: strides, no pooling).
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        width: int,
        depth: int,
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        layers: list[nn.Module] = []
        for index in range(depth):
            stride = 2 if index < 2 else 1
            layers += [nn.Conv2d(channels, width, 5, stride=stride, padding=2), activation()]
            channels, sides = width, [-(-side // stride) for side in sides]
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels * sides[0] * sides[1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        logits: Tensor = self.fc(self.body(inputs).flatten(1))
        return logits


class MLP(nn.Module):
    """Linear layers on the flattened image, an activation between them; `layers.0` sees the pixels."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        sizes = [image_shape[0] * image_shape[1] * image_shape[2], *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        logits: Tensor = self.layers(inputs.flatten(1))
        return logits
