"""OP-GIA: Inverting Gradients."""

from __future__ import annotations

from claims.cell import Cell, Row
from claims.changes import KNOWLEDGE, STATES, knowing
from claims.reduced.spaces import ACTIVATIONS, DETAILED, LEARNED, OP, REPEATED, narrowed
from gia.experiment import Fitting
from gia.experiment.controls import shares_gradients
from gia.federated import LocalTraining

PROTOCOL = OP

#: The same crop of two pictures at every resolution.
SIZED = narrowed(OP, "batch.image_size", data=DETAILED)

#: Four images at once, of which some share a label.
FOURS = narrowed(OP, changes={"batch.images": 4, "batch.size": 4}, data=REPEATED)

#: The victim, before and after it has learned these images' labels.
TRAINED = narrowed(
    OP,
    changes={"fit": Fitting(epochs=20, half=5, lr=3e-3, accuracy=0.4), "vary": {"fit.batch_size": (16, 32)}},
    data=LEARNED,
)

#: ResNets in CIFAR's form, of two depths; deeper ones cost more than two cores can afford (docs/pilots.md).
RESIDUAL = narrowed(
    OP,
    "victim.name",
    changes={
        "victim.name": "resnet8",
        "batch.image_size": 16,
        "batch.images": 1,
        "scoring.control_images": 1,
        "vary": {"victim.width": (8, 12, 16)},
    },
)

#: Plain nets, whose depth is an option. An image in the deep net against four in the shallow one.
DEEPENED = narrowed(OP, "victim.name", changes={"victim.name": "convnet", "victim.depth": 3, "batch.images": 4})

#: Clients that train locally before they share; for how long, in which batches and steps is drawn. A simulated step is
#: a separate double backward, so images are small.
FEDERATED = narrowed(
    OP,
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
ORIGINAL = narrowed(OP, changes={"scoring.metrics": ("psnr", "psnr_other", "ssim")}, data=REPEATED)

#: Where gradients are compared and nothing is attacked: sets with enough images of each label.
SIMILARITY = narrowed(
    OP,
    "attacker.settings.total_variation",
    changes={
        "batch.images": 48,
        "scoring.control": shares_gradients,
        "vary": {"batch.image_size": (8, 16), "victim.width": (8, 12, 16), "victim.activation": ACTIVATIONS},
    },
    data=("faces", "digits"),
)

_DEPTHS = ("resnet8", "resnet20")

CELLS = {
    "batch_size": Cell(protocol=OP.with_({"batch.images": 4}), levels=(1, 2, 4)),
    "resolution": Cell(protocol=SIZED, levels=(8, 16, 32)),
    # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained", "half-trained")),
    "architecture": Cell(protocol=RESIDUAL, levels=_DEPTHS, x=_DEPTHS.index),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
    # After the register's pair, the paper's weak attacker is shown, which simulates the wrong local training.
    "fedavg": Cell(protocol=FEDERATED, levels=tuple(KNOWLEDGE), change=knowing),
}

ROWS = {
    "op.depth_over_batch": Row(
        protocol=DEEPENED,
        levels={
            "shallow, 4 at once": {"batch.size": 4},
            "deep, one at a time": {"victim.depth": 9},
            "shallow, one at a time": {},
        },
    ),
    # The images behind each gradient: first all those behind an update, then the paper's way, those of a local batch.
    "op.fedavg_strong": Row(
        protocol=FEDERATED,
        levels={
            "FedSGD of 4": {"client.local": None, "batch.size": 4},
            "FedSGD of 2": {"client.local": None, "batch.size": 2},
            "FedSGD of 1": {"client.local": None, "batch.size": 1},
        },
    ),
    # From one image of 16 pixels, either the batch or height and width are doubled.
    "op.resolution_over_batch": Row(
        protocol=SIZED,
        levels={
            "two of 16": {"batch.image_size": 16, "batch.size": 2},
            32: {"batch.image_size": 32},
            16: {"batch.image_size": 16},
        },
    ),
    "thm1.empirical": Row(
        protocol=SIZED,
        levels={pixels: {"batch.image_size": pixels} for pixels in (8, 16, 32)},
    ),
    "prop1.table2": Row(
        protocol=SIMILARITY,
        levels={equal: {"batch.pattern": equal, "batch.pattern_batch": 4} for equal in (1, 2, 3, 4)},
    ),
    "prop1.trained_similar/2": Row(
        protocol=SIMILARITY.with_({"fit": Fitting(epochs=20, half=1, batch_size=16, lr=5e-3, accuracy=0.5)}),
        levels={state: STATES[state] for state in ("untrained", "trained", "half-trained")},
    ),
}
