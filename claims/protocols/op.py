"""OP-GIA: Inverting Gradients."""

from __future__ import annotations

from dataclasses import replace

from claims.protocols.cell import Cell
from claims.protocols.changes import CIFAR, KNOWLEDGE, PAPER_LOCAL, PAPER_LOCAL_VARIED, REPORTED, STATES, knowing
from gia.federated import LocalTraining
from gia.harness.controls import beats_blind_guess
from gia.harness.protocol import Fitting, Protocol

REDUCED = Protocol(
    attack="inverting_gradients",
    victim={"name": "convnet"},
    data="cifar10-samples",
    image_size=32,
    images=8,
    pattern="distinct",
    pattern_batch=8,
    settings={"steps": 120},
    control=beats_blind_guess,
    # The paper's victims are ReLU nets, and so are these. The first run drew SiLU too: there PSNR does not fall
    # with the batch (CIFAR-10, width 28: 26.6 dB at B=1, 28.8 at B=8). That is for the architecture rows.
    # Narrower nets, or less total variation, void blocks: too little of a single image comes back.
    vary={
        "data": ("cifar10-samples", "cifar100-samples"),
        "victim.width": (26, 28, 30, 32),
        "victim.activation": ("relu", "leaky_relu"),
    },
)

PAPER = Protocol(
    attack="inverting_gradients",
    victim={"name": "resnet18", "stem": "3x3", "width": 64, "standardize": CIFAR},
    data="cifar100",
    image_size=32,
    images=64,
    pattern="distinct",
    pattern_batch=64,
    settings={"steps": 24_000},
    space="standardized",
    control=beats_blind_guess,
)

PROTOCOLS = {"reduced": REDUCED, "paper": PAPER}

#: Two images a block, the same part of the same ones at every resolution: CIFAR's have no 64 pixels. A net without
#: pooling shares width/16 features for each pixel at every resolution: against three channels of a photo that is less
#: than one a number, and PSNR falls; against one channel of a face it is more, and nothing happens. In a pilot, gray
#: photos lost nothing either (28.0 dB at 32 px, 28.4 at 64 px), and colour ones little at width 64 or with 800 steps.
SIZED = {
    "reduced": replace(
        REDUCED,
        images=2,
        pattern="any",
        pattern_batch=None,
        settings={"steps": 100},
        vary={**REDUCED.vary, "data": ("photos", "faces")},
    ),
    "paper": replace(PAPER, data="imagenet", settings={"steps": 24_000, "total_variation": 1e-6}),
}

#: CIFAR's samples hold too few equal labels, ORL has ten pictures of each of its 40 people. In 150 steps nets of width
#: 40 to 46 give four different people away at 24 to 30 dB, nets of width 32 to 38 at 17 to 23 dB (pilot blocks, 17 dB
#: blind); one of width 16 stays at the blind guess, whatever the labels.
FOURS = {
    "reduced": replace(
        REDUCED,
        data="faces",
        images=4,
        batch_size=4,
        control_images=4,
        settings={"steps": 120},
        vary={"victim.width": tuple(range(40, 49)), "victim.activation": ("relu", "leaky_relu")},
    ),
    "paper": replace(PAPER, data="cifar10", batch_size=4, control_images=4),
}

#: A small net learns forty faces in seconds; some settings of its training are drawn.
TRAINED = {
    "reduced": replace(
        REDUCED,
        data="faces",
        images=4,
        pattern_batch=4,
        fit=Fitting(epochs=16, half=5, accuracy=0.7),
        vary={
            "victim.width": REDUCED.vary["victim.width"],
            "victim.activation": REDUCED.vary["victim.activation"],
            "fit.batch_size": (16, 24, 32),
        },
    ),
    "paper": replace(PAPER, fit=Fitting(epochs=100, half=5, batch_size=128, accuracy=0.5)),
}

#: The paper's BN mode, eval: untrained, BN is then the identity. In train mode nothing comes back at any depth (7 to
#: 8 dB at 150 and at 400 steps), which would support whatever says "worse". With the published total variation of 1e-2
#: so few steps leave noise: a first run of 16 blocks, narrower and at 100 steps, lost 5 to its control.
RESIDUAL = {
    "reduced": replace(
        REDUCED,
        victim={"name": "resnet10"},
        image_size=16,
        images=4,
        pattern="any",
        pattern_batch=None,
        settings={"steps": 60, "total_variation": 0.1},
        vary={**REDUCED.vary, "victim.width": (22, 24, 26, 28)},
    ),
    "paper": PAPER,
}

