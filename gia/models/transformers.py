"""Vision Transformers of timm, with any width, depth, patch, activation and number of input channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HEAD_WIDTH", "VITS", "SeparateProjections", "make", "vision_transformer"]

#: Name -> (width, depth) of Dosovitskiy et al., 2021, Table 1, and of Touvron et al., 2021, Table 1 (tiny and small).
VITS = {"vit_tiny": (192, 12), "vit_small": (384, 12), "vit_base": (768, 12), "vit_large": (1024, 24)}

#: Features of one attention head in all of them.
HEAD_WIDTH = 64


def make(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    width: int,
    activation: Callable[[], nn.Module],
    patch: int,
    depth: int | None,
    heads: int | None,
    fused: bool,
) -> nn.Module:
    """A Vision Transformer without dropout, with its initial weights left out; `gia.models.build` calls it.

    >>> import torch
    >>> from gia.models import transformers
    >>> sizes = {"image_shape": (3, 8, 8), "num_classes": 5, "width": 16, "patch": 4, "depth": 1, "heads": 2}
    >>> net = transformers.make("vit_tiny", **sizes, activation=torch.nn.GELU, fused=True)
    >>> net.pos_embed.shape  # a class token and four patches
    torch.Size([1, 5, 16])
    """
    channels, *sides = image_shape
    heads = max(1, width // HEAD_WIDTH) if heads is None else heads
    depth = VITS[name][1] if depth is None else depth
    for label, value in (("patch", patch), ("depth", depth), ("heads", heads)):
        if value < 1:
            raise ValueError(f"{label}: expected at least 1, got {value}")
    if any(side % patch for side in sides):
        raise ValueError(f"patch: expected a divisor of the image's sides {tuple(sides)}, got {patch}")
    if width % heads:
        raise ValueError(f"width: expected a multiple of heads={heads}, got {width}")
    net: nn.Module = vision_transformer(name)(
        img_size=(sides[0], sides[1]),
        patch_size=patch,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        weight_init="skip",
        act_layer=_named(activation),
    )
    if not fused:
        for module in net.modules():
            if isinstance(getattr(module, "qkv", None), nn.Linear):
                module.qkv = SeparateProjections(width)
    return net


class SeparateProjections(nn.Module):
    """Queries, keys and values by three linear layers, in place of timm's single one, so that each can be adapted.

    The layers have the names that Hugging Face's Vision Transformers use.

    Args:
        width: features of the input, and of each output.

    >>> import torch
    >>> SeparateProjections(4)(torch.zeros(1, 2, 4)).shape
    torch.Size([1, 2, 12])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, tokens, width) -> (N, tokens, 3 * width)."""
        return torch.cat([self.query(tokens), self.key(tokens), self.value(tokens)], -1)


def vision_transformer(name: str) -> Callable[..., nn.Module]:
    """timm's class `VisionTransformer`, for the network of this name.

    Raises:
        ModuleNotFoundError: timm is not installed.

    >>> vision_transformer("vit_tiny").__name__
    'VisionTransformer'
    """
    try:
        with torch.device("cpu"):  # torch's compiler, which comes with it, computes with tensors in torch 2.6
            from timm.models.vision_transformer import VisionTransformer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"timm: expected to be installed for the network {name}; python -m pip install 'timm>=1.0'", name="timm"
        ) from error
    network: Callable[..., nn.Module] = VisionTransformer
    return network


def _named(activation: Callable[[], nn.Module]) -> Callable[..., nn.Module]:
    def layer(**_: Any) -> nn.Module:  # timm asks for an in-place one where there is one
        return activation()

    return layer
