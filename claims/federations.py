"""A federated training under a defense: five clients with different labels, and what the model learns (Sec. VI)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gia.data import Images, load_cached
from gia.defenses import Pipeline
from gia.experiment import Control, Measurement, Protocol
from gia.experiment.round import Block
from gia.federated import Averaging, Client, LocalTraining, federated_averaging, split_by_label, validate_model
from gia.models import build, standardize

CLIENTS = 5

#: Passes over the clients' images in all rounds together: every arm sees each image as often.
EPOCHS = 30

#: Images that clients hold, and images on which accuracy is measured, at most.
TRAINED, HELD_OUT = 300, 100


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train: the network and the local protocol, what clients do to what they share, and what they check.

    Args:
        depth: convolutions of a plain ReLU net. A Sigmoid net learns less, so it would make any other look free.
        epochs, batch_size: of the local training in a round.
        defenses: of `gia.federated.Client`.
        validates: whether clients refuse what `gia.validate_model` flags.
    """

    depth: int = 3
    epochs: int = 1
    batch_size: int = 4
    defenses: tuple[Any, ...] = ()
    validates: bool = False

    def local(self, lr: float) -> LocalTraining:
        """A client's local training; `lr` is for batches of four, and larger ones take proportionally larger steps.

        The linear rule of Goyal et al. (arXiv 1706.02677): without it large batches would learn less in as many passes.
        """
        step = lr * self.batch_size / UNDEFENDED.batch_size
        return LocalTraining(epochs=self.epochs, batch_size=self.batch_size, lr=step, momentum=0.9)

    def pipeline(self, lr: float) -> Pipeline:
        """The stages of the arm; without validation its clients take any model."""
        return Pipeline(protocol=self.local(lr), validation=validate_model if self.validates else None)


#: Without any stage, and with all three: twice as deep, four times as large batches for five epochs, and checks.
UNDEFENDED = Arm()
ALL_STAGES = Arm(depth=6, epochs=5, batch_size=16, validates=True)


@dataclass(frozen=True, eq=False)
class Federation:
    """The images of one federated training: each client's, and those held out."""

    parts: list[Tensor]
    data: Images
    held_out: Images

    @classmethod
    def of(cls, name: str, *, image_size: int, concentration: float, generator: torch.Generator) -> Federation:
        """Five clients whose labels come from a Dirichlet distribution."""
        data = load_cached(name, image_size=image_size)
        order = torch.randperm(len(data), generator=generator)
        trained = data.take(order[:TRAINED])
        parts = split_by_label(
            trained.labels, CLIENTS, concentration=concentration, generator=generator, least=ALL_STAGES.batch_size
        )
        return cls(parts, trained, data.take(order[TRAINED : TRAINED + HELD_OUT]))

    def net(self, arm: Arm, *, width: int, generator: torch.Generator) -> nn.Module:
        """The untrained network of an arm; its first step standardizes the clients' images."""
        images = self.data.images
        _, channels, size, _ = images.shape
        net = build(
            "convnet",
            num_classes=self.data.num_classes,
            image_size=size,
            channels=channels,
            width=width,
            depth=arm.depth,
            init="kaiming",
            generator=generator,
        )
        return standardize(net, mean=float(images.mean()), std=float(images.std()))

    def trained(self, arm: Arm, *, width: int, lr: float, generator: torch.Generator) -> Averaging:
        """The federated training of an arm, over the same number of passes as every other arm."""
        model = self.net(arm, width=width, generator=generator)
        clients: list[Client] = []
        for part in self.parts:
            images, labels = self.data.images[part], self.data.labels[part]
            order, noise = _split(generator), _split(generator)
            pipeline = arm.pipeline(lr)
            clients.append(
                pipeline.client(images, labels, defenses=arm.defenses, generator=order, defense_generator=noise)
            )
        return federated_averaging(model, clients, rounds=EPOCHS // arm.epochs, held_out=self.held_out)


def _split(generator: torch.Generator) -> torch.Generator:
    """Another generator, seeded by this one."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))


#: The last training and what it was made from: the control asks for the training that is measured next.
_last: list[tuple[Protocol, Block, Averaging]] = []


def _federated(protocol: Protocol, block: Block) -> Averaging:
    if _last and _last[0][:2] == (protocol, block):
        return _last[0][2]
    settings, batch = protocol.attacker.settings, protocol.batch
    federation = Federation.of(
        batch.data,
        image_size=batch.image_size,
        concentration=settings["concentration"],
        generator=block.generator("images"),
    )
    arm = ALL_STAGES if settings["defended"] else UNDEFENDED
    width, lr = protocol.victim.options["width"], settings["lr"]
    found = federation.trained(arm, width=width, lr=lr, generator=block.generator("training"))
    _last[:] = [(protocol, block, found)]
    return found


def federated_accuracy(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Measurement:
    """Held-out accuracy after the federated training of the level's arm."""
    found = _federated(protocol.drawn(block.setting), block)
    return Measurement(values={"accuracy": found.accuracies[-1], "refusals": float(found.refusals)})


def learns(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The level's training reaches at least three times the accuracy of a guess."""
    protocol = protocol.drawn(block.setting)
    reached = _federated(protocol, block).accuracies[-1]
    least = 3 / load_cached(protocol.batch.data, image_size=8).num_classes
    return Control(reached >= least, f"accuracy {reached:.3f}, at least {least:.3f} asked", {"accuracy": reached})
