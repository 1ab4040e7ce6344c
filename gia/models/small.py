"""Small victims: strided convolutions (DLG's LeNet), a multilayer perceptron, and the CIFAR form of ResNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

__all__ = ["MLP", "CifarResNet", "ConvNet"]


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


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) of He et al., 2016, section 4.2: three stages of n blocks, shortcuts without parameters."""

    def __init__(self, *, channels: int, num_classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, num_classes)."""
        features = self.relu(self.bn1(self.conv1(inputs)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


class _PaddedShortcut(nn.Module):
    # Option A: every second pixel, new channels zero.
    def forward(self, inputs: Tensor) -> Tensor:
        return F.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, 0, inputs.shape[1]))


def _stage(before: int, after: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(before, after, stride, _PaddedShortcut() if stride == 2 else None)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))
