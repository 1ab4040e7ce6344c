"""ANA-GIA by changed parameters: Fishing."""

from __future__ import annotations

from dataclasses import replace

from claims.protocols.cell import Cell
from claims.protocols.changes import CIFAR, REPORTED, with_equal_labels
from gia.federated import LocalTraining
from gia.harness.controls import beats_blind_guess
from gia.harness.protocol import Fished, Fitting, Protocol

#: Faces, since a class must have one image in the batch: there are forty people. The classifier's gradient, which tells
#: most of an image, is not the target's alone and left out, so what comes back is blurred.
REDUCED = Protocol(
    attack="fishing",
    victim={"name": "convnet"},
    data="faces",
    image_size=16,
    images=4,
    batch_size=4,
    pattern="distinct",
    settings={"steps": 60, "total_variation": 3e-3},
    reveal=(),
    fish=Fished(targets=2),
    score=("psnr", "ssim"),
    control=beats_blind_guess,
    control_images=4,
    vary={"victim.width": tuple(range(32, 52, 2)), "victim.activation": ("relu", "leaky_relu")},
)

#: The paper's victim is trained.
PAPER = Protocol(
    attack="fishing",
    victim={"name": "resnet18", "width": 64, "standardize": CIFAR},
    data="imagenet",
    image_size=224,
    images=64,
    batch_size=16,
    pattern="distinct",
    pattern_batch=64,
    settings={"steps": 24_000, "total_variation": 1e-6},
    space="standardized",
    fit=Fitting(epochs=90, half=5, batch_size=128, accuracy=0.5),
    reveal=(),
    fish=Fished(targets=4),
    score=("psnr", "ssim", "cw_ssim"),
    control=beats_blind_guess,
    control_images=16,
)

PROTOCOLS = {"reduced": REDUCED, "paper": PAPER}

#: Batches that are no powers of two, so that their gradients differ by rounding at least. In float64: an equal gradient
#: but for rounding is another path of the search in float32, by up to a decibel.
BATCHES = {
    "reduced": replace(REDUCED, images=36, pattern_batch=36, dtype="float64"),
    "paper": PAPER,
}

#: Each level isolates another image, the one with the largest feature. What counts is how far it stays below the same
#: image alone in its batch.
FOURS = {
    "reduced": replace(REDUCED, fish=Fished(kind="feature", targets=1), score=("psnr_lost", "psnr", "ssim")),
    "paper": replace(
        PAPER,
        data="celeba",
        image_size=64,
        batch_size=4,
        pattern_batch=4,
        fish=Fished(kind="feature", targets=1),
        score=("psnr_lost", "psnr", "ssim"),
    ),
}

TRAINED = {
    # With the others' weaker prior a search in a trained net ends below the blind guess in half of the blocks.
    "reduced": replace(REDUCED, settings={"steps": 120}, fit=Fitting(epochs=16, half=5, accuracy=0.7)),
    "paper": replace(PAPER, image_size=64),
}

#: Behind a residual net's pooling little comes back at 16 pixels in less than hundreds of steps; at 8 pixels it does.
RESIDUAL = {
    "reduced": replace(
        REDUCED,
        victim={"name": "resnet10"},
        image_size=8,
        settings={"steps": 60},
        fish=Fished(targets=1),
        vary={**REDUCED.vary, "victim.width": tuple(range(15, 25))},
    ),
    "paper": PAPER,
}

#: Local steps on a fished model; how many, on how many images, is drawn per block.
FEDERATED = {
    scale: replace(
        protocol,
        local=LocalTraining(epochs=1, batch_size=batch_sizes[0], lr=lr),
        vary={**protocol.vary, "local.epochs": (1, 2, 5), "local.batch_size": batch_sizes},
    )
    for scale, protocol, lr, batch_sizes in (("reduced", REDUCED, 0.01, (1, 2)), ("paper", PAPER, 0.01, (1, 8, 16)))
}

ORIGINAL = {scale: replace(protocol, score=("psnr", "psnr_other")) for scale, protocol in PROTOCOLS.items()}

CLASS_FISHING = "4, class fishing"


def fished(protocol: Protocol, level: int | str) -> Protocol:
    """With so many equal labels among four; or with four of them, for all that class fishing can do."""
    if level == CLASS_FISHING:
        protocol = replace(protocol, fish=Fished(kind="class", targets=1))
    return with_equal_labels(protocol, 4 if level == CLASS_FISHING else int(level))


_FIG11A, _FIG11B = REPORTED["fig11a_fishing_imagenet_resnet18_ssim"], REPORTED["fig11b_fishing_trained_224_ssim"]
_DEPTHS = {"reduced": ("resnet10", "resnet18", "resnet34"), "paper": ("resnet18", "resnet34", "resnet50")}

CELLS: dict[str, dict[str, Cell]] = {
    scale: {
        "batch_size": Cell(
            protocol=BATCHES[scale],
            levels={"reduced": (4, 12, 36), "paper": (16, 32, 64)}[scale],
            reported=dict(zip(_FIG11A["batch_sizes"], _FIG11A["224_trained"], strict=True)),
            reported_as="the paper's SSIM, ImageNet",
        ),
        "resolution": Cell(
            protocol=PROTOCOLS[scale],
            levels={"reduced": (8, 16, 32), "paper": (64, 128, 224)}[scale],
            reported={side: _FIG11A[f"{side}_trained"][0] for side in (64, 128, 224)},
            reported_as="the paper's SSIM, ImageNet",
        ),
        "same_labels": Cell(protocol=FOURS[scale], levels=(1, 2, 3, 4), shown=(CLASS_FISHING,), change=fished),
        "training_state": Cell(
            protocol=TRAINED[scale],
            levels=("trained", "untrained"),
            reported={state: _FIG11A[f"64_{state}"][0] for state in ("trained", "untrained")},
            reported_as="the paper's SSIM, ImageNet",
        ),
        "architecture": Cell(
            protocol=RESIDUAL[scale],
            levels=_DEPTHS[scale],
            x=_DEPTHS[scale].index,
            reported={name: _FIG11B[name][0] for name in _DEPTHS["paper"]},
            reported_as="the paper's SSIM, ImageNet",
        ),
        "fedavg": Cell(protocol=FEDERATED[scale], levels=("FedSGD", "FedAvg")),
        "original": Cell(protocol=ORIGINAL[scale], levels=("attacked",)),
    }
    for scale in ("reduced", "paper")
}
