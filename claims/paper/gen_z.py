"""GEN-GIA by a search of latents: GGL."""

from __future__ import annotations

from claims import judges, published
from claims.cell import Cell
from claims.equipment import decoder_of_public
from gia.experiment import Attacker, Batch, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works

#: The paper's generator, BigGAN, cannot be installed: a decoder trained on the images of CIFAR-10's test set that
#: nobody attacks takes its place, and its search is the published one of 500 generations of 50.
PROTOCOL = Protocol(
    victim=Victim(name="resnet18", options={"stem": "3x3", "width": 64}, standardize=published.CIFAR),
    batch=Batch(data="cifar10", image_size=32, images=64),
    attacker=Attacker(
        attack="ggl",
        settings={"optimizer": "cma", "steps": 25_000, "population": 50},
        equip=decoder_of_public,
    ),
    scoring=Scoring(
        metrics=("label_agreement", "psnr", "psnr_other", "lpips"),
        judge=judges.cifar10,
        control=path_works,
    ),
)

FOURS = PROTOCOL.with_({"batch.size": 4})

TRAINED = PROTOCOL.with_({"fit": Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)})

#: An attacker that knows the local training and simulates it.
FEDERATED = PROTOCOL.with_(
    {
        "batch.size": 64,
        "client.local": published.LOCAL,
        "client.reveal": ("labels", "local"),
        "vary": published.LOCAL_VARIED,
    }
)

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL.with_({"batch.pattern_batch": 64}), levels=(1, 4, 8, 16, 32, 64)),
    "resolution": Cell(protocol=PROTOCOL, levels=(32, 64, 128)),
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained")),
    "architecture": Cell(protocol=PROTOCOL, levels=("resnet18", "resnet34", "resnet50", "resnet101")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=PROTOCOL, levels=("attacked",)),
}
