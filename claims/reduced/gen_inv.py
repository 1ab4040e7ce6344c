"""GEN-GIA by a learned inverter: Learning to Invert."""

from __future__ import annotations

from claims.cell import Cell, Row
from claims.equipment import Inverting
from claims.reduced.spaces import GEN_INV, narrowed
from gia.experiment import Fitting
from gia.federated import LocalTraining

PROTOCOL = GEN_INV

#: Digits show no more than eight pixels in each direction, faces do.
SIZED = narrowed(GEN_INV, "batch.image_size", data=("faces",))

FOURS = narrowed(GEN_INV, changes={"batch.size": 4, "batch.pattern_batch": 4})

#: One inverter serves all levels. Otherwise each level would leave other training images, and levels would differ by
#: more than labels. Beside a shared attacker's images only the digits hold enough with equal labels.
EQUAL = narrowed(
    FOURS,
    changes={"batch.images": 32, "attacker.seed": 0, "vary": {"attacker.seed": tuple(range(8))}},
    data=("digits",),
)

TRAINED = narrowed(
    GEN_INV,
    changes={"fit": Fitting(epochs=6, half=2, lr=3e-3, accuracy=0.5), "vary": {"fit.batch_size": (32, 64)}},
    data=("digits",),
)

#: The statement's two networks.
NETWORKS = Row(
    protocol=narrowed(GEN_INV, "victim.name", changes={"victim.name": "lenet"}),
    levels={"LeNet": {"victim.name": "lenet"}, "ResNet-20": {"victim.name": "resnet20"}},
)

#: The attacker knows the local training and simulates it for each pair. From updates it learns only 720 batches, since
#: it cannot put gradients of single images together. So part of what the levels differ by is how much the same images
#: teach.
FEDERATED = narrowed(
    FOURS,
    changes={
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.02),
        "client.reveal": ("local",),
        "batch.pattern_batch": None,
        "vary": {
            "client.local.epochs": (1, 2, 4),
            "client.local.batch_size": (1, 2),
            "client.local.lr": (0.005, 0.02, 0.05),
        },
    },
    networks=("lenet", "mlp"),
)

CELLS = {
    "batch_size": Cell(protocol=GEN_INV, levels=(1, 2, 4)),
    "resolution": Cell(protocol=SIZED, levels=(8, 16, 32)),
    # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
    "same_labels": Cell(protocol=EQUAL, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained", "trained, outside")),
    "architecture": Cell(protocol=NETWORKS.protocol, levels=tuple(NETWORKS.levels), change=NETWORKS.change),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=GEN_INV.with_({"scoring.metrics": ("psnr", "psnr_other")}), levels=("attacked",)),
}

#: Auxiliary images of other kinds than the attacked ones: forty people's faces, of whom the attacker has those who are
#: not attacked. Far images too get labels of the victim's. Noise is shown and not judged, so it has no control.
ROWS = {
    "gen_inv.auxiliary/2": Row(
        protocol=narrowed(
            GEN_INV,
            "batch.data",
            changes={
                "batch.data": "faces",
                "batch.images": 8,
                "scoring.control_images": 8,
                "attacker.disjoint": "labels",
                "attacker.equip": Inverting(epochs=12, hashed=64, training_batch=64, by_label=True, copies=2),
            },
        ),
        levels={
            "other people's faces": {},
            "digits": {"attacker.public": "digits", "attacker.equip.most": 300},
            "noise": {"attacker.equip.noise": True, "scoring.control": None},
        },
    ),
}
