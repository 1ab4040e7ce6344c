"""One result beyond what a run may cost: made once by this command, and kept with where it came from.

    python -m claims.stored        # ResNet-18 at its full width, about forty minutes of one core

Inverting Gradients at the paper's settings, but with 1,000 steps of its 24,000, on real CIFAR-10 test images. It writes
baselines/stored/resnet18.json and .png, a level as soon as it is finished; a level that is there is not measured again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from claims.protocols import PROTOCOLS
from claims.protocols.changes import batches_of
from gia.harness import pictures
from gia.harness.blocks import Block
from gia.harness.protocol import Protocol
from gia.harness.run import measure
from gia.harness.scene import Measurement
from gia.numerics import environment, fingerprint, reproducible

FOLDER = Path(__file__).parents[1] / "baselines" / "stored"
BLOCK = Block("stored.resnet18", 0, {})
BATCH_SIZES = (1, 4)

PROTOCOL = replace(
    PROTOCOLS["paper"]["op"], data="cifar10-samples", images=8, pattern_batch=8, settings={"steps": 1_000}, control=None
)


def entry(protocol: Protocol, seen: Measurement) -> dict[str, Any]:
    """What is kept of one level, as plain JSON."""
    return {
        "values": dict(seen.values),
        "blind": dict(seen.blind),
        "per_image": {metric: list(values) for metric, values in seen.per_image.items()},
        "objective": seen.objective,
        "gradient_evaluations": seen.gradient_evaluations,
        "seconds": round(seen.seconds, 1),
        "protocol": protocol.described(),
        "environment": environment(),
        "fingerprint": fingerprint(),
    }


def main() -> None:
    """Measure the levels that are missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "resnet18.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for batch_size in BATCH_SIZES:
        label = f"B={batch_size}"
        if label in kept:
            continue
        protocol = batches_of(PROTOCOL, batch_size)
        with reproducible():
            seen = measure(protocol, BLOCK)
            kept[label] = entry(protocol, seen)
        path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        assert seen.originals is not None
        assert seen.reconstructions is not None
        pictures.grid(FOLDER / f"resnet18-{label}.png", {"private": seen.originals, label: seen.reconstructions})


if __name__ == "__main__":
    main()
