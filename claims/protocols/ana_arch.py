"""ANA-GIA by a changed architecture: Robbing the Fed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from claims.protocols.cell import Cell
from claims.protocols.changes import CIFAR, PAPER_LOCAL, PAPER_LOCAL_VARIED, REPORTED
from gia.data import Images
from gia.federated.server import Gaussian, imprint, probed
from gia.harness.controls import beats_blind_guess
from gia.harness.protocol import Fitting, Protocol


@dataclass(frozen=True)
class Imprinted:
    """The server's edit: an imprint block with its cut-offs at the quantiles of a normal distribution.

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
        return imprint(
            model,
            image_shape=tuple(public.images.shape[1:]),
            bins=self.bins,
            probe=self.mode,
            quantiles=Gaussian.of(probed(public.images, probe=self.mode)),
            sparse=self.sparse,
            strength=self.strength,
            generator=generator,
        )


PROTOCOLS = {
    # 64 pictures of faces stand in for 64 of CIFAR-10, of which only twenty are to be had.
    "reduced": Protocol(
        attack="robbing_the_fed",
        victim={"name": "convnet", "width": 16},
        data="faces",
        image_size=32,
        images=64,
        edit=Imprinted(),
        reveal=(),
        score=("exact_share", "psnr", "rmse"),
        control=beats_blind_guess,
        control_images=64,
        vary={"victim.width": (16, 20, 24, 28, 32), "victim.activation": ("relu", "leaky_relu", "tanh", "gelu")},
    ),
    "paper": Protocol(
        attack="robbing_the_fed",
        victim={"name": "resnet18", "stem": "3x3", "width": 64, "standardize": CIFAR},
        data="cifar10",
        image_size=32,
        images=64,
        edit=Imprinted(),
        reveal=(),
        score=("exact_share", "psnr", "rmse"),
        control=beats_blind_guess,
        control_images=64,
    ),
}

#: The networks behind the block: their own layers never see the image.
NETWORKS = {
    "reduced": ("convnet", "mlp", "lenet", "resnet10"),
    "paper": ("resnet18", "resnet34", "resnet50", "lenet", "alexnet", "vgg16"),
}

#: Whole batches of 64, but for the batch size itself and for equal labels, which come in fours.
WHOLE = {scale: replace(protocol, batch_size=64) for scale, protocol in PROTOCOLS.items()}

TRAINED = {
    "reduced": replace(WHOLE["reduced"], image_size=16, fit=Fitting(epochs=16, half=5, accuracy=0.7)),
    "paper": replace(WHOLE["paper"], fit=Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)),
}

#: The sparse block, which several local steps need. An update is what is left of the difference of large weights: the
#: mode (0, 1) has small cut-offs, and float64 the digits. In float32 nothing is exact.
FEDERATED = {
    scale: replace(
        protocol,
        edit=Imprinted(sparse=True, mode=(0, 1)),
        local=PAPER_LOCAL,
        score=("recovered_share", "exact_share", "psnr"),
        dtype="float64",
        vary={**protocol.vary, **PAPER_LOCAL_VARIED},
    )
    for scale, protocol in WHOLE.items()
}

ORIGINAL = {scale: replace(protocol, score=("psnr", "psnr_other")) for scale, protocol in WHOLE.items()}

_TABLE4 = REPORTED["table4_rtf_exact_of_64_with_1000_bins"]

CELLS: dict[str, dict[str, Cell]] = {
    scale: {
        "batch_size": Cell(
            protocol=replace(PROTOCOLS[scale], control_images=8),
            levels={"reduced": (8, 32, 64), "paper": (1, 8, 32, 64)}[scale],
            reported={batch_size: _TABLE4[str(batch_size)][0] / 64 for batch_size in (1, 8, 32, 64)},
            reported_as="Table IV, CIFAR-10",
        ),
        "resolution": Cell(
            protocol=WHOLE[scale] if scale == "reduced" else replace(WHOLE[scale], data="imagenet"),
            levels={"reduced": (16, 32, 64), "paper": (32, 64, 128, 224)}[scale],
        ),
        "same_labels": Cell(protocol=replace(PROTOCOLS[scale], batch_size=4, control_images=8), levels=(1, 2, 3, 4)),
        "training_state": Cell(protocol=TRAINED[scale], levels=("untrained", "trained")),
        "architecture": Cell(protocol=WHOLE[scale], levels=NETWORKS[scale]),
        "fedavg": Cell(protocol=FEDERATED[scale], levels=("FedSGD", "FedAvg")),
        "original": Cell(protocol=ORIGINAL[scale], levels=("attacked",)),
    }
    for scale in ("reduced", "paper")
}
