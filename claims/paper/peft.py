"""PEFT: low-rank adapters alone are shared. The attack is the paper's search over generator weights.

The released code initializes its Vision Transformers at random, and adapters of rank 4 on queries, keys and values with
B = 0. Patches are not stated: 4 pixels at CIFAR's size and 16 at ImageNet's are ours.
"""

from __future__ import annotations

from claims import published
from claims.cell import Row
from claims.edits import Adapted
from gia.experiment import Attacker, Batch, Protocol, Scoring, Victim
from gia.experiment.controls import path_works

PEFT = Protocol(
    victim=Victim(
        name="vit_base", options={"patch": 4}, standardize=published.CIFAR, edit=Adapted(rank=4, targets="qkv")
    ),
    batch=Batch(data="cifar100", image_size=32, images=64, pattern="distinct", pattern_batch=64),
    attacker=Attacker(attack="ci_net", settings={"total_variation": 1e-4}),
    scoring=Scoring(control=path_works),
)

ROWS = {
    "peft.resolution": Row(
        protocol=PEFT,
        levels={
            32: {},
            224: {"batch.data": "imagenet", "batch.image_size": 224, "victim.patch": 16},
        },
    ),
    "peft.resized": Row(
        protocol=PEFT.with_({"batch.data": "imagenet", "victim.patch": 16}),
        levels={pixels: {"batch.image_size": pixels} for pixels in (32, 64, 128, 224)},
    ),
    "peft.model_size": Row(
        protocol=PEFT,
        levels={name.removeprefix("vit_"): {"victim.name": name} for name in ("vit_tiny", "vit_base", "vit_large")},
    ),
    "peft.batch_size": Row(
        protocol=PEFT,
        levels={size: {"batch.size": size} for size in (1, 4, 8, 16, 32, 64)},
    ),
}
