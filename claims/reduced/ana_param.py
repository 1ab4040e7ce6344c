"""ANA-GIA by changed parameters: Fishing. How the settings were chosen is in docs/pilots.md."""

from __future__ import annotations

from claims.cell import Cell
from claims.changes import CLASS_FISHING, fished
from gia.experiment import Attacker, Batch, Client, Fishing, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import beats_blind_guess
from gia.federated import LocalTraining

#: Faces, since a class must have one image in the batch: there are forty people. The classifier's gradient mixes all
#: images, so matching leaves it out; reconstructions are blurred as a result.
PROTOCOL = Protocol(
    victim=Victim(name="convnet", fish=Fishing(targets=2)),
    batch=Batch(data="faces", image_size=16, images=4, size=4, pattern="distinct"),
    client=Client(reveal=()),
    attacker=Attacker(attack="fishing", settings={"steps": 60, "total_variation": 3e-3}),
    scoring=Scoring(metrics=("psnr", "ssim"), control=beats_blind_guess, control_images=4),
    vary={"victim.width": tuple(range(32, 52, 2)), "victim.activation": ("relu", "leaky_relu")},
)

#: Batches that are no powers of two, so that their gradients differ at least by rounding. In float32, a gradient that
#: is equal up to rounding leads the search along another path, up to a decibel apart; hence float64.
BATCHES = PROTOCOL.with_({"victim.dtype": "float64", "batch.images": 36, "batch.pattern_batch": 36})

#: Each level isolates another image, the one with the largest feature. Its PSNR is compared with that of the same image
#: alone in its batch.
FOURS = PROTOCOL.with_(
    {
        "victim.fish": Fishing(kind="feature", targets=1),
        "scoring.metrics": ("psnr_lost", "psnr", "ssim"),
    }
)

#: With the weaker prior of the other cells, a search in a trained net ends below the blind guess in half of the blocks.
TRAINED = PROTOCOL.with_({"attacker.settings": {"steps": 120}, "fit": Fitting(epochs=16, half=5, accuracy=0.7)})

#: Behind the pooling of a residual net an image of 16 pixels needs hundreds of steps; one of 8 pixels needs 60.
RESIDUAL = PROTOCOL.with_(
    {
        "victim.name": "resnet10",
        "victim.fish": Fishing(targets=1),
        "batch.image_size": 8,
        "attacker.settings": {"steps": 60},
        "vary": {**PROTOCOL.vary, "victim.width": tuple(range(15, 25))},
    }
)

#: Local steps on a fished model; how many, on how many images, is drawn per block.
FEDERATED = PROTOCOL.with_(
    {
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.01),
        "vary": {**PROTOCOL.vary, "client.local.epochs": (1, 2, 5), "client.local.batch_size": (1, 2)},
    }
)

ORIGINAL = PROTOCOL.with_({"scoring.metrics": ("psnr", "psnr_other")})

_DEPTHS = ("resnet10", "resnet18", "resnet34")

CELLS = {
    "batch_size": Cell(protocol=BATCHES, levels=(4, 12, 36)),
    "resolution": Cell(protocol=PROTOCOL, levels=(8, 16, 32)),
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4), shown=(CLASS_FISHING,), change=fished),
    "training_state": Cell(protocol=TRAINED, levels=("trained", "untrained")),
    "architecture": Cell(protocol=RESIDUAL, levels=_DEPTHS, x=_DEPTHS.index),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}
