"""What a malicious server does to the network before it sends it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gia.data import Images
from gia.federated.server import Gaussian, imprint, probed


@dataclass(frozen=True)
class Imprinted:
    """An imprint block in front of the network, with its cut-offs at the quantiles of a normal distribution.

    The distribution is fitted to the server's own images, none of which is attacked.

    Args:
        bins, sparse, strength: of the block.
        mode: the DCT mode that it measures, (0, 0) the brightness.
    """

    bins: int = 1000
    sparse: bool = False
    mode: tuple[int, int] = (0, 0)
    strength: float = 1.0

    def __call__(self, model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
        _, channels, height, width = public.images.shape
        return imprint(
            model,
            image_shape=(channels, height, width),
            bins=self.bins,
            probe=self.mode,
            quantiles=Gaussian.of(probed(public.images, probe=self.mode)),
            sparse=self.sparse,
            strength=self.strength,
            generator=generator,
        )


def replicating(model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
    """The same net whose convolutions repeat the pixels of the border in place of zeros."""
    changed = copy.deepcopy(model)
    for name, layer in list(changed.named_modules()):
        if isinstance(layer, nn.Conv2d) and any(layer.padding):
            settings: dict[str, Any] = {
                "stride": layer.stride,
                "padding": layer.padding,
                "bias": layer.bias is not None,
            }
            settings["kernel_size"] = layer.kernel_size
            with torch.device("meta"):
                made = nn.Conv2d(layer.in_channels, layer.out_channels, **settings, padding_mode="replicate")
            made.load_state_dict(layer.state_dict(), assign=True)
            changed.set_submodule(name, made)
    return changed
