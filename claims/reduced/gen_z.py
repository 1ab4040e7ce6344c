"""GEN-GIA by a search of latents: GGL. How the settings were chosen is in docs/pilots.md."""

from __future__ import annotations

from claims import judges
from claims.cell import Cell
from claims.equipment import decoder_of_public
from gia.experiment import Attacker, Batch, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import inverts_its_own_samples
from gia.federated import LocalTraining

#: Digits at their own size, 64 a block unless a cell says otherwise. Eight attackers, each with its own decoder and
#: judge, serve all blocks and levels, so levels differ in their factor alone. The control attacks 32 images, of which a
#: search that follows noise fails almost always.
PROTOCOL = Protocol(
    victim=Victim(name="convnet"),
    batch=Batch(data="digits", image_size=8, images=64),
    attacker=Attacker(
        attack="ggl",
        settings={"optimizer": "cma", "steps": 50, "population": 10},
        equip=decoder_of_public,
    ),
    scoring=Scoring(
        metrics=("label_agreement", "psnr", "psnr_other"),
        judge=judges.digits,
        control=inverts_its_own_samples,
        control_images=32,
    ),
    vary={
        "victim.width": (12, 16, 20, 24),
        "victim.activation": ("relu", "leaky_relu", "tanh", "sigmoid"),
        "attacker.seed": tuple(range(8)),
    },
)

#: Each size has its own decoders and judges.
SIZED = PROTOCOL.with_({"batch.images": 32, "vary": {**PROTOCOL.vary, "attacker.seed": tuple(range(4))}})

FOURS = PROTOCOL.with_({"batch.images": 48, "batch.size": 4})

ORIGINAL = PROTOCOL.with_({"batch.images": 32})

#: Without Sigmoid, which learns too little in ten epochs.
TRAINED = PROTOCOL.with_(
    {
        "batch.images": 32,
        "fit": Fitting(epochs=10, half=3, accuracy=0.85),
        "vary": {**PROTOCOL.vary, "victim.activation": ("relu", "leaky_relu", "tanh", "gelu")},
    }
)

#: All of these networks have a width; a search of few evaluations is enough in each of them.
NETWORKS = PROTOCOL.with_(
    {
        "batch.images": 32,
        "vary": {
            **PROTOCOL.vary,
            "victim.width": (8, 10, 12, 14, 16),
            "victim.activation": ("relu", "leaky_relu", "tanh", "gelu"),
        },
    }
)

#: An attacker that knows the local training and simulates it. The step size is that of `op.FEDERATED`.
FEDERATED = FOURS.with_(
    {
        "batch.images": 32,
        "client.local": LocalTraining(epochs=1, batch_size=2, lr=0.02),
        "client.reveal": ("labels", "local"),
        "vary": {**PROTOCOL.vary, "client.local.epochs": (1, 2), "client.local.batch_size": (1, 2)},
    }
)

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL.with_({"batch.pattern_batch": 8}), levels=(1, 2, 4, 8)),
    "resolution": Cell(protocol=SIZED, levels=(8, 16, 24)),
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=("untrained", "trained")),
    "architecture": Cell(protocol=NETWORKS, levels=("convnet", "mlp", "resnet10")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg")),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}
