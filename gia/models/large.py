"""Networks of torchvision, with any width, activation and number of input channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.alexnet import AlexNet
from torchvision.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import vgg16

from gia.models.cifar_resnet import CifarResNet

__all__ = ["make"]

_RESNETS = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}

#: Residual blocks of each stage.
_CIFAR_RESNETS = {"resnet8": 1, "resnet20": 3}


def make(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    width: int,
    activation: Callable[[], nn.Module],
    **options: Any,
) -> nn.Module:
    """A network of this width, without dropout, with `activation` in place of every ReLU; `gia.models.build` calls it.

    >>> import torch
    >>> from gia.models import large
    >>> sizes = {"image_shape": (1, 8, 8), "num_classes": 3, "width": 4}
    >>> large.make("resnet8", **sizes, activation=torch.nn.Tanh)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """
    if name in _CIFAR_RESNETS:
        sizes = {"num_classes": num_classes, "width": width, "blocks": _CIFAR_RESNETS[name]}
        net: nn.Module = CifarResNet(channels=image_shape[0], **sizes)
    else:
        net = _MAKERS[name](num_classes, **options)
        _adapt(net, channels=image_shape[0], width=width, native_width=64)
        _replace_modules(net, nn.Dropout, lambda _: nn.Identity())
    _replace_modules(net, nn.ReLU, lambda _: activation())
    return net


def _resnet(name: str, num_classes: int, *, stem: str) -> nn.Module:
    """ResNet of He et al., 2016; the "3x3" stem, for small images, has stride 1 and no pooling (arXiv 2503.11514)."""
    block, layers = _RESNETS[name]
    net: nn.Module = ResNet(block, layers, num_classes=num_classes)
    if stem == "3x3":
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    return net


def _alexnet(num_classes: int, *, stem: str) -> nn.Module:
    """AlexNet (torchvision's); the "3x3" stem has stride 1, for small images: a departure from the source."""
    net: nn.Module = AlexNet(num_classes=num_classes)
    net.set_submodule("avgpool", _AveragePool(6))
    if stem == "3x3":
        net.set_submodule("features.0", nn.Conv2d(3, 64, 3, padding=1))
    return net


def _vgg16(num_classes: int) -> nn.Module:
    """VGG-16 without BatchNorm (torchvision's)."""
    net: nn.Module = vgg16(num_classes=num_classes, init_weights=False)
    net.set_submodule("avgpool", _AveragePool(7))
    return net


def _googlenet(num_classes: int, *, stem: str) -> nn.Module:
    """GoogLeNet with BatchNorm and without auxiliary heads (torchvision's); the "3x3" stem is as for ResNets."""
    inception = partial(Inception, conv_block=_ConvBlock)
    net: nn.Module = GoogLeNet(
        num_classes=num_classes,
        aux_logits=False,
        init_weights=False,
        blocks=[_ConvBlock, inception, InceptionAux],
    )
    if stem == "3x3":
        net.conv1 = _ConvBlock(3, 64, kernel_size=3, padding=1)
        net.maxpool1 = nn.Identity()
    return net


class _AveragePool(nn.Module):
    # AdaptiveAvgPool2d as two matrix products, since torch's has no deterministic gradient on CUDA.
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, inputs: Tensor) -> Tensor:
        height, width = (_averaging(size, self.size, inputs) for size in inputs.shape[2:])
        return height @ inputs @ width.T


def _averaging(size: int, pooled: int, like: Tensor) -> Tensor:
    # Row i averages the inputs floor(i size / pooled) .. ceil((i + 1) size / pooled) - 1.
    rows, columns = torch.arange(pooled, device=like.device)[:, None], torch.arange(size, device=like.device)
    inside = (columns >= rows * size // pooled) & (columns * pooled < (rows + 1) * size)
    return inside.to(like) / inside.sum(1, keepdim=True)


class _ConvBlock(BasicConv2d):  # type: ignore[misc]  # torchvision is untyped
    # torchvision's block calls F.relu, which `make` could not replace.
    def __init__(self, in_channels: int, out_channels: int, **settings: int) -> None:
        super().__init__(in_channels, out_channels, **settings)
        self.relu = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.relu(self.bn(self.conv(inputs)))
        return outputs


def _adapt(net: nn.Module, *, channels: int, width: int, native_width: int) -> None:
    """Multiply all inner widths of `net` by width / native_width and give it `channels` input channels, in place.

    Raises ValueError if a layer would get a fractional width.
    """
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    linears = [module for module in net.modules() if isinstance(module, nn.Linear)]
    step = native_width // gcd(native_width, *(module.out_channels for module in convolutions))
    if width % step:
        raise ValueError(f"width: expected a multiple of {step} for this network, got {width}")

    def scaled(size: int) -> int:
        return size * width // native_width

    def convolution(module: nn.Conv2d) -> nn.Conv2d:
        return nn.Conv2d(
            channels if module is convolutions[0] else scaled(module.in_channels),
            scaled(module.out_channels),
            module.kernel_size,  # type: ignore[arg-type]  # a pair, as torch stores it
            stride=module.stride,  # type: ignore[arg-type]
            padding=module.padding,  # type: ignore[arg-type]
            bias=module.bias is not None,
        )

    def linear(module: nn.Linear) -> nn.Linear:
        last = module is linears[-1]
        return nn.Linear(scaled(module.in_features), module.out_features if last else scaled(module.out_features))

    def norm(module: nn.BatchNorm2d) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(scaled(module.num_features), eps=module.eps, momentum=module.momentum)

    _replace_modules(net, nn.Conv2d, convolution)
    _replace_modules(net, nn.Linear, linear)
    _replace_modules(net, nn.BatchNorm2d, norm)


def _replace_modules(net: nn.Module, kind: type[nn.Module], make: Callable[..., nn.Module]) -> None:
    """Replace every submodule of exactly this kind by `make(module)`, under the same name."""
    for name, module in list(net.named_modules()):
        if type(module) is kind:
            net.set_submodule(name, make(module))


_MAKERS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(_resnet, name) for name in _RESNETS},
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "googlenet": _googlenet,
}
