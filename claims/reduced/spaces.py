"""The space of each attack type at the reduced scale: everything that a fair reader accepts as this attack.

All rows of a type draw their blocks from its space, so "supported" means: in the median setting of this space. A row
leaves out what it compares (`narrowed`), and narrows the rest only by what its statement says. The spaces were
declared before any row ran on them; a change is an entry of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims import judges
from claims.edits import Adapted, Imprinted
from claims.equipment import Inverting, decoder_of_public
from gia.experiment import Attacker, Batch, Client, Fishing, Protocol, Scoring, Victim
from gia.experiment.controls import path_works

#: Bounded and unbounded, smooth and with a kink.
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")

#: Without batch normalization, fully connected, and with batch normalization and shortcuts.
NETWORKS = ("convnet", "mlp", "resnet8")

#: All sets of real images that install from PyPI.
DATA = ("cifar10-samples", "cifar100-samples", "imagenet-samples", "photos", "faces", "digits")

#: Of these, the sets whose pictures have more than 32 pixels: only they have a higher resolution to lose.
DETAILED = ("imagenet-samples", "photos", "faces")

#: The sets in which a label occurs more than twice.
REPEATED = ("photos", "faces", "digits")

#: The sets on which a network learns in seconds, and can be seen to have learned.
LEARNED = ("photos", "faces")

#: These are shown; leak decides.
SHOWN = ("psnr", "ssim", "cw_ssim", "lpips", "rmse")

#: The rule that ends a search (`gia.attacks`): its data term falls by less than this over a fifth of its steps.
#: The caps are what two cores can afford, and searches end there; whether four times as much changes a verdict is
#: asked when it is confirmed.
CONVERGED = 0.01

OP = Protocol(
    victim=Victim(name="convnet"),
    batch=Batch(data="cifar10-samples", image_size=16, images=2),
    attacker=Attacker(attack="inverting_gradients", settings={"steps": 80, "converged": CONVERGED}),
    scoring=Scoring(metrics=SHOWN, control=path_works),
    vary={
        "batch.data": DATA,
        "batch.image_size": (8, 16),
        "victim.name": NETWORKS,
        "victim.width": (16, 24, 32),
        "victim.activation": ACTIVATIONS,
        "victim.init": ("torch", "kaiming", "dlg"),
        "victim.dtype": ("float32", "float64"),
        "client.training": (False, True),
        "attacker.settings.total_variation": (1e-4, 1e-3, 1e-2, 1e-1),
    },
)

#: Four attackers for each set and size, each with its own decoder and judge, serve all blocks and levels. They search
#: by Adam: with the evaluations that two cores can afford, CMA-ES fails its own control (docs/pilots.md).
GEN_Z = Protocol(
    victim=Victim(name="convnet"),
    batch=Batch(data="digits", image_size=8, images=4),
    attacker=Attacker(
        attack="ggl",
        settings={"optimizer": "adam", "steps": 60, "lr": 0.1, "converged": CONVERGED},
        equip=decoder_of_public,
        seed=0,
    ),
    scoring=Scoring(metrics=("label_agreement", *SHOWN), judge=judges.perceptron, control=path_works),
    vary={
        "batch.data": ("digits", "faces"),
        "batch.image_size": (8, 16),
        "victim.name": NETWORKS,
        "victim.width": (12, 16, 24),
        "victim.activation": ACTIVATIONS,
        "victim.init": ("torch", "kaiming", "dlg"),
        "client.training": (False, True),
        "attacker.seed": (0, 1, 2, 3),
    },
)

GEN_W = Protocol(
    victim=Victim(name="convnet"),
    batch=Batch(data="cifar10-samples", image_size=16, images=2),
    attacker=Attacker(attack="ci_net", settings={"steps": 40, "converged": CONVERGED}),
    scoring=Scoring(metrics=SHOWN, control=path_works),
    vary={
        "batch.data": DATA,
        "batch.image_size": (8, 16),
        "victim.name": NETWORKS,
        "victim.width": (12, 16, 24),
        "victim.activation": ACTIVATIONS,
        "victim.init": ("torch", "kaiming", "dlg"),
        "victim.dtype": ("float32", "float64"),
        "client.training": (False, True),
        "attacker.settings.lr": (1e-3, 5e-3),
    },
)

#: The sets that hold enough images for an inverter to learn from. One that makes all images of a batch at once does not
#: reach the class means with so few images (docs/pilots.md).
GEN_INV = Protocol(
    victim=Victim(name="lenet"),
    batch=Batch(data="digits", image_size=16, images=16),
    client=Client(reveal=()),
    attacker=Attacker(
        attack="learning_to_invert",
        equip=Inverting(epochs=30, hashed=64, training_batch=64, by_label=True, most=600),
    ),
    scoring=Scoring(metrics=SHOWN, control=path_works, control_images=16),
    vary={
        "batch.data": ("digits", "faces"),
        "batch.image_size": (8, 16),
        "victim.name": ("lenet", "mlp", "resnet8"),
        "victim.width": (8, 12, 16),
        "victim.activation": ACTIVATIONS,
        "victim.init": ("torch", "kaiming", "dlg"),
        "client.training": (False, True),
    },
)

#: A block behind which any network stands. Its cut-offs are fitted to the server's own images.
ANA_ARCH = Protocol(
    victim=Victim(name="convnet", edit=Imprinted()),
    batch=Batch(data="faces", image_size=32, images=64, size=64),
    client=Client(reveal=()),
    attacker=Attacker(attack="robbing_the_fed"),
    scoring=Scoring(metrics=("exact_leak", "exact_share", "psnr"), control=path_works, control_images=8),
    vary={
        "batch.data": ("photos", "faces", "digits"),
        "batch.image_size": (16, 24, 32),
        "victim.name": NETWORKS,
        "victim.width": (8, 16, 24),
        "victim.activation": ACTIVATIONS,
        "victim.init": ("torch", "kaiming", "dlg"),
        "victim.dtype": ("float32", "float64"),
        "client.training": (False, True),
    },
)

#: A class must have one image in the batch, so batches have distinct labels. Batch normalization is in eval mode: the
#: attack matches the target alone.
ANA_PARAM = Protocol(
    victim=Victim(name="convnet", fish=Fishing(targets=2)),
    batch=Batch(data="faces", image_size=16, images=4, size=4, pattern="distinct"),
    client=Client(reveal=()),
    attacker=Attacker(attack="fishing", settings={"steps": 80, "converged": CONVERGED}),
    scoring=Scoring(metrics=SHOWN, control=path_works),
    vary={
        "batch.data": ("faces", "digits", "cifar100-samples"),
        "batch.image_size": (8, 16),
        "victim.name": NETWORKS,
        "victim.width": (16, 24, 32),
        "victim.activation": ACTIVATIONS,
        "victim.init": ("torch", "kaiming", "dlg"),
        "victim.dtype": ("float32", "float64"),
        "attacker.settings.total_variation": (1e-4, 1e-3, 1e-2, 1e-1),
    },
)


#: Narrow Vision Transformers of which low-rank adapters alone are shared. The attack is the closed form, which costs
#: less than a step of a search.
PEFT = Protocol(
    victim=Victim(
        name="vit_tiny", options={"patch": 4, "width": 96, "depth": 2, "heads": 2, "fused": True}, edit=Adapted()
    ),
    batch=Batch(data="cifar10-samples", image_size=16, images=2),
    attacker=Attacker(attack="patch_span"),
    scoring=Scoring(metrics=SHOWN, control=path_works),
    vary={
        "batch.data": DATA,
        "batch.image_size": (8, 16),
        "victim.width": (48, 96, 144),
        "victim.depth": (2, 3),
        "victim.fused": (False, True),
        "victim.edit.rank": (1, 4, 16, 64),
        "victim.edit.targets": ("qkv", "all"),
        "victim.edit.epochs": (0, 1, 10),
        "victim.dtype": ("float32", "float64"),
    },
)


def narrowed(space: Protocol, *compared: str, changes: Mapping[str, Any] | None = None, **drawn: Any) -> Protocol:
    """A space without the factors that a row compares.

    Args:
        space: one of the above.
        compared: dotted keys that are not drawn, because the row's levels or its statement set them.
        changes: what the row sets, as `Protocol.with_` takes it; a key that it sets is not drawn either.
        drawn: `data=` and `networks=`, the values that the row's statement leaves of "batch.data" and "victim.name".

    >>> sorted(set(OP.vary) - set(narrowed(OP, "victim.name").vary))
    ['victim.name']
    """
    given = dict(changes or {})
    names = {"data": "batch.data", "networks": "victim.name"}
    kept = {key: values for key, values in space.vary.items() if key not in compared and key not in given}
    of_sets = {names[name]: tuple(values) for name, values in drawn.items()}
    return space.with_({**given, "vary": {**kept, **of_sets, **given.get("vary", {})}})