#: Where depth is held against the batch size, the attack on a large batch must be alive. Of four images behind a
#: residual net that two cores can afford nothing comes back: 16 px, width 14 to 20, 100 steps void 14 of 16 blocks of a
#: first run; of pilot blocks, width 22 to 28 with ten times the total variation void 4 of 6, with 200 steps too. Plain
#: nets of three and of three times as many layers stand in for ResNet-18 and ResNet-50: on faces the large batch comes
#: back at 23 and 26 dB (pilot blocks, 17 dB blind).
DEEPENED = {
    "reduced": replace(
        FOURS["reduced"], batch_size=1, pattern_batch=4, settings={"steps": 100}, victim={"name": "convnet", "depth": 3}
    ),
    "paper": PAPER,
}

#: Clients that train locally before they share; how many epochs, in which batches, is drawn per block. Four images at
#: 0.02 move the weights as far as the paper's sixty-four at 0.01 in batches of eight. A simulated step is a double
#: backward of its own, so images are small; nets of this width still invert four of them.
FEDERATED = {
    "reduced": replace(
        REDUCED,
        local=LocalTraining(epochs=1, batch_size=1, lr=0.02),
        image_size=16,
        images=4,
        pattern_batch=4,
        batch_size=4,
        control_images=4,
        settings={"steps": 80},
        vary={**REDUCED.vary, "victim.width": (44, 48), "local.epochs": (1, 2, 5), "local.batch_size": (1, 2)},
    ),
    "paper": replace(
        PAPER,
        local=PAPER_LOCAL,
        batch_size=64,
        control_images=64,
        vary={"data": ("cifar10", "cifar100"), **PAPER_LOCAL_VARIED},
    ),
}

#: Single images of which another one of the same class is to be had: ORL has ten pictures of each of its people.
ORIGINAL = {
    "reduced": replace(
        REDUCED,
        data="faces",
        images=4,
        pattern_batch=4,
        score=("psnr", "psnr_other", "ssim"),
        vary={"victim.width": tuple(range(25, 33)), "victim.activation": REDUCED.vary["victim.activation"]},
    ),
    "paper": replace(PAPER, score=("psnr", "psnr_other", "ssim")),
}

#: Levels: the paper's, and those that two cores can afford.
BATCH_SIZES = {"reduced": (1, 2, 4, 8), "paper": (1, 4, 8, 16, 32, 64)}
SIDES = {"reduced": (16, 32, 64), "paper": (32, 64, 128, 224)}
DEPTHS = {
    "reduced": ("resnet10", "resnet18", "resnet34"),
    "paper": ("resnet18", "resnet34", "resnet50", "resnet101"),
}

_FIG3A, _FIG3B = REPORTED["fig3a_ig_resnet18_ssim"], REPORTED["fig3b_ig_cifar100_architecture_ssim"]
_FIG5 = REPORTED["fig5_ig_cifar10_b4_same_labels"]

CELLS = {
    scale: {
        "batch_size": Cell(
            protocol=PROTOCOLS[scale],
            levels=BATCH_SIZES[scale],
            reported={int(batch_size): value for batch_size, value in _FIG3A["cifar100_untrained"].items()},
            reported_as="the paper's CW-SSIM, CIFAR-100",
        ),
        "resolution": Cell(
            protocol=SIZED[scale],
            levels=SIDES[scale],
            reported={32: _FIG3A["cifar100_untrained"]["1"], 224: _FIG3A["imagenet_untrained"]["1"]},
            reported_as="the paper's CW-SSIM, two data sets",
        ),
        # How many of the four images of a batch share a label; 1 is the paper's "0 equal".
        "same_labels": Cell(
            protocol=FOURS[scale],
            levels=(1, 2, 3, 4),
            reported={max(1, int(equal)): values[0] for equal, values in _FIG5.items() if equal.isdigit()},
            reported_as="the paper's PSNR, CIFAR-10",
        ),
        "training_state": Cell(protocol=TRAINED[scale], levels=tuple(STATES)),
        "architecture": Cell(
            protocol=RESIDUAL[scale],
            levels=DEPTHS[scale],
            x=DEPTHS[scale].index,
            reported={name: _FIG3B[name]["1"] for name in DEPTHS["paper"]},
            reported_as="the paper's CW-SSIM, CIFAR-100",
        ),
        "original": Cell(protocol=ORIGINAL[scale], levels=("attacked",)),
        # Beside the register's pair stands the paper's weak attacker, who simulates the wrong local training.
        "fedavg": Cell(protocol=FEDERATED[scale], levels=tuple(KNOWLEDGE), change=knowing),
    }
    for scale in ("reduced", "paper")
}
