"""What a malicious server does to the network before it sends it."""

from __future__ import annotations

from dataclasses import dataclass

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
