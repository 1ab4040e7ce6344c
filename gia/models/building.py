"""`build` makes a victim by name and draws its weights from a generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gia.errors import expected_one_of
from gia.models.activations import ACTIVATIONS
from gia.models.initialization import INITIALIZATIONS, initialize
from gia.models.small import MLP, ConvNet
from gia.models.transformers import VITS

__all__ = ["NAMES", "build"]


def build(
    name: str,
    *,
    num_classes: int,
    image_size: int | tuple[int, int],
    channels: int = 3,
    width: int | None = None,
    activation: str | None = None,
    init: str = "default",
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> nn.Module:
    """A victim that maps images (N, channels, H, W) in [0, 1] to logits (N, num_classes), in train mode on the CPU.

    | name | width (default) | init "default" is | options (first is default) |
    |---|---|---|---|
    | lenet (DLG's, 5x5 convolutions) | channels (12) | torch | depth=3, 4 ... |
    | convnet (the same, wider) | channels (32) | torch | depth=3, 4 ... |
    | mlp | units of one hidden layer (256) | torch | hidden=(sizes of all hidden layers) |
    | resnet10, 18, 34, 50, 101 | channels of stage 1 (64) | kaiming | stem="3x3", "7x7" |
    | resnet8, 20 (the CIFAR form) | channels of stage 1 (16) | kaiming | |
    | alexnet | first channels (64) | torch | stem="11x11", "3x3" |
    | vgg16 | first channels (64) | vgg | |
    | googlenet | first channels (64) | googlenet | stem="7x7", "3x3" |
    | vit_tiny, small, base, large | features (192, 384, 768, 1024) | vit | patch=16, depth=12 (24), heads, fused=True |

    DLG's victim is `build("lenet", activation="sigmoid", init="dlg", ...)`. A Vision Transformer is timm's and needs
    that package. It has width/64 heads by default, and with fused=False one linear layer each for queries, keys and
    values. All layers scale with the width. Networks have no dropout, and no activation is random, so a forward pass
    draws no random numbers. No activation works in place.

    Args:
        name: as in the table; resnet18 with stem="7x7" has torchvision's parameter names.
        num_classes: number of logits.
        image_size: height and width in pixels if they are equal, or (height, width).
        channels: 1 for gray images, 3 for colour.
        width: as in the table; None takes the default.
        activation: every activation of the network: sigmoid, relu, tanh, leaky_relu, rrelu (mean slope), gelu or silu.
            Variants of the Sigmoid are sigmoid(4x), sigmoid(2x), sigmoid(x/2), sigmoid/4, 4*sigmoid and sigmoid-1/2;
            "linear" is the identity. None takes gelu for a Vision Transformer and relu for the others.
        init: "default" (the network's own, as in the table), "torch" (each layer's default), "dlg" (all from
            U(-0.5, 0.5)), "kaiming", "vgg" or "googlenet" (as torchvision initializes ResNets, VGG and GoogLeNet), or
            "vit" (as timm initializes Vision Transformers).
        generator: source of the weights, on the CPU. Weights are drawn in float32 and then converted, so that both
            dtypes hold the same network.
        dtype: float32 or float64.
        options: as in the table.

    Returns:
        The network. Its classifier is the last linear layer that it lists.

    Raises:
        ValueError: an unknown name, a size out of range, or images too small for the network.
        TypeError: an option that this network does not have.
        ModuleNotFoundError: a Vision Transformer without timm.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> net = gia.models.build("lenet", num_classes=10, image_size=32, activation="sigmoid", init="dlg", generator=g)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    sizes = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if name not in _ARCHITECTURES:
        raise ValueError(expected_one_of("name", name, sorted(_ARCHITECTURES)))
    architecture = _ARCHITECTURES[name]
    activation = architecture.activation if activation is None else activation
    for label, choice, known in (
        ("activation", activation, sorted(ACTIVATIONS)),
        ("init", init, ["default", *sorted(INITIALIZATIONS)]),
        ("dtype", dtype, [torch.float32, torch.float64]),
    ):
        if choice not in known:
            raise ValueError(expected_one_of(label, choice, [str(one) for one in known]))
    width = architecture.width if width is None else width
    counts = (("num_classes", num_classes), ("channels", channels), ("width", width))
    for label, value in (*counts, *(("image_size", size) for size in sizes)):
        if value < 1:
            raise ValueError(f"{label}: expected at least 1, got {value}")
    if unknown := sorted(set(options) - set(architecture.options)):
        raise TypeError(f"{unknown[0]}: expected only options of {name}, {sorted(architecture.options)}, got this one")
    if "stem" in options and options["stem"] not in architecture.stems:
        raise ValueError(expected_one_of("stem", options["stem"], architecture.stems))

    least = architecture.least.get(options.get("stem", architecture.options.get("stem")), 1)
    if min(sizes) < least:
        raise ValueError(f"image_size: expected at least {least} for {name}, got {sizes}")

    with torch.device("meta"):  # no memory, no random numbers
        net = architecture.make(
            image_shape=(channels, *sizes),
            num_classes=num_classes,
            width=width,
            activation=ACTIVATIONS[activation],
            **(dict(architecture.options) | options),
        )
    net.float().to_empty(device="cpu")  # drawn in float32, whatever the default dtype is
    initialize(net, architecture.init if init == "default" else init, generator)
    return net.to(dtype)


def _conv_net(**settings: Any) -> nn.Module:
    if settings["depth"] < 1:
        raise ValueError(f"depth: expected at least 1, got {settings['depth']}")
    return ConvNet(**settings)


def _mlp(*, width: int, hidden: tuple[int, ...] | None, **settings: Any) -> nn.Module:
    hidden = (width,) if hidden is None else tuple(hidden)
    if any(size < 1 for size in hidden):
        raise ValueError(f"hidden: expected sizes of at least 1, got {hidden}")
    return MLP(hidden=hidden, **settings)


def _large(name: str) -> Callable[..., nn.Module]:
    def make(**settings: Any) -> nn.Module:
        # Imported only here, since torchvision's models import torch's compiler, which takes as long as torch itself
        # and, in torch 2.6, computes with tensors of the default device.
        with torch.device("cpu"):
            from gia.models import large

        return large.make(name, **settings)

    return make


def _vit(name: str) -> Callable[..., nn.Module]:
    def make(**settings: Any) -> nn.Module:
        from gia.models import transformers

        return transformers.make(name, **settings)

    return make


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    make: Callable[..., nn.Module]
    width: int
    init: str
    activation: str = "relu"
    options: Mapping[str, object] = field(default_factory=dict)  # option -> default
    stems: tuple[str, ...] = ()
    least: Mapping[object, int] = field(default_factory=dict)  # stem -> smallest image_size


def _resnet(name: str) -> _Architecture:
    return _Architecture(
        make=_large(name),
        width=64,
        init="kaiming",
        options={"stem": "3x3"},
        stems=("3x3", "7x7"),
    )


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "lenet": _Architecture(make=_conv_net, width=12, init="torch", options={"depth": 3}),
    "convnet": _Architecture(make=_conv_net, width=32, init="torch", options={"depth": 3}),
    "mlp": _Architecture(make=_mlp, width=256, init="torch", options={"hidden": None}),
    **{name: _resnet(name) for name in ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101")},
    **{name: _Architecture(make=_large(name), width=16, init="kaiming") for name in ("resnet8", "resnet20")},
    "alexnet": _Architecture(
        make=_large("alexnet"),
        width=64,
        init="torch",
        options={"stem": "11x11"},
        stems=("11x11", "3x3"),
        least={"11x11": 63, "3x3": 15},
    ),
    "vgg16": _Architecture(make=_large("vgg16"), width=64, init="vgg", least={None: 32}),
    "googlenet": _Architecture(
        make=_large("googlenet"),
        width=64,
        init="googlenet",
        options={"stem": "7x7"},
        stems=("7x7", "3x3"),
        least={"7x7": 15, "3x3": 4},
    ),
    **{
        name: _Architecture(
            make=_vit(name),
            width=width,
            init="vit",
            activation="gelu",
            options={"patch": 16, "depth": None, "heads": None, "fused": True},
        )
        for name, (width, _) in VITS.items()
    },
}

NAMES: tuple[str, ...] = tuple(_ARCHITECTURES)
