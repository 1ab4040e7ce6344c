"""One result beyond what a run may cost: made once by this command, and stored with where it came from.

    python -m claims.stored        # ResNet-18 at its full width, about forty minutes of one core

Inverting Gradients at the paper's settings, but with 1,000 steps of its 24,000, on real CIFAR-10 test images. It writes
baselines/stored/resnet18.json, a level as soon as it is finished; a level that is there is not measured again. Its
pictures go to .gia/stored, which git ignores, since CIFAR-10's samples may not be copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from claims.changes import batches_of
from claims.paper import op
from gia import pictures
from gia.data.assets import ASSETS
from gia.experiment import Measurement, Protocol, measure
from gia.harness.blocks.block import Block
from gia.numerics import environment, fingerprint, reproducible

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "baselines" / "stored"
BLOCK = Block("stored.resnet18", 0, {})
BATCH_SIZES = (1, 4)

PROTOCOL = op.PROTOCOL.with_(
    {
        "batch.data": "cifar10-samples",
        "batch.images": 8,
        "batch.pattern_batch": 8,
        "attacker.settings.steps": 1_000,
        "scoring.control": None,
    }
)


def entry(protocol: Protocol, seen: Measurement) -> dict[str, Any]:
    """What is stored of one level, as plain JSON."""
    details = seen.details
    return {
        "values": dict(seen.values),
        "placebo": details["placebo"],
        "per_image": details["per_image"],
        "objective": details.get("objective"),
        "gradient_evaluations": seen.counts["gradient_evaluations"],
        "seconds": round(details["seconds"], 1),
        "protocol": protocol.described(),
        "environment": environment(),
        "fingerprint": fingerprint(),
    }


def picture(name: str, rows: Mapping[str, np.ndarray | Tensor], *data: str) -> Path:
    """Draw rows of images of these data sets, in the folder of committed pictures only if all of them may be copied."""
    folder = FOLDER if all(ASSETS[each].redistributable for each in data) else ROOT / ".gia" / "stored"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    pictures.grid(path, rows)
    return path


def main() -> None:
    """Measure the levels that are missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "resnet18.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for batch_size in BATCH_SIZES:
        label = f"B={batch_size}"
        if label in stored:
            continue
        protocol = batches_of(PROTOCOL, batch_size)
        with reproducible():
            seen = measure(protocol, BLOCK)
            stored[label] = entry(protocol, seen)
        path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        rows = {"private": seen.arrays["originals"], label: seen.arrays["reconstructions"]}
        picture(f"resnet18-{label}", rows, protocol.batch.data)


if __name__ == "__main__":
    main()
