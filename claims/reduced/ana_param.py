"""ANA-GIA by changed parameters: Fishing."""

from __future__ import annotations

from claims.cell import Cell
from claims.changes import CLASS_FISHING, fished, trained_for
from claims.reduced.spaces import ANA_PARAM, narrowed
from gia.experiment import Fishing, Fitting
from gia.federated import LocalTraining

PROTOCOL = ANA_PARAM

#: Batches that are no powers of two, so that their gradients differ at least by rounding. Thirty-six different labels
#: are those of the faces.
BATCHES = narrowed(ANA_PARAM, changes={"batch.images": 36, "batch.pattern_batch": 36}, data=("faces",))

#: Each level isolates another image, the one with the largest feature. Its PSNR is compared with that of the same image
#: alone in its batch.
FOURS = narrowed(
    ANA_PARAM,
    changes={"victim.fish": Fishing(kind="feature", targets=1), "scoring.metrics": ("psnr_lost", "psnr", "ssim")},
    data=("faces", "digits"),
)

#: The sets on which a network learns in seconds.
TRAINED = narrowed(
    ANA_PARAM,
    changes={"fit": Fitting(epochs=16, half=5, accuracy=0.5), "vary": {"fit.batch_size": (16, 32)}},
    data=("faces",),
)

#: ResNets of ImageNet's form; the deepest costs most, so images are small and nets narrow.
RESIDUAL = narrowed(
    ANA_PARAM,
    "victim.name",
    changes={
        "victim.name": "resnet10",
        "victim.fish": Fishing(targets=1),
        "batch.image_size": 16,
        "vary": {"victim.width": (8, 12, 16)},
    },
)

#: Pictures of faces have a higher resolution to lose; digits and CIFAR's images do not.
SIZED = narrowed(ANA_PARAM, "batch.image_size", data=("faces",))

#: Local steps on a fished model: how many is a level, on how many images at once and of which size is drawn.
FEDERATED = narrowed(
    ANA_PARAM,
    changes={
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.01),
        "vary": {"client.local.batch_size": (1, 2), "client.local.lr": (0.001, 0.005, 0.02)},
    },
)

ORIGINAL = narrowed(ANA_PARAM, changes={"scoring.metrics": ("psnr", "psnr_other")}, data=("faces", "digits"))

_DEPTHS = ("resnet10", "resnet18", "resnet34")

CELLS = {
    "batch_size": Cell(protocol=BATCHES, levels=(4, 12, 36)),
    "resolution": Cell(protocol=SIZED, levels=(8, 16, 32)),
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4), shown=(CLASS_FISHING,), change=fished),
    "training_state": Cell(protocol=TRAINED, levels=("trained", "untrained")),
    "architecture": Cell(protocol=RESIDUAL, levels=_DEPTHS, x=_DEPTHS.index),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", 1, 2, 5), change=trained_for),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}
