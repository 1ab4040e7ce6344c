"""Who plays in a block: the private images, those of the control and of the attacker, and the victim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from gia.data import Images, load, sample
from gia.federated import Fit, fit
from gia.harness.blocks import Block
from gia.harness.protocol import Fitting, Protocol
from gia.models import build, standardize

#: Where trained nets are kept; None trains them anew for each level.
FITS: ContextVar[Path | None] = ContextVar("fits", default=None)


@contextmanager
def keeping_fits(folder: Path | None) -> Iterator[None]:
    """Within it, victims are trained once and kept in `folder`, by the content of all that they depend on."""
    token = FITS.set(folder)
    try:
        yield
    finally:
        FITS.reset(token)


def images_of(protocol: Protocol) -> Images:
    """All the images of the protocol's data."""
    return _images(protocol.data, protocol.image_size, protocol.channels, protocol.root)


@lru_cache(maxsize=4)  # a block reads its data once, not once per level
def _images(name: str, image_size: int, channels: int | None, root: str | None) -> Images:
    return load(name, image_size=image_size, channels=channels, root=root)


def private(protocol: Protocol, block: Block, data: Images) -> Tensor:
    """Indices of the block's private images, the same for all levels with one pattern."""
    free = _except(data, _kept(protocol, data))
    chosen = sample(
        data if len(free) == len(data) else data.take(free),
        protocol.images,
        pattern=protocol.pattern,
        batch_size=protocol.pattern_batch or protocol.batch_size,
        generator=block.generator("images"),
    )
    return free[chosen]


def others(protocol: Protocol, block: Block, data: Images) -> Tensor:
    """`control_images` indices, none of them private in this block or an attacker's of many blocks."""
    taken = torch.cat([private(protocol, block, data), _kept(protocol, data)])
    rest, count = _except(data, taken), protocol.control_images
    if not 1 <= count <= len(rest):
        raise ValueError(
            f"control_images: expected at least 1 and at most the {len(rest)} images of {protocol.data!r} that are "
            f"neither private nor an attacker's, got {count}"
        )
    return rest[torch.randperm(len(rest), generator=block.generator("control images"))[:count]]


def _except(data: Images, indices: Tensor) -> Tensor:
    """The other indices, in order."""
    return torch.ones(len(data), dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]


def attacker(protocol: Protocol, block: Block) -> Block:
    """Whose generators train the attacker's nets and the judge: the block's, or those of an attacker of many blocks."""
    return block if protocol.attacker is None else Block("attacker", protocol.attacker, {})


def _kept(protocol: Protocol, data: Images) -> Tensor:
    """Indices of what an attacker of many blocks holds, which no block attacks."""
    if protocol.attacker is None:
        return torch.empty(0, dtype=torch.int64)
    source = Block("attacker", protocol.attacker, {}).generator("public")
    return torch.randperm(len(data), generator=source)[: 7 * len(data) // 8]


def left_over(protocol: Protocol, block: Block, data: Images) -> Tensor:
    """Indices of the images that are neither private nor the control's, in an order of the block's.

    Of an attacker who serves many blocks: what it holds, in an order of its own.
    """
    if protocol.attacker is not None:
        return _kept(protocol, data)
    attacked = torch.cat([private(protocol, block, data), others(protocol, block, data)])
    left = _except(data, attacked)
    if protocol.disjoint == "labels":
        left = left[~torch.isin(data.labels[left], data.labels[attacked])]
    return left[torch.randperm(len(left), generator=block.generator("left over"))]


def onlookers(protocol: Protocol, block: Block, data: Images) -> Tensor:
    """Indices as in `left_over`, in one order for all blocks, so that nearly the same ones come first in each."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return order[torch.isin(order, left_over(protocol, block, data))]


def public_images(protocol: Protocol, block: Block, data: Images) -> Images:
    """What the attacker holds of its own. Raises ValueError where nothing is left of the protocol's data."""
    if protocol.public is not None:
        return _images(protocol.public, protocol.image_size, data.images.shape[1], protocol.root)
    left = left_over(protocol, block, data)
    if not len(left):
        raise ValueError(f"public: every image of {protocol.data!r}, or of its labels, is attacked")
    return data.take(left)


def others_of_their_class(chosen: Tensor, block: Block, data: Images) -> Tensor:
    """For each chosen index another one with its label, not chosen itself. Raises ValueError where there is none."""
    generator, found = block.generator("others of their class"), []
    for index in chosen.tolist():
        alike = (data.labels == data.labels[index]).index_fill(0, chosen, False).nonzero()[:, 0]
        if not len(alike):
            raise ValueError(f"psnr_other: no other image in the data has label {int(data.labels[index])}")
        found.append(int(alike[torch.randint(len(alike), (1,), generator=generator)]))
    return torch.tensor(found)


def divided(protocol: Protocol, fitting: Fitting, block: Block, data: Images) -> tuple[Images, Images]:
    """What the victim is trained on, and what its accuracy is measured on: the same for all states of a training."""
    attacked = torch.cat([private(protocol, block, data), others(protocol, block, data)])
    left, generator = _except(data, attacked), block.generator("held out")
    left = left[torch.randperm(len(left), generator=generator)]
    held = []
    for label in range(data.num_classes):
        members = left[data.labels[left] == label]
        held.append(members[: round(fitting.held_out * int((data.labels == label).sum()))])
    out = torch.cat(held)
    return data.take(_except(data, out if fitting.members else torch.cat([out, attacked]))), data.take(out)


def fitted(protocol: Protocol, fitting: Fitting, block: Block, data: Images) -> Fit:
    """The block's victim after the whole training, with what it was after half of it."""
    train, test = divided(protocol, fitting, block, data)
    return fit(
        _untrained(protocol, block, data, getattr(torch, protocol.dtype)).to(protocol.device),
        train,
        epochs=fitting.epochs,
        batch_size=fitting.batch_size,
        lr=fitting.lr,
        held_out=test,
        generator=block.generator("fit"),
        checkpoints=(fitting.half,),
        cache=FITS.get(),
    )


def victim(protocol: Protocol, block: Block, data: Images, dtype: torch.dtype) -> nn.Module:
    """The block's victim as it is sent: built, trained as far as the protocol says, edited by a malicious server."""
    fitting = protocol.fit
    if fitting is None or fitting.state == "untrained":
        model = _untrained(protocol, block, data, dtype)
    else:
        whole = fitted(protocol, fitting, block, data)
        model = whole.model if fitting.state == "trained" else whole.checkpoints[fitting.half]
    if protocol.edit is not None:
        public = public_images(protocol, block, data)
        model = protocol.edit(model.cpu(), public, generator=block.generator("edit"))
    return model.to(protocol.device)


def _untrained(protocol: Protocol, block: Block, data: Images, dtype: torch.dtype) -> nn.Module:
    options = dict(protocol.victim)
    name, standard = options.pop("name"), options.pop("standardize", None)
    model = build(
        name,
        num_classes=data.num_classes,
        image_size=protocol.image_size,
        channels=data.images.shape[1],
        generator=block.generator("victim"),
        dtype=dtype,
        **options,
    )
    if standard is not None:
        model = standardize(model, **standard)
    return model
