"""Small victims: a network of strided convolutions (DLG's LeNet) and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP", "ConvNet"]


class ConvNet(nn.Module):
    """Convolutions (5x5, padding 2, strides 2, 2, 1, 1 ...) and one linear layer.

    With width 12 and Sigmoid this is the LeNet of DLG (Zhu et al., NeurIPS 2019, section 4.1: strides, no pooling).

    Args:
        image_shape: (C, H, W).
        num_classes: number of logits.
        width: channels of each convolution.
        depth: number of convolutions.
        activation: makes the activation after each convolution.

    >>> import torch
    >>> from gia.models.small import ConvNet
    >>> net = ConvNet(image_shape=(3, 32, 32), num_classes=10, width=12, depth=3, activation=torch.nn.Sigmoid)
    >>> net.fc.in_features  # 12 channels of 8 x 8 pixels
    768
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
        channels, *size = image_shape
        layers: list[nn.Module] = []
        for index in range(depth):
            stride = 2 if index < 2 else 1
            layers += [nn.Conv2d(channels, width, 5, stride=stride, padding=2), activation()]
            channels, size = width, [-(-length // stride) for length in size]
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels * size[0] * size[1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        logits: Tensor = self.fc(self.body(inputs).flatten(1))
        return logits


class MLP(nn.Module):
    """Linear layers with activations between them; the first, `layers.0`, sees the flattened image.

    Args:
        image_shape: (C, H, W).
        num_classes: number of logits.
        hidden: units of each hidden layer.
        activation: makes the activation after each hidden layer.

    >>> import torch
    >>> from gia.models.small import MLP
    >>> net = MLP(image_shape=(1, 8, 8), num_classes=10, hidden=(5, 4), activation=torch.nn.ReLU)
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

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
