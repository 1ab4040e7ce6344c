"""ANA-GIA by changed parameters: Fishing."""

from __future__ import annotations

from claims import published
from claims.cell import Cell
from claims.changes import CLASS_FISHING, fished, trained_for
from gia.experiment import Attacker, Batch, Client, Fishing, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works
from gia.federated import LocalTraining

#: The paper's victim is trained.
PROTOCOL = Protocol(
    victim=Victim(name="resnet18", options={"width": 64}, standardize=published.CIFAR, fish=Fishing(targets=4)),
    batch=Batch(data="imagenet", image_size=224, images=64, size=16, pattern="distinct", pattern_batch=64),
    client=Client(reveal=()),
    attacker=Attacker(attack="fishing", settings={"steps": 24_000, "total_variation": 1e-6, "space": "standardized"}),
    scoring=Scoring(metrics=("psnr", "ssim", "cw_ssim"), control=path_works),
    fit=Fitting(epochs=90, half=5, batch_size=128, accuracy=0.5),
)

#: Each level isolates another image, the one with the largest feature. Its PSNR is compared with that of the same image
#: alone in its batch.
FOURS = PROTOCOL.with_(
    {
        "victim.fish": Fishing(kind="feature", targets=1),
        "batch.data": "celeba",
        "batch.image_size": 64,
        "batch.size": 4,
        "batch.pattern_batch": 4,
        "scoring.metrics": ("psnr_lost", "psnr", "ssim"),
    }
)

TRAINED = PROTOCOL.with_({"batch.image_size": 64})

#: Local steps on a fished model; how many, on how many images, is drawn per block.
FEDERATED = PROTOCOL.with_(
    {
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.01),
        "vary": {"client.local.batch_size": published.LOCAL_VARIED["client.local.batch_size"]},
    }
)

ORIGINAL = PROTOCOL.with_({"scoring.metrics": ("psnr", "psnr_other")})

_DEPTHS = ("resnet18", "resnet34", "resnet50")

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(16, 32, 64)),
    "resolution": Cell(protocol=PROTOCOL, levels=(64, 128, 224)),
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4), shown=(CLASS_FISHING,), change=fished),
    "training_state": Cell(protocol=TRAINED, levels=("trained", "untrained")),
    "architecture": Cell(protocol=PROTOCOL, levels=_DEPTHS, x=_DEPTHS.index),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", 1, 2, 5), change=trained_for),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}
