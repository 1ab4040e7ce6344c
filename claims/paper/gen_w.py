"""GEN-GIA over generator weights: CI-Net. Its victims are Sigmoid nets: the attack relies on them."""

from __future__ import annotations

from claims import published
from claims.cell import Cell, Row
from claims.changes import STATES, aggregated
from gia.experiment import Attacker, Batch, Client, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works, shares_gradients

PROTOCOL = Protocol(
    victim=Victim(
        name="resnet18",
        options={"stem": "3x3", "width": 64, "activation": "sigmoid"},
        standardize=published.CIFAR,
    ),
    batch=Batch(data="cifar100", image_size=32, images=64, pattern="distinct", pattern_batch=64),
    client=Client(training=True),
    attacker=Attacker(attack="ci_net"),
    scoring=Scoring(metrics=("psnr", "ssim", "cw_ssim", "lpips"), control=path_works),
)

SIZED = PROTOCOL.with_({"batch.data": "imagenet", "batch.size": 64})

FOURS = PROTOCOL.with_({"batch.data": "cifar10", "batch.size": 4, "batch.pattern": "any"})

TRAINED = PROTOCOL.with_({"fit": Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)})

#: CI-Net as published matches one gradient; a simulation of the known local steps is shown as a further level.
FEDERATED = PROTOCOL.with_(
    {
        "client.local": published.LOCAL,
        "batch.size": 64,
        "vary": {"batch.data": ("cifar10", "cifar100"), **published.LOCAL_VARIED},
    }
)

ORIGINAL = PROTOCOL.with_({"scoring.metrics": ("psnr", "psnr_other", "ssim")})

CELLS = {
    "batch_size": Cell(protocol=PROTOCOL, levels=(1, 4, 8, 16, 32, 64)),
    "resolution": Cell(protocol=SIZED, levels=(64, 128, 224)),
    # How many images of a batch share a label.
    "same_labels": Cell(protocol=FOURS, levels=(1, 2, 3, 4)),
    "training_state": Cell(protocol=TRAINED, levels=tuple(STATES)),
    "architecture": Cell(protocol=PROTOCOL, levels=("resnet18", "resnet34", "resnet50", "resnet101")),
    "fedavg": Cell(protocol=FEDERATED, levels=("FedSGD", "FedAvg", "FedAvg, simulated"), change=aggregated),
    "original": Cell(protocol=ORIGINAL, levels=("attacked",)),
}

ROWS = {
    "gen_w.sigmoid/2": Row(
        protocol=PROTOCOL,
        levels={
            f"{mode}, {name}": {"client.training": mode == "train", "victim.activation": name}
            for mode in ("train", "eval")
            for name in ("sigmoid", "relu", "tanh", "leaky_relu", "rrelu", "gelu")
        },
    ),
    "sigmoid.mechanism/2": Row(
        protocol=PROTOCOL,
        levels={
            **{name: {"victim.activation": name} for name in ("sigmoid(4x)", "sigmoid(2x)", "sigmoid", "sigmoid(x/2)")},
            **{
                name: {"victim.activation": name, "scoring.control": None}
                for name in ("sigmoid/4", "4*sigmoid", "sigmoid-1/2", "linear")
            },
        },
    ),
    "sigmoid.inputs": Row(
        protocol=PROTOCOL.with_({"scoring.control": shares_gradients}),
        levels={name: {"victim.activation": name} for name in ("sigmoid", "tanh", "relu")},
    ),
}
