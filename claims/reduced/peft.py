"""PEFT: low-rank adapters alone are shared."""

from __future__ import annotations

from claims.cell import Row
from claims.reduced.spaces import DETAILED, PEFT, narrowed

#: Other data at each size, as in the paper, whose 32-px images are CIFAR's and whose 224-px images are ImageNet's.
GROWN = narrowed(PEFT, "batch.data", "batch.image_size")

#: The same crop of two pictures at every resolution.
SIZED = narrowed(PEFT, "batch.image_size", data=DETAILED)

ROWS = {
    "peft.resolution": Row(
        protocol=GROWN,
        levels={
            8: {"batch.data": "cifar10-samples", "batch.image_size": 8},
            16: {"batch.data": "cifar100-samples", "batch.image_size": 16},
            32: {"batch.data": "imagenet-samples", "batch.image_size": 32},
        },
    ),
    "peft.resized": Row(
        protocol=SIZED,
        levels={pixels: {"batch.image_size": pixels} for pixels in (8, 16, 32)},
    ),
    "peft.model_size": Row(
        protocol=narrowed(PEFT, "victim.width"),
        levels={f"width {width}": {"victim.width": width} for width in (48, 96, 192)},
    ),
    "peft.batch_size": Row(
        protocol=PEFT.with_({"batch.images": 4}),
        levels={size: {"batch.size": size} for size in (1, 2, 4)},
    ),
}
