"""GEN-GIA by a search of latents: GGL."""

from __future__ import annotations

from claims.cell import Cell
from claims.reduced.spaces import GEN_Z, narrowed
from gia.experiment import Fitting
from gia.federated import LocalTraining

PROTOCOL = GEN_Z

#: Each size has its own decoders and judges. Digits show no more than eight pixels in each direction, faces do.
SIZED = narrowed(GEN_Z, "batch.image_size", data=("faces",))

#: Beside a shared attacker's images only the digits hold enough with equal labels.
FOURS = narrowed(GEN_Z, changes={"batch.size": 4}, data=("digits",))

TRAINED = narrowed(
    GEN_Z,
    changes={"fit": Fitting(epochs=6, half=2, lr=3e-3, accuracy=0.5), "vary": {"fit.batch_size": (16, 32)}},
)

#: An attacker that knows the local training and simulates it.
FEDERATED = narrowed(
    GEN_Z,
    changes={
        "batch.size": 4,
        "client.local": LocalTraining(epochs=1, batch_size=2, lr=0.02),
        "client.reveal": ("labels", "local"),
        "vary": {
            "client.local.epochs": (1, 2, 4),
            "client.local.batch_size": (1, 2),
            "client.local.lr": (0.005, 0.02, 0.05),
        },
    },
    networks=("convnet", "mlp"),
)

CELLS = {
    "batch_size": Cell(protocol=GEN_Z, levels=(1, 2, 4, 8)),
    "resolution": Cell(protocol=SIZED, levels=(8, 16, 24)),
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained")),
    "architecture": Cell(protocol=narrowed(GEN_Z, "victim.name"), levels=("convnet", "mlp", "resnet8")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(
        protocol=GEN_Z.with_({"scoring.metrics": ("psnr", "psnr_other", "label_agreement")}), levels=("attacked",)
    ),
}
