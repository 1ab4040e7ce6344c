"""GEN-GIA by a learned inverter: Learning to Invert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from claims.protocols.cell import Cell
from claims.protocols.changes import CIFAR, PAPER_LOCAL, PAPER_LOCAL_VARIED, REPORTED
from gia.attacks import train_inverter
from gia.data import Images
from gia.federated import LocalTraining
from gia.harness.controls import beats_auxiliary_mean
from gia.harness.protocol import Fitting, Protocol


@dataclass(frozen=True, kw_only=True)
class Inverting:
    """What the attacker makes of its public images: an inverter of the victim as sent.

    Args:
        epochs, hidden, hashed, lr, training_batch, patience: of `gia.attacks.train_inverter`.
        most: public images that it uses at most; None takes them all.
        copies: with people, how often each picture and its mirror image occur, each time under a label drawn from the
            victim's. The attacked people are not among the public ones, so no public label is theirs. 0 keeps labels.
        noise: uniform noise takes the place of every image.
    """

    epochs: int = 10
    hidden: tuple[int, ...] = (256,)
    hashed: int | None = 256
    lr: float = 3e-3
    training_batch: int = 128
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
        inverter = train_inverter(
            model,
            images,
            labels,
            batch_size=protocol.batch_size,
            hidden=self.hidden,
            epochs=self.epochs,
            lr=self.lr,
            training_batch=self.training_batch,
            hashed=self.hashed,
            patience=self.patience,
            local=protocol.local if "local" in protocol.reveal else protocol.assumed,
            training=protocol.training,
            generator=generator,
            cache=cache,
        )
        return {"inverter": inverter}


#: The paper's victim, with DLG's weights, on digits: of the real sets that can be installed only they hold enough for
#: an inverter to learn from. Its batches are drawn without regard to labels, which it does not know.
REDUCED = Protocol(
    attack="learning_to_invert",
    victim={"name": "lenet", "activation": "sigmoid", "init": "dlg"},
    data="digits",
    image_size=16,
    images=16,
    reveal=(),
    equip=Inverting(epochs=8, training_batch=64, most=800),
    score=("psnr", "ssim"),
    control=beats_auxiliary_mean,
    control_images=16,
    vary={"victim.width": (10, 11, 12, 13, 14, 15, 16, 17), "victim.depth": (3, 4)},
)

#: The paper's inverter sees every entry of the gradient.
PAPER = Protocol(
    attack="learning_to_invert",
    victim={"name": "lenet", "activation": "sigmoid", "init": "dlg", "standardize": CIFAR},
    data="cifar10",
    image_size=32,
    images=64,
    reveal=(),
    equip=Inverting(epochs=5000, hidden=(3000, 3000), hashed=None, lr=1e-4, training_batch=256, patience=50),
    score=("psnr", "ssim", "cw_ssim", "lpips"),
    control=beats_auxiliary_mean,
    control_images=64,
)

PROTOCOLS = {"reduced": REDUCED, "paper": PAPER}

#: Forty people's faces; the attacker has pictures of those who are not attacked.
FACES = {
    "reduced": replace(
        REDUCED,
        data="faces",
        images=8,
        control_images=8,
        disjoint="labels",
        equip=Inverting(epochs=12, training_batch=64, copies=2),
    ),
    "paper": replace(PAPER, data="celeba", image_size=64, disjoint="labels", equip=replace(PAPER.equip, copies=1)),
}

#: Digits have no more than eight pixels a side to show, faces have. Larger faces are harder by themselves: in a pilot
#: the mean image scored 19.7, 18.3 and 17.4 dB at 8, 16 and 32 px, the inverter 23.0, 21.5 and 20.1.
SIZED = {
    "reduced": replace(FACES["reduced"], equip=Inverting(epochs=24, copies=2)),
    "paper": replace(PAPER, data="imagenet", equip=replace(PAPER.equip, hashed=4096)),
}

FOURS = {scale: replace(protocol, batch_size=4, pattern_batch=4) for scale, protocol in PROTOCOLS.items()}

#: At reduced scale one inverter for all levels: what is left of the data when each level has its images would be
#: another set for each.
EQUAL = {
    "reduced": replace(
        FOURS["reduced"],
        images=32,
        equip=Inverting(epochs=20, training_batch=64),
        vary={**REDUCED.vary, "attacker": tuple(range(8))},
    ),
    "paper": FOURS["paper"],
}

TRAINED = {
    "reduced": replace(REDUCED, fit=Fitting(epochs=10, half=3, batch_size=64, lr=5e-3, accuracy=0.9)),
    "paper": replace(PAPER, fit=Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)),
}

#: Data of a scale -> the other victim. It has ReLU, as the paper's has.
RESIDUAL = {
    REDUCED.data: {"name": "resnet20", "width": 8},
    PAPER.data: {"name": "resnet20", "standardize": CIFAR},
}
NETWORKS = {
    "reduced": replace(REDUCED, equip=Inverting(epochs=10, training_batch=64, most=1200), vary={}),
    "paper": PAPER,
}

#: The clients train as OP-GIA's do (`op.FEDERATED`), and the attacker simulates it for each pair. It can no longer put
#: gradients of single images together: behind updates it learns from 720 batches, behind gradients from any number. So
#: part of what the levels differ by is what the same images teach.
FEDERATED = {
    "reduced": replace(
        FOURS["reduced"],
        local=LocalTraining(epochs=1, batch_size=1, lr=0.02),
        reveal=("local",),
        pattern_batch=None,
        equip=Inverting(epochs=12, training_batch=64, most=800),
        vary={**REDUCED.vary, "local.epochs": (1, 2, 5), "local.batch_size": (1, 2)},
    ),
    "paper": replace(
        PAPER,
        local=PAPER_LOCAL,
        reveal=("local",),
        batch_size=64,
        vary=PAPER_LOCAL_VARIED,
    ),
}

_FIG9, _SAME = REPORTED["fig9_lti_ssim"], REPORTED["supp_lti_cifar10_b4_same_labels"]
BATCH_SIZES = {"reduced": (1, 2, 4, 8), "paper": (1, 4, 8, 16, 32)}
SIDES = {"reduced": (8, 16, 32), "paper": (32, 64, 128)}


def on_victim(protocol: Protocol, name: str) -> Protocol:
    """The same images behind the gradient of this network."""
    return protocol if name == "LeNet" else replace(protocol, victim=RESIDUAL[protocol.data])


CELLS = {
    scale: {
        "batch_size": Cell(
            protocol=PROTOCOLS[scale],
            levels=BATCH_SIZES[scale],
            reported=dict(zip(_FIG9["batch_sizes"], _FIG9["lenet_untrained"], strict=True)),
            reported_as="the paper's CW-SSIM, CIFAR-10",
        ),
        "resolution": Cell(
            protocol=SIZED[scale],
            levels=SIDES[scale],
            reported={
                32: _FIG9["lenet_untrained"][0],
                64: _FIG9["imagenet64"][0],
                128: _FIG9["imagenet128"][0],
            },
            reported_as="the paper's CW-SSIM, two data sets",
        ),
        # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
        "same_labels": Cell(
            protocol=EQUAL[scale],
            levels=(1, 2, 3, 4),
            reported={max(1, int(equal)): values[0] for equal, values in _SAME.items() if equal.isdigit()},
            reported_as="the paper's PSNR, CIFAR-10",
        ),
        "training_state": Cell(protocol=TRAINED[scale], levels=("untrained", "trained", "trained, outside")),
        "architecture": Cell(protocol=NETWORKS[scale], levels=("LeNet", "ResNet-20"), change=on_victim),
        "fedavg": Cell(protocol=FEDERATED[scale], levels=("FedSGD", "FedAvg")),
        "original": Cell(protocol=replace(PROTOCOLS[scale], score=("psnr", "psnr_other")), levels=("attacked",)),
    }
    for scale in ("reduced", "paper")
}
