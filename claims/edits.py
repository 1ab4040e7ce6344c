"""What a server does to the network before it sends it: an imprint block, or low-rank adapters, honest or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from gia.data import Images
from gia.federated import fit
from gia.federated.server import Gaussian, flatten_blocks, imprint, probed
from gia.models import lora


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


@dataclass(frozen=True)
class Adapted:
    """Low-rank adapters in a Transformer, which alone are trained and shared; the server is honest.

    They are trained on the server's own images, none of which is attacked, as rounds of a federation before this one
    would.

    Args:
        rank, targets: of the adapters (`gia.models.lora`).
        epochs: passes over at most 64 public images, by Adam in batches of 16; 0 leaves every B at zero.
    """

    rank: int = 4
    targets: str = "qkv"
    epochs: int = 0

    step_size: ClassVar[float] = 1e-2

    def __call__(self, model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
        adapted = lora(model, rank=self.rank, targets=self.targets, generator=generator)
        if self.epochs == 0:
            return adapted
        few = public.take(torch.arange(min(len(public), 64)))
        fitted = fit(
            adapted, few, epochs=self.epochs, batch_size=16, lr=self.step_size, held_out=few, generator=generator
        )
        return fitted.model


@dataclass(frozen=True)
class SlowlyAdapted(Adapted):
    """The same adapters, trained with a tenth of the step size, at which those of a large rank do not diverge."""

    step_size: ClassVar[float] = 1e-3


@dataclass(frozen=True)
class Flattened(Adapted):
    """The same adapters, sent by a malicious server in whose network all blocks see the patches.

    Trunk and adapters are drawn as the honest ones are, so that a client can compare the two networks.

    Args:
        rank, targets, epochs: of the honest network.
    """

    def __call__(self, model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
        return flatten_blocks(super().__call__(model, public, generator=generator), generator=generator)
