"""One communication round of a block: whose images take part, the victim as sent, and what the attacker holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from typing import Protocol as Structure

import torch
from torch import Tensor, nn

from gia.data import Images, load_cached, sample
from gia.experiment.protocol import Fitting, Protocol
from gia.federated import Fit, accuracy, fit
from gia.models import build, standardize
from gia.numerics import generator_of


class Block(Structure):
    """What a round asks of a block: its drawn setting, its lane, and a generator for each purpose."""

    @property
    def setting(self) -> Mapping[str, object]: ...

    @property
    def lane(self) -> str: ...

    def generator(self, *purpose: str | int) -> torch.Generator: ...


@dataclass(frozen=True)
class Controlling:
    """The block of a control: the setting of another block, with other generators."""

    of: Block

    @property
    def setting(self) -> Mapping[str, object]:
        """As it was drawn."""
        return self.of.setting

    @property
    def lane(self) -> str:
        """Of the block."""
        return lane_of(self.of)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Of the block, for a purpose of its control."""
        return self.of.generator("control", *purpose)


def lane_of(block: Block) -> str:
    """The lane of a block; blocks without one belong to the claims."""
    lane: str = getattr(block, "lane", "claims")
    return lane


class Round:
    """What a protocol comes to in one block. Each part is made when it is first asked for, and once.

    Args:
        protocol: the setting of the block is put in.
        block: its generators draw everything, so levels share what their protocols share.
        cache: a folder where trained nets are kept; None trains them again each time.
    """

    def __init__(self, protocol: Protocol, block: Block, *, cache: Path | None = None) -> None:
        self.protocol = protocol.drawn(block.setting)
        self.block = block
        self.cache = cache

    @cached_property
    def data(self) -> Images:
        """All the images of the protocol's data."""
        batch = self.protocol.batch
        return load_cached(batch.data, image_size=batch.image_size, channels=batch.channels, root=self.protocol.root)

    @cached_property
    def private(self) -> Tensor:
        """Indices (images,) of the private images, the same for all levels with one pattern."""
        batch = self.protocol.batch
        free = self._without(self._reserved)
        chosen = sample(
            self.data if len(free) == len(self.data) else self.data.take(free),
            batch.images,
            pattern=batch.pattern,
            batch_size=batch.pattern_batch or batch.size,
            generator=self.block.generator("images"),
        )
        return free[chosen]

    @cached_property
    def control(self) -> Tensor:
        """Indices of the control's images, in the private ones' label pattern; none is private or a shared attacker's.

        Without `control_images` they are one batch, or as many batches as make two images.
        """
        batch, rest = self.protocol.batch, self._without(torch.cat([self.private, self._reserved]))
        repeats = batch.pattern not in ("any", "distinct")  # a condition on this many images, not on any part of them
        group = (batch.pattern_batch or batch.size) if repeats else batch.size
        count = self.protocol.scoring.control_images or group * -(-2 // group)
        if not 1 <= count <= len(rest):
            raise ValueError(
                f"control_images: expected 1 to {len(rest)}, the images of {batch.data!r} that are "
                f"neither private nor a shared attacker's, got {count}"
            )
        generator = self.block.generator("control images")
        if count % group:
            return rest[torch.randperm(len(rest), generator=generator)[:count]]
        return rest[sample(self.data.take(rest), count, pattern=batch.pattern, batch_size=group, generator=generator)]

    @cached_property
    def controlled(self) -> Round:
        """The round of the control: another victim from the same setting, and the control images as private ones.

        The private images take the place of the control's, which nobody attacks, so the attacker holds the same images.
        """
        other = Round(self.protocol, Controlling(self.block), cache=self.cache)
        other.__dict__.update(private=self.control, control=self.private, data=self.data)
        return other

    @cached_property
    def controlled_on_public(self) -> Round:
        """As `controlled`, with as many images that are held out of the attacker's own set, which is of another domain.

        The victim is one of the attacked domain. The attacker holds the rest of its set.
        """
        batch, other, own = self.protocol.batch, self.controlled, self.public
        held_out = sample(
            own,
            len(self.control),
            pattern=batch.pattern,
            batch_size=batch.pattern_batch or batch.size,
            generator=self.block.generator("held out public images"),
        )
        kept = torch.ones(len(own), dtype=torch.bool).index_fill(0, held_out, False).nonzero()[:, 0]
        made: dict[str, Any] = {"victim": other.victim}
        if self.protocol.fit is not None:
            made |= {"fitted": other.fitted, "accuracy": other.accuracy}
        outside = Round(self.protocol, other.block, cache=self.cache)
        outside.__dict__.update(made, data=own, private=held_out, public=own.take(kept))
        return outside

    @cached_property
    def remaining(self) -> Tensor:
        """Indices of the images that are neither private nor the control's, in a random order.

        For an attacker that is shared by many blocks: what that attacker holds.
        """
        if self.protocol.attacker.seed is not None:
            return self._reserved
        attacked = torch.cat([self.private, self.control])
        left = self._without(attacked)
        if self.protocol.attacker.disjoint == "labels":
            left = left[~torch.isin(self.data.labels[left], self.data.labels[attacked])]
        return left[torch.randperm(len(left), generator=self.block.generator("left over"))]

    @cached_property
    def bystanders(self) -> Tensor:
        """The same indices in one order for all blocks, so that nearly the same images come first in each."""
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))
        return order[torch.isin(order, self.remaining)]

    @cached_property
    def public(self) -> Images:
        """The attacker's own images. Raises ValueError where the protocol's data leave none."""
        name, batch = self.protocol.attacker.public, self.protocol.batch
        if name is not None:
            channels = self.data.images.shape[1]
            return load_cached(name, image_size=batch.image_size, channels=channels, root=self.protocol.root)
        if not len(self.remaining):
            raise ValueError(f"public: expected images of {batch.data!r} that are not attacked, got none")
        return self.data.take(self.remaining)

    def attacker_generator(self, purpose: str) -> torch.Generator:
        """A generator for a net of the attacker or for the judge: the block's, or its lane's for a shared attacker."""
        seed = self.protocol.attacker.seed
        return self.block.generator(purpose) if seed is None else generator_of(lane_of(self.block), seed, purpose)

    def others_of_their_class(self, chosen: Tensor) -> Tensor:
        """For each chosen index another one with its label that is not chosen; ValueError where there is none."""
        generator, others = self.block.generator("others of their class"), []
        for index in chosen.tolist():
            alike = (self.data.labels == self.data.labels[index]).index_fill(0, chosen, False).nonzero()[:, 0]
            if not len(alike):
                label = int(self.data.labels[index])
                raise ValueError(f"psnr_other: expected another image with label {label} in the data, got none")
            others.append(int(alike[torch.randint(len(alike), (1,), generator=generator)]))
        return torch.tensor(others)

    @cached_property
    def fitted(self) -> Fit:
        """The victim after the whole training, with what it was after half of it. The protocol must have a `fit`."""
        fitting, (train, held_out) = self._fitting, self._divided
        start = self._edited(self._untrained) if fitting.as_attacked else self._untrained
        return fit(
            start.to(self.protocol.device),
            train,
            epochs=fitting.epochs,
            batch_size=fitting.batch_size,
            lr=fitting.lr,
            held_out=held_out,
            generator=self.block.generator("fit"),
            checkpoints=(fitting.half,),
            cache=self.cache,
        )

    @cached_property
    def victim(self) -> nn.Module:
        """The victim as it is sent: built, trained as far as the protocol says, edited by a malicious server."""
        fitting = self.protocol.fit
        if fitting is None or fitting.state == "untrained":
            return self._edited(self._untrained).to(self.protocol.device)
        model = self.fitted.model if fitting.state == "trained" else self.fitted.checkpoints[fitting.half]
        return (model if fitting.as_attacked else self._edited(model)).to(self.protocol.device)

    @cached_property
    def accuracy(self) -> float | None:
        """Of the victim as sent, on the images held out of its training; None where the protocol has no `fit`."""
        return None if self.protocol.fit is None else accuracy(self.victim, self._divided[1])

    @property
    def _fitting(self) -> Fitting:
        if self.protocol.fit is None:
            raise ValueError("fit: expected a Fitting in the protocol, got None")
        return self.protocol.fit

    @cached_property
    def _reserved(self) -> Tensor:
        """Indices that belong to an attacker that is shared by many blocks; no block attacks them."""
        if self.protocol.attacker.seed is None:
            return torch.empty(0, dtype=torch.int64)
        return torch.randperm(len(self.data), generator=self.attacker_generator("public"))[: 7 * len(self.data) // 8]

    @cached_property
    def _divided(self) -> tuple[Images, Images]:
        """What the victim is trained on, and what its accuracy is measured on; the same for all of its states."""
        fitting, data = self._fitting, self.data
        attacked = torch.cat([self.private, self.control])
        left = self._without(attacked)
        left = left[torch.randperm(len(left), generator=self.block.generator("held out"))]
        held = []
        for label in range(data.num_classes):
            members = left[data.labels[left] == label]
            held.append(members[: round(fitting.held_out * int((data.labels == label).sum()))])
        out = torch.cat(held)
        return data.take(self._without(out if fitting.members else torch.cat([out, attacked]))), data.take(out)

    @cached_property
    def _untrained(self) -> nn.Module:
        victim = self.protocol.victim
        model = build(
            victim.name,
            num_classes=self.data.num_classes,
            image_size=self.protocol.batch.image_size,
            channels=self.data.images.shape[1],
            generator=self.block.generator("victim"),
            dtype=getattr(torch, victim.dtype),
            **victim.options,
        )
        return model if victim.standardize is None else standardize(model, **victim.standardize)

    def _edited(self, model: nn.Module) -> nn.Module:
        edit = self.protocol.victim.edit
        if edit is None:
            return model
        return edit(model.cpu(), self.public, generator=self.block.generator("edit"))

    def _without(self, indices: Tensor) -> Tensor:
        """The other indices of the data, in order."""
        return torch.ones(len(self.data), dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]
