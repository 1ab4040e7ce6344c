"""GEN-GIA by a learned inverter: Learning to Invert. How the settings were chosen is in docs/pilots.md."""

from __future__ import annotations

from claims.cell import Cell, Row
from claims.equipment import Inverting
from gia.experiment import Attacker, Batch, Client, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import beats_auxiliary_mean
from gia.federated import LocalTraining

#: The paper's victim, with DLG's weights, on digits: of the real sets that can be installed only they hold enough for
#: an inverter to learn from. Its batches are drawn without regard to labels, which it does not know.
PROTOCOL = Protocol(
    victim=Victim(name="lenet", options={"activation": "sigmoid", "init": "dlg"}),
    batch=Batch(data="digits", image_size=16, images=16),
    client=Client(reveal=()),
    attacker=Attacker(attack="learning_to_invert", equip=Inverting(epochs=8, training_batch=64, most=800)),
    scoring=Scoring(metrics=("psnr", "ssim"), control=beats_auxiliary_mean, control_images=16),
    vary={"victim.width": (10, 11, 12, 13, 14, 15, 16, 17), "victim.depth": (3, 4)},
)

#: Forty people's faces; the attacker has pictures of those who are not attacked.
FACES = PROTOCOL.with_(
    {
        "batch.data": "faces",
        "batch.images": 8,
        "scoring.control_images": 8,
        "attacker.disjoint": "labels",
        "attacker.equip": Inverting(epochs=12, training_batch=64, copies=2),
    }
)

#: Digits show no more than eight pixels in each direction, faces do.
SIZED = FACES.with_({"attacker.equip": Inverting(epochs=24, copies=2)})

FOURS = PROTOCOL.with_({"batch.size": 4, "batch.pattern_batch": 4})

#: One inverter serves all levels. Otherwise each level would leave other training images, and levels would differ by
#: more than labels.
EQUAL = FOURS.with_(
    {
        "batch.images": 32,
        "attacker.equip": Inverting(epochs=20, training_batch=64),
        "vary": {**PROTOCOL.vary, "attacker.seed": tuple(range(8))},
    }
)

TRAINED = PROTOCOL.with_({"fit": Fitting(epochs=10, half=3, batch_size=64, lr=5e-3, accuracy=0.9)})

#: The other victim has ReLU, as the paper's has.
NETWORKS = Row(
    protocol=PROTOCOL.with_({"attacker.equip": Inverting(epochs=10, training_batch=64, most=1200), "vary": {}}),
    levels={"LeNet": {}, "ResNet-20": {"victim": Victim(name="resnet20", options={"width": 8})}},
)

#: The clients train as in `op.FEDERATED`, and the attacker simulates it for each pair. From updates it learns only 720
#: batches, since it cannot put gradients of single images together. So part of what the levels differ by is how much
#: the same images teach.
FEDERATED = FOURS.with_(
    {
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.02),
        "client.reveal": ("local",),
        "batch.pattern_batch": None,
        "attacker.equip": Inverting(epochs=12, training_batch=64, most=800),
        "vary": {**PROTOCOL.vary, "client.local.epochs": (1, 2, 5), "client.local.batch_size": (1, 2)},
    }
)

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 2, 4, 8)),
    "resolution": Cell(protocol=SIZED, levels=(8, 16, 32)),
    # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
    "same_labels": Cell(protocol=EQUAL, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained", "trained, outside")),
    "architecture": Cell(protocol=NETWORKS.protocol, levels=tuple(NETWORKS.levels), change=NETWORKS.change),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=PROTOCOL.with_({"scoring.metrics": ("psnr", "psnr_other")}), levels=("attacked",)),
}

#: Auxiliary images of other kinds than the attacked ones. Far ones too get labels of the victim's.
ROWS = {
    "gen_inv.auxiliary": Row(
        protocol=FACES,
        levels={
            "other people's faces": {},
            "digits": {"attacker.public": "digits", "attacker.equip.most": 300},
            "noise": {"attacker.equip.noise": True},
        },
    ),
}
