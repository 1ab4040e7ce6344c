"""ResNet in its form for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

__all__ = ["CifarResNet"]


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) of He et al., 2016, section 4.2: three stages of n blocks, shortcuts without parameters.

    Args:
        channels: of the images.
        num_classes: number of logits.
        width: channels of the first stage; the others have 2 and 4 times as many.
        blocks: n, residual blocks of each stage.

    >>> import torch
    >>> from gia.models.cifar_resnet import CifarResNet
    >>> CifarResNet(channels=3, num_classes=10, width=4, blocks=1)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

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
    # Option A of the paper: every second pixel, zeros for the new channels.
    def forward(self, inputs: Tensor) -> Tensor:
        return F.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, 0, inputs.shape[1]))


def _stage(before: int, after: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(before, after, stride, _PaddedShortcut() if stride == 2 else None)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))
