"""GEN-GIA by a learned inverter: Learning to Invert."""

from __future__ import annotations

from claims import published
from claims.cell import Cell, Row
from claims.equipment import Inverting
from gia.experiment import Attacker, Batch, Client, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works

#: The paper's inverter sees every entry of the gradient.
PROTOCOL = Protocol(
    victim=Victim(name="lenet", options={"activation": "sigmoid", "init": "dlg"}, standardize=published.CIFAR),
    batch=Batch(data="cifar10", image_size=32, images=64),
    client=Client(reveal=()),
    attacker=Attacker(
        attack="learning_to_invert",
        equip=Inverting(epochs=5000, hidden=(3000, 3000), hashed=None, lr=1e-4, training_batch=256, patience=50),
    ),
    scoring=Scoring(metrics=("psnr", "ssim", "cw_ssim", "lpips"), control=path_works),
)

#: The attacker has pictures of people who are not attacked.
FACES = PROTOCOL.with_(
    {
        "batch.data": "celeba",
        "batch.image_size": 64,
        "attacker.disjoint": "labels",
        "attacker.equip.copies": 1,
    }
)

SIZED = PROTOCOL.with_({"batch.data": "imagenet", "attacker.equip.hashed": 4096})

FOURS = PROTOCOL.with_({"batch.size": 4, "batch.pattern_batch": 4})

TRAINED = PROTOCOL.with_({"fit": Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)})

#: The other victim has ReLU, as the paper's has.
NETWORKS = Row(
    protocol=PROTOCOL,
    levels={"LeNet": {}, "ResNet-20": {"victim": Victim(name="resnet20", standardize=published.CIFAR)}},
)

FEDERATED = PROTOCOL.with_(
    {
        "client.local": published.LOCAL,
        "client.reveal": ("local",),
        "batch.size": 64,
        "vary": published.LOCAL_VARIED,
    }
)

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 4, 8, 16, 32)),
    "resolution": Cell(protocol=SIZED, levels=(32, 64, 128)),
    # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained", "trained, outside")),
    "architecture": Cell(protocol=NETWORKS.protocol, levels=tuple(NETWORKS.levels), change=NETWORKS.change),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=PROTOCOL.with_({"scoring.metrics": ("psnr", "psnr_other")}), levels=("attacked",)),
}

#: Auxiliary images of other kinds than the attacked ones. Far ones too get labels of the victim's.
ROWS = {
    "gen_inv.auxiliary/2": Row(
        protocol=FACES,
        levels={
            "other people's faces": {},
            "digits": {"attacker.public": "digits", "attacker.equip.most": 300, "scoring.control": None},
            "noise": {"attacker.equip.noise": True, "scoring.control": None},
        },
    ),
}
