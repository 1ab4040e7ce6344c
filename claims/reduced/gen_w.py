"""GEN-GIA over generator weights: CI-Net."""

from __future__ import annotations

from claims.cell import Cell, Row
from claims.changes import aggregated
from claims.reduced.spaces import DETAILED, GEN_W, LEARNED, REPEATED, narrowed
from gia.experiment import Fitting
from gia.experiment.controls import shares_gradients
from gia.federated import LocalTraining

PROTOCOL = GEN_W

#: The same crop of two pictures at every resolution.
SIZED = narrowed(GEN_W, "batch.image_size", data=DETAILED)

FOURS = narrowed(GEN_W, changes={"batch.images": 4, "batch.size": 4}, data=REPEATED)

TRAINED = narrowed(
    GEN_W,
    changes={"fit": Fitting(epochs=16, half=5, accuracy=0.5), "vary": {"fit.batch_size": (16, 32)}},
    data=LEARNED,
)

#: ResNets in CIFAR's form, of two depths.
RESIDUAL = narrowed(GEN_W, "victim.name", changes={"victim.name": "resnet8", "batch.image_size": 16})

#: Clients that train locally before they share. CI-Net as published matches one gradient; a simulation of the known
#: local steps is shown as a further level.
FEDERATED = narrowed(
    GEN_W,
    changes={
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.02),
        "batch.image_size": 16,
        "batch.images": 4,
        "batch.size": 4,
        "vary": {
            "client.local.epochs": (1, 2, 4),
            "client.local.batch_size": (1, 2),
            "client.local.lr": (0.005, 0.02, 0.05),
        },
    },
    networks=("convnet", "mlp"),
)

#: Images whose label occurs again.
ORIGINAL = narrowed(GEN_W, changes={"scoring.metrics": ("psnr", "psnr_other", "ssim")}, data=REPEATED)

CELLS = {
    "batch_size": Cell(protocol=GEN_W.with_({"batch.images": 4}), levels=(1, 2, 4)),
    "resolution": Cell(protocol=SIZED, levels=(16, 32, 64)),
    # How many images of a batch share a label.
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained")),
    "architecture": Cell(protocol=RESIDUAL, levels=("resnet8", "resnet20")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg", "FedAvg, simulated"), change=aggregated),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}

ROWS = {
    # Nets with batch normalization, whose mode is a level. One image behind a gradient: batches are another row.
    "gen_w.sigmoid/2": Row(
        protocol=narrowed(
            GEN_W,
            "victim.activation",
            "client.training",
            "victim.name",
            changes={"victim.name": "resnet8", "batch.image_size": 16, "batch.images": 1, "scoring.control_images": 1},
        ),
        levels={
            f"{mode}, {name}": {"client.training": mode == "train", "victim.activation": name}
            for mode in ("train", "eval")
            for name in ("sigmoid", "relu", "tanh", "leaky_relu", "rrelu", "gelu")
        },
    ),
    # Of equal range, from the least linear on; then what else distinguishes Sigmoid, shown: range, mean, curvature.
    "sigmoid.mechanism/2": Row(
        protocol=narrowed(
            GEN_W,
            "victim.activation",
            "victim.name",
            changes={"victim.name": "resnet8", "batch.image_size": 16, "batch.images": 1, "scoring.control_images": 1, "client.training": True},
        ),
        levels={
            **{name: {"victim.activation": name} for name in ("sigmoid(4x)", "sigmoid(2x)", "sigmoid", "sigmoid(x/2)")},
            **{
                name: {"victim.activation": name, "scoring.control": None}
                for name in ("sigmoid/4", "4*sigmoid", "sigmoid-1/2", "linear")
            },
        },
    ),
    # A narrow ResNet-18, the paper's network.
    "sigmoid.inputs": Row(
        protocol=narrowed(
            GEN_W,
            "victim.activation",
            "victim.name",
            "attacker.settings.lr",
            changes={
                "victim.name": "resnet18",
                "client.training": True,
                "batch.image_size": 16,
                "batch.images": 8,
                "batch.size": 8,
                "scoring.control": shares_gradients,
            },
        ),
        levels={name: {"victim.activation": name} for name in ("sigmoid", "tanh", "relu")},
    ),
}
