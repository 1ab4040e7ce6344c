"""What attackers make of their public images before anybody shares anything: a decoder, or an inverter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gia.attacks import train_inverter
from gia.data import Images
from gia.experiment import Protocol
from gia.models import train_decoder


def decoder_of_public(
    protocol: Protocol, model: nn.Module, public: Images, *, generator: torch.Generator, cache: Path | None
) -> Mapping[str, Any]:
    """The attacker's generator: a class-conditional decoder trained on its public images.

    With the default divergence a search over few images can leave what the decoder knows (docs/pilots.md).
    """
    return {"decoder": train_decoder(public, divergence=6e-3, generator=generator, cache=cache)}


def precise_decoder_of_public(
    protocol: Protocol, model: nn.Module, public: Images, *, generator: torch.Generator, cache: Path | None
) -> Mapping[str, Any]:
    """The same trained in float64, where processors agree, for samples that are compared between machines."""
    trained = train_decoder(public, divergence=6e-3, dtype=torch.float64, generator=generator, cache=cache)
    return {"decoder": trained}


@dataclass(frozen=True, kw_only=True)
class Inverting:
    """An inverter of the victim as it is sent, trained on the attacker's public images.

    Args:
        epochs, hidden, hashed, lr, training_batch, by_label, patience: of `gia.attacks.train_inverter`.
        most: public images that it uses at most; None takes them all.
        copies: for pictures of people: how often each picture and its mirror image occur, each time under a label drawn
            from the victim's. The attacked people are not public, so no public label is theirs. 0 keeps labels.
        noise: uniform noise takes the place of every image.
    """

    epochs: int = 10
    hidden: tuple[int, ...] = (256,)
    hashed: int | None = 256
    lr: float = 3e-3
    training_batch: int = 128
    by_label: bool = False
    patience: int | None = None
    most: int | None = None
    copies: int = 0
    noise: bool = False

    def __call__(
        self, protocol: Protocol, model: nn.Module, public: Images, *, generator: torch.Generator, cache: Path | None
    ) -> Mapping[str, Any]:
        """An `inverter` for the observations of this protocol."""
        images, labels = public.images[: self.most], public.labels[: self.most]
        if self.copies:
            images = torch.cat([images, images.flip(-1)] * self.copies)
            classes = model(images[:1].to(next(model.parameters()))).shape[1]
            labels = torch.randint(classes, (len(images),), generator=generator)
        if self.noise:
            images = torch.rand(images.shape, generator=generator)
        client = protocol.client
        inverter = train_inverter(
            model,
            images,
            labels,
            batch_size=protocol.batch.size,
            hidden=self.hidden,
            epochs=self.epochs,
            lr=self.lr,
            training_batch=self.training_batch,
            hashed=self.hashed,
            by_label=self.by_label,
            patience=self.patience,
            local=client.local if "local" in client.reveal else protocol.attacker.assumed,
            training=client.training,
            generator=generator,
            cache=cache,
        )
        return {"inverter": inverter}
