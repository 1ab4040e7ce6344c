"""LPIPS with the trained AlexNet and VGG16 trunks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gia.errors import expected_one_of
from gia.metrics._checks import image_pair
from gia.metrics.trunks import convolutions

__all__ = ["NETS", "SMALLEST", "between", "distances", "features", "lpips", "pairwise"]

NETS = ("alex", "vgg")
SMALLEST = 32
"""Smallest height and width that LPIPS takes, in pixels."""


@torch.no_grad()
def lpips(reconstruction: Tensor, reference: Tensor, *, net: str = "alex") -> Tensor:
    """Learned perceptual image patch similarity of each image: 0 for identical images, larger is worse.

    Zhang, Isola, Efros, Shechtman and Wang (CVPR 2018), version 0.1 with the calibrated heads of the `lpips` package.
    The trunks are always the ones trained on ImageNet: without them an error is raised, no random trunk is used.

    At 32 pixels the AlexNet trunk has features of 7 x 7 to 1 x 1 positions and can prefer another sharp image to a
    blurred copy of the right one. Report `net="vgg"`, PSNR and SSIM, too. A pair of such images takes about 1.5 ms with
    AlexNet and 45 ms with VGG on one CPU core in float32, and three times as long in float64.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped. One channel is
            repeated to three.
        reference: the originals (B,C,H,W), C = 1 or 3, in [0,1], at least 32 pixels high and wide.
        net: "alex" or "vgg".

    Returns:
        Tensor (B,), at least 0.

    Raises:
        FileNotFoundError: the trunk is not installed; the message has the command that installs it.
        gia.data.assets.AssetError: the trunk's file is not the expected one.
        TypeError, ValueError: an unknown `net`; otherwise see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> gia.metrics.lpips(reference.flip(3), reference)
    tensor([0.0690, 0.0371])
    """
    reconstruction, reference = image_pair(reconstruction, reference, smallest=SMALLEST)
    return distances(2 * reconstruction.clamp(0, 1) - 1, 2 * reference - 1, net=net)


def distances(x: Tensor, y: Tensor, *, net: str) -> Tensor:
    """LPIPS of aligned images as the network takes them.

    Args:
        x, y: images (B,C,H,W) of one shape, nominally in [-1,1]; C = 1 or 3.
        net: "alex" or "vgg".

    Returns:
        Tensor (B,), at least 0.

    Raises:
        FileNotFoundError, gia.data.assets.AssetError, ValueError: as `lpips`.

    >>> import torch, gia
    >>> from gia.metrics.perceptual import distances
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> distances(2 * reference.flip(3) - 1, 2 * reference - 1, net="alex")
    tensor([0.0690, 0.0371])
    """
    layers = features(torch.cat((x, y)), net)
    return torch.stack([(layer[: len(x)] - layer[len(x) :]).square().sum(dim=1) for layer in layers]).sum(dim=0)


def pairwise(x: Tensor, y: Tensor, *, net: str) -> Tensor:
    """LPIPS of all pairs of N images and B others; the trunk sees every image once, not every pair.

    Args:
        x: images (N,C,H,W), nominally in [-1,1]; C = 1 or 3.
        y: images (B,C,H,W) of the same height and width.
        net: "alex" or "vgg".

    Returns:
        Tensor (N,B), at least 0.

    Raises:
        FileNotFoundError, gia.data.assets.AssetError, ValueError: as `lpips`.

    >>> import torch, gia
    >>> from gia.metrics.perceptual import pairwise
    >>> images = 2 * gia.data.load("cifar10-samples").images[:3] - 1
    >>> pairwise(images[:2], images, net="alex")
    tensor([[0.0000, 0.1943, 0.1838],
            [0.1943, 0.0000, 0.1929]])
    """
    return between(features(x, net), features(y, net))


def between(layers_x: Sequence[Tensor], layers_y: Sequence[Tensor]) -> Tensor:
    """LPIPS of all pairs of N images and B others, from the `features` of both.

    Args:
        layers_x: `features` of N images.
        layers_y: `features` of B images, by the same net.

    Returns:
        Tensor (N,B), at least 0.

    >>> import torch, gia
    >>> from gia.metrics.perceptual import between, features
    >>> images = 2 * gia.data.load("cifar10-samples").images[:3] - 1
    >>> layers = features(images, "alex")
    >>> between([layer[:1] for layer in layers], layers)
    tensor([[0.0000, 0.1943, 0.1838]])
    """
    columns = []
    for index in range(len(layers_y[0])):
        pairs = zip(layers_x, layers_y, strict=True)
        columns.append(torch.stack([(lx - ly[index]).square().sum(dim=1) for lx, ly in pairs]).sum(dim=0))
    return torch.stack(columns, dim=1)


def features(images: Tensor, net: str) -> list[Tensor]:
    """Scaled features of each layer, such that LPIPS is their squared distance, summed over layers.

    LPIPS weights squared differences of unit-length features by a head w >= 0 and averages over positions, so the
    features are scaled by sqrt(w / positions).

    Args:
        images: (B,C,H,W), nominally in [-1,1]; C = 1 or 3.
        net: "alex" or "vgg".

    Returns:
        For each layer a tensor (B, channels * positions).

    Raises:
        ValueError: an unknown `net` or another number of channels.
        FileNotFoundError, gia.data.assets.AssetError: as `lpips`.

    >>> import torch, gia
    >>> from gia.metrics.perceptual import features
    >>> images = 2 * gia.data.load("cifar10-samples").images[:2] - 1
    >>> [tuple(layer.shape) for layer in features(images, "alex")]
    [(2, 3136), (2, 1728), (2, 384), (2, 256), (2, 256)]
    """
    if net not in NETS:
        raise ValueError(expected_one_of("net", net, NETS))
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images: expected 1 or 3 channels, got {images.shape[1]}")
    network = _network(net, images.device, images.dtype)
    layers = network.net(network.scaling_layer(images.expand(-1, 3, -1, -1)))
    scaled = []
    for layer, head in zip(layers, network.lins, strict=True):
        unit = layer / (layer.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
        scale = (head.model[-1].weight / unit[0, 0].numel()).sqrt()
        scaled.append((unit * scale).flatten(1))
    return scaled


@lru_cache(maxsize=8)
def _network(net: str, device: torch.device, dtype: torch.dtype) -> Any:
    """`lpips.LPIPS` with its trained trunk and heads, in eval mode, without gradients.

    It is built on the meta device, which draws no random weights and so leaves the global generator unchanged.
    """
    import lpips as package

    with torch.device("meta"), warnings.catch_warnings():
        # lpips 0.1.4 calls torchvision with `pretrained=False`, which torchvision deprecates.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchvision\.models")
        network = package.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = package.ScalingLayer()
    path = Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    heads = torch.load(path, map_location="cpu", weights_only=True)
    for index, head in enumerate(network.lins):
        _fill(head.model[-1], weight=heads[f"lin{index}.model.1.weight"])
    trunk = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]
    for module, (weight, bias) in zip(trunk, convolutions(net), strict=True):
        _fill(module, weight=weight, bias=bias)
    # Channels last: 5-20 % less time on a CPU.
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()


def _fill(module: nn.Module, **values: Tensor) -> None:
    for name, value in values.items():
        if value.shape != getattr(module, name).shape:
            raise ValueError(
                f"{name} of {module}: expected shape {tuple(getattr(module, name).shape)}, got {tuple(value.shape)}"
            )
        setattr(module, name, nn.Parameter(value, requires_grad=False))
