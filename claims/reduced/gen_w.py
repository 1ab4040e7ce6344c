"""GEN-GIA over generator weights: CI-Net. How the settings were chosen is in docs/pilots.md.

Its victims are Sigmoid nets, as the paper's are: the attack relies on them.
"""

from __future__ import annotations

from claims.cell import Cell, Row
from claims.changes import STATES, aggregated
from gia.experiment import Attacker, Batch, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import beats_blind_guess, shares_gradients
from gia.federated import LocalTraining

#: In float64: the gradient of a Sigmoid net is matched to 1e-7, where the cosine of float32 ends, before the image is.
PROTOCOL = Protocol(
    victim=Victim(name="convnet", options={"activation": "sigmoid"}, dtype="float64"),
    batch=Batch(data="cifar10-samples", image_size=16, images=8, pattern="distinct", pattern_batch=8),
    attacker=Attacker(attack="ci_net", settings={"steps": 40}),
    scoring=Scoring(metrics=("psnr", "ssim"), control=beats_blind_guess),
    vary={"batch.data": ("cifar10-samples", "cifar100-samples"), "victim.width": tuple(range(16, 24))},
)

#: Two images a block, and the same crop of them at every resolution.
SIZED = PROTOCOL.with_(
    {
        "batch.images": 2,
        "batch.pattern": "any",
        "batch.pattern_batch": None,
        "vary": {**PROTOCOL.vary, "batch.data": ("photos", "faces")},
    }
)

#: CIFAR's samples hold too few equal labels; ORL has ten pictures of each of its 40 people.
FOURS = PROTOCOL.with_(
    {
        "batch.data": "faces",
        "batch.images": 4,
        "batch.size": 4,
        "scoring.control_images": 4,
        "vary": {"victim.width": tuple(range(16, 32))},
    }
)

#: Of the small Sigmoid nets only DLG's, with its wide initialization, learns in seconds, and digits rather than forty
#: people. Some settings of its training are drawn.
TRAINED = PROTOCOL.with_(
    {
        "victim.init": "dlg",
        "batch.data": "digits",
        "batch.images": 4,
        "batch.pattern_batch": 4,
        "fit": Fitting(epochs=4, half=1, lr=3e-3, accuracy=0.8),
        "vary": {"victim.width": PROTOCOL.vary["victim.width"], "fit.batch_size": (16, 24, 32)},
    }
)

#: The paper's victim for this attack, small: batch normalization in train mode, and single images, of which the last
#: maps of three stages still hold 16 pixels. The control attacks four images, since the blind guess is close to some
#: single ones, such as a plain sky.
RESIDUAL = PROTOCOL.with_(
    {
        "victim.name": "resnet8",
        "victim.dtype": "float32",
        "batch.images": 1,
        "batch.pattern": "any",
        "batch.pattern_batch": None,
        "attacker.settings": {"steps": 60, "lr": 5e-3},
        "client.training": True,
        "scoring.control_images": 4,
        "vary": {"batch.data": ("cifar10-samples", "cifar100-samples"), "victim.width": tuple(range(13, 21))},
    }
)

#: Clients that train locally before they share. CI-Net as published matches one gradient; a simulation of the known
#: local steps is shown as a further level.
FEDERATED = PROTOCOL.with_(
    {
        "client.local": LocalTraining(epochs=1, batch_size=1, lr=0.02),
        "batch.images": 4,
        "batch.size": 4,
        "batch.pattern_batch": 4,
        "scoring.control_images": 4,
        "vary": {**PROTOCOL.vary, "client.local.epochs": (1, 2, 5), "client.local.batch_size": (1, 2)},
    }
)

#: Images whose label occurs again.
ORIGINAL = PROTOCOL.with_(
    {
        "batch.data": "faces",
        "batch.images": 4,
        "batch.pattern_batch": 4,
        "scoring.metrics": ("psnr", "psnr_other", "ssim"),
        "vary": {"victim.width": tuple(range(16, 32))},
    }
)

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 2, 4, 8)),
    "resolution": Cell(protocol=SIZED, levels=(16, 32, 64)),
    # How many images of a batch share a label.
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=tuple(STATES)),
    "architecture": Cell(protocol=RESIDUAL, levels=("resnet8", "resnet20")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg", "FedAvg, simulated"), change=aggregated),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}

ROWS = {
    # A narrow ResNet-18, the paper's network.
    "sigmoid.inputs": Row(
        protocol=RESIDUAL.with_(
            {
                "victim": Victim(name="resnet18"),
                "batch.images": 8,
                "batch.size": 8,
                "scoring.control": shares_gradients,
                "scoring.control_images": 8,
            }
        ),
        levels={name: {"victim.activation": name} for name in ("sigmoid", "tanh", "relu")},
    ),
}
