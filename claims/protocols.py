"""How each attack type is run, at each scale. A factor module changes one thing in one of these.

Attack types are the paper's: op (Inverting Gradients); others join as their attacks land.
"""

from __future__ import annotations

from dataclasses import replace

from gia.harness.run import Protocol, beats_blind_guess

#: CIFAR's channel means and deviations, as the paper's code standardizes.
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}

PROTOCOLS = {
    "reduced": {
        "op": Protocol(
            attack="inverting_gradients",
            victim={"name": "convnet"},
            data="cifar10-samples",
            image_size=32,
            images=8,
            pattern="distinct",
            pattern_batch=8,
            settings={"steps": 150},
            control=beats_blind_guess,
            # The paper's victims are ReLU nets, and so are these. The first run drew SiLU too: there PSNR does not fall
            # with the batch (CIFAR-10, width 28: 26.6 dB at B=1, 28.8 at B=8). That is for the architecture rows.
            # Narrower nets, or less total variation, void blocks: too little of a single image comes back.
            vary={
                "data": ("cifar10-samples", "cifar100-samples"),
                "victim.width": (26, 28, 30, 32),
                "victim.activation": ("relu", "leaky_relu"),
            },
        ),
    },
    "paper": {
        "op": Protocol(
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
        ),
    },
}

#: Levels of each factor: the paper's, and those that two cores can afford.
BATCH_SIZES = {"reduced": (1, 2, 4, 8), "paper": (1, 4, 8, 16, 32, 64)}
RESOLUTIONS = {"reduced": (16, 24, 32), "paper": (32, 64, 128, 224)}


def batches_of(protocol: Protocol, batch_size: int) -> Protocol:
    """The same images of a block, attacked in batches of this size."""
    return replace(protocol, batch_size=batch_size)


def pinned(protocol: Protocol) -> Protocol:
    """The form in which a protocol's quality is stored: nothing drawn, float64, cheap enough for every commit."""
    settings = {**protocol.settings, "steps": 100}
    return replace(protocol, vary={}, dtype="float64", images=4, pattern_batch=4, settings=settings, device="cpu")
