"""OP-GIA: Inverting Gradients. How the settings were chosen is in docs/pilots.md."""

from __future__ import annotations

from claims.cell import Cell, Row
from claims.changes import KNOWLEDGE, STATES, knowing
from gia.experiment import Attacker, Batch, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import beats_blind_guess, shares_gradients
from gia.federated import LocalTraining

#: The paper's victims are ReLU nets, and so are these. Narrower nets or less total variation would void blocks.
PROTOCOL = Protocol(
    victim=Victim(name="convnet"),
    batch=Batch(data="cifar10-samples", image_size=32, images=8, pattern="distinct", pattern_batch=8),
    attacker=Attacker(attack="inverting_gradients", settings={"steps": 120}),
    scoring=Scoring(control=beats_blind_guess),
    vary={
        "batch.data": ("cifar10-samples", "cifar100-samples"),
        "victim.width": (26, 28, 30, 32),
        "victim.activation": ("relu", "leaky_relu"),
    },
)

#: Two images a block, and the same crop of them at every resolution: CIFAR's images are smaller than 64 pixels.
#: ConvNet keeps about two features per pixel at any size: fewer than a colour pixel's three values, so PSNR falls, and
#: more than a gray pixel's one, where it does not.
SIZED = PROTOCOL.with_(
    {
        "batch.images": 2,
        "batch.pattern": "any",
        "batch.pattern_batch": None,
        "attacker.settings.steps": 100,
        "vary": {**PROTOCOL.vary, "batch.data": ("photos", "faces")},
    }
)

#: CIFAR's samples hold too few equal labels; ORL has ten pictures of each of its 40 people. Narrower nets do not give
#: four different people away in these steps.
FOURS = PROTOCOL.with_(
    {
        "batch.data": "faces",
        "batch.images": 4,
        "batch.size": 4,
        "scoring.control_images": 4,
        "vary": {"victim.width": tuple(range(40, 49)), "victim.activation": ("relu", "leaky_relu")},
    }
)

#: A small net learns forty faces in seconds; some settings of its training are drawn.
TRAINED = PROTOCOL.with_(
    {
        "batch.data": "faces",
        "batch.images": 4,
        "batch.pattern_batch": 4,
        "fit": Fitting(epochs=16, half=5, accuracy=0.7),
        "vary": {
            "victim.width": PROTOCOL.vary["victim.width"],
            "victim.activation": PROTOCOL.vary["victim.activation"],
            "fit.batch_size": (16, 24, 32),
        },
    }
)

#: Batch normalization in eval mode, as in the paper; in an untrained net it is then the identity. In train mode no
#: image comes back at any depth, which would support every claim that says "worse".
RESIDUAL = PROTOCOL.with_(
    {
        "victim.name": "resnet10",
        "batch.image_size": 16,
        "batch.images": 4,
        "batch.pattern": "any",
        "batch.pattern_batch": None,
        "attacker.settings": {"steps": 60, "total_variation": 0.1},
        "vary": {**PROTOCOL.vary, "victim.width": (22, 24, 26, 28)},
    }
)

#: Against the batch size, the attack on the large batch must be alive. At B=4, a ResNet that is small enough for two
#: cores gives no image away, so plain nets of three and nine layers take the place of ResNet-18 and ResNet-50.
DEEPENED = FOURS.with_(
    {
        "victim.depth": 3,
        "batch.size": 1,
        "batch.pattern_batch": 4,
        "attacker.settings.steps": 100,
    }
)

#: Clients that train locally before they share; how many epochs, in which batches, is drawn per block. Four images at
#: 0.02 move the weights as far as the paper's sixty-four at 0.01 in batches of eight. A simulated step is a separate
#: double backward, so images are small; nets of this width still invert four of them.
FEDERATED = PROTOCOL.with_(
    {
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.02),
        "batch.image_size": 16,
        "batch.images": 4,
        "batch.size": 4,
        "batch.pattern_batch": 4,
        "scoring.control_images": 4,
        "attacker.settings.steps": 80,
        "vary": {
            **PROTOCOL.vary,
            "victim.width": (44, 48),
            "client.local.epochs": (1, 2, 5),
            "client.local.batch_size": (1, 2),
        },
    }
)

#: Images whose label occurs again: ORL has ten pictures of each of its people.
ORIGINAL = PROTOCOL.with_(
    {
        "batch.data": "faces",
        "batch.images": 4,
        "batch.pattern_batch": 4,
        "scoring.metrics": ("psnr", "psnr_other", "ssim"),
        "vary": {"victim.width": tuple(range(25, 33)), "victim.activation": PROTOCOL.vary["victim.activation"]},
    }
)

#: Where gradients are compared and nothing is attacked: residual nets with batch normalization, as the paper's, and
#: digits at their own size, of which there are enough to train on.
SIMILARITY = PROTOCOL.with_(
    {
        "victim.name": "resnet10",
        "batch.data": "digits",
        "batch.image_size": 8,
        "batch.images": 48,
        "batch.pattern": "any",
        "batch.pattern_batch": None,
        "scoring.control": shares_gradients,
        "vary": {"victim.width": (6, 7, 8, 9, 10, 11, 12, 13), "victim.activation": ("relu", "leaky_relu")},
    }
)

_DEPTHS = ("resnet10", "resnet18", "resnet34")

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 2, 4, 8)),
    "resolution": Cell(protocol=SIZED, levels=(16, 32, 64)),
    # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=tuple(STATES)),
    "architecture": Cell(protocol=RESIDUAL, levels=_DEPTHS, x=_DEPTHS.index),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
    # After the register's pair, the paper's weak attacker is shown, which simulates the wrong local training.
    "fedavg": Cell(protocol=FEDERATED, levels=tuple(KNOWLEDGE), change=knowing),
}

ROWS = {
    "op.depth_over_batch": Row(
        protocol=DEEPENED.with_({"scoring.control_images": 4}),
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
    # From one image of 32 pixels, either the batch or height and width are doubled.
    "op.resolution_over_batch": Row(
        protocol=SIZED,
        levels={
            "two of 32": {"batch.image_size": 32, "batch.size": 2},
            64: {"batch.image_size": 64},
            32: {"batch.image_size": 32},
        },
    ),
    # Two images a block are enough where the resolution is the factor.
    "thm1.empirical": Row(
        protocol=PROTOCOL.with_({"batch.images": 2, "batch.pattern_batch": 2}),
        levels={pixels: {"batch.image_size": pixels} for pixels in (16, 24, 32)},
    ),
    "prop1.table2": Row(
        protocol=SIMILARITY,
        levels={equal: {"batch.pattern": equal, "batch.pattern_batch": 4} for equal in (1, 2, 3, 4)},
    ),
    "prop1.trained_similar": Row(
        protocol=SIMILARITY.with_({"fit": Fitting(epochs=10, half=1, batch_size=64, lr=2e-3, accuracy=0.9)}),
        levels={state: STATES[state] for state in ("untrained", "trained", "half-trained")},
    ),
}
