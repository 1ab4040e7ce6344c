"""OP-GIA: Inverting Gradients."""

from __future__ import annotations

from claims import published
from claims.cell import Cell, Row
from claims.changes import KNOWLEDGE, STATES, knowing
from gia.experiment import Attacker, Batch, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works, shares_gradients

PROTOCOL = Protocol(
    victim=Victim(name="resnet18", options={"stem": "3x3", "width": 64}, standardize=published.CIFAR),
    batch=Batch(data="cifar100", image_size=32, images=64, pattern="distinct", pattern_batch=64),
    attacker=Attacker(attack="inverting_gradients", settings={"steps": 24_000, "space": "standardized"}),
    scoring=Scoring(control=path_works),
)

SIZED = PROTOCOL.with_({"batch.data": "imagenet", "attacker.settings.total_variation": 1e-6})

FOURS = PROTOCOL.with_({"batch.data": "cifar10", "batch.size": 4})

TRAINED = PROTOCOL.with_({"fit": Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)})

FEDERATED = PROTOCOL.with_(
    {
        "client.local": published.LOCAL,
        "batch.size": 64,
        "vary": {"batch.data": ("cifar10", "cifar100"), **published.LOCAL_VARIED},
    }
)

ORIGINAL = PROTOCOL.with_({"scoring.metrics": ("psnr", "psnr_other", "ssim")})

#: Where gradients are compared and nothing is attacked.
SIMILARITY = PROTOCOL.with_(
    {
        "batch.data": "cifar10",
        "batch.pattern": "any",
        "batch.pattern_batch": None,
        "attacker.settings": {"steps": 24_000},
        "scoring.control": shares_gradients,
    }
)

_DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101")

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 4, 8, 16, 32, 64)),
    "resolution": Cell(protocol=SIZED, levels=(32, 64, 128, 224)),
    # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=tuple(STATES)),
    "architecture": Cell(protocol=PROTOCOL, levels=_DEPTHS, x=_DEPTHS.index),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
    # After the register's pair, the paper's weak attacker is shown, which simulates the wrong local training.
    "fedavg": Cell(protocol=FEDERATED, levels=tuple(KNOWLEDGE), change=knowing),
}

ROWS = {
    "op.depth_over_batch": Row(
        protocol=PROTOCOL,
        levels={
            "shallow, 64 at once": {"batch.size": 64},
            "deep, one at a time": {"victim.name": "resnet50"},
            "shallow, one at a time": {},
        },
    ),
    # The images behind each gradient: first all those behind an update, then the paper's way, those of a local batch.
    "op.fedavg_strong": Row(
        protocol=FEDERATED,
        levels={
            "FedSGD of 64": {"client.local": None, "batch.size": 64},
            "FedSGD of 16": {"client.local": None, "batch.size": 16},
            "FedSGD of 8": {"client.local": None, "batch.size": 8},
            "FedSGD of 1": {"client.local": None, "batch.size": 1},
        },
    ),
    # From one image of 64 pixels, either the batch or height and width are doubled.
    "op.resolution_over_batch": Row(
        protocol=SIZED,
        levels={
            "two of 64": {"batch.image_size": 64, "batch.size": 2},
            128: {"batch.image_size": 128},
            64: {"batch.image_size": 64},
        },
    ),
    # CIFAR has no 224 pixels.
    "thm1.empirical": Row(
        protocol=PROTOCOL.with_({"batch.data": "imagenet"}),
        levels={pixels: {"batch.image_size": pixels} for pixels in (32, 64, 128, 224)},
    ),
    "prop1.table2": Row(
        protocol=SIMILARITY,
        levels={equal: {"batch.pattern": equal, "batch.pattern_batch": 4} for equal in (1, 2, 3, 4)},
    ),
    "prop1.trained_similar/2": Row(
        protocol=SIMILARITY.with_({"fit": Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)}),
        levels={state: STATES[state] for state in ("untrained", "trained", "half-trained")},
    ),
}
