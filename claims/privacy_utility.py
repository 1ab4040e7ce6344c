"""Privacy against utility: what leaks under each defense, and what a federated training loses by it.

    python -m claims.privacy_utility [SEEDS]      # 3 seeds by default, about eight minutes of one core

It writes baselines/stored/privacy_utility.json, a training as soon as it is finished, and .png. What this commit
measured before is not measured again; what another commit did is. Accuracy is that of `claims.federations` after the
same number of passes over the clients' images. The leak is what Inverting Gradients adds to the best placebo in the
first round, from a client that holds one batch of its protocol; the attacker knows labels, local training and the
network, and simulates the local steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from claims.federations import ALL_STAGES, UNDEFENDED, Arm, Federation
from gia import metrics, pictures
from gia.attacks import inverting_gradients
from gia.defenses import parse
from gia.federated import Client
from gia.numerics import environment, generator_of, replacing, reproducible

FOLDER = Path(__file__).parents[1] / "baselines" / "stored"

DATA = ("digits", "faces")
SEEDS = 3
SETTING = {"image_size": 8, "width": 12, "lr": 0.015, "concentration": 0.5}
STEPS = 200

#: Classical defenses of the undefended training, as `gia.defenses.parse` takes them.
CLASSICAL = ("noise=1e-4", "noise=1e-3", "noise=1e-2", "prune=0.01", "quantize=1", "dp_sgd=1.0,noise=0.1")

ARMS: Mapping[str, Arm] = {
    "undefended": UNDEFENDED,
    "all three stages": ALL_STAGES,
    "stage 1 alone": replace(UNDEFENDED, depth=ALL_STAGES.depth),
    "stage 2 alone": replace(ALL_STAGES, depth=UNDEFENDED.depth, validates=False),
    **{spec: replace(UNDEFENDED, defenses=(parse(spec),)) for spec in CLASSICAL},
}


def measured(name: str, arm: Arm, seed: int) -> dict[str, float]:
    """Leak in dB and held-out accuracy of one arm, on the images and clients of a data set and a seed."""
    width, lr = int(SETTING["width"]), float(SETTING["lr"])
    federation = Federation.of(
        name,
        image_size=int(SETTING["image_size"]),
        concentration=SETTING["concentration"],
        generator=generator_of("privacy_utility", name, seed),
    )
    trained = federation.trained(arm, width=width, lr=lr, generator=generator_of("privacy_utility", "training", seed))
    return {
        "leak": leak(federation, arm, width=width, lr=lr, seed=seed),
        "accuracy": trained.accuracies[-1],
        "refusals": float(trained.refusals),
    }


def leak(federation: Federation, arm: Arm, *, width: int, lr: float, seed: int) -> float:
    """What the attack adds to the best placebo in the first round, in dB and at least 0."""
    g = generator_of("privacy_utility", "attack", seed)
    model = federation.net(arm, width=width, generator=g)
    # The largest client holds the same images first for every arm.
    part = max(federation.parts, key=len)[: arm.batch_size]
    images, labels = federation.data.images[part], federation.data.labels[part]
    client = Client(
        images, labels, local=arm.local(lr), reveal=("labels", "local"), defenses=arm.defenses, defense_generator=g
    )
    found = inverting_gradients(
        model, client.answer(model), generator=g, steps=STEPS, total_variation=1e-3, converged=0.01
    ).images
    public = federation.held_out.images
    guesses = torch.stack([images.mean((2, 3), keepdim=True).expand_as(images), public.mean(0).expand_as(images)])
    placebo = torch.stack([metrics.psnr(guess, images) for guess in guesses]).amax(0)
    matched = metrics.align(found, images, blind=guesses[0])
    return max(float((metrics.psnr(matched, images) - placebo).mean()), 0.0)


def table(points: Mapping[str, Mapping[str, float]]) -> str:
    """A line per data set and arm: medians of leak and accuracy over seeds, and their ranges."""
    lines = []
    for name in DATA:
        for arm in ARMS:
            found = of(points, name, arm)
            if found:
                leaks, accuracies = zip(*found, strict=True)
                lines.append(
                    f"{name:8}{arm:24}leak {median(leaks):5.2f} [{min(leaks):5.2f}, {max(leaks):5.2f}] dB   "
                    f"accuracy {median(accuracies):.3f} [{min(accuracies):.3f}, {max(accuracies):.3f}]"
                )
    return "\n".join(lines)


def of(points: Mapping[str, Mapping[str, float]], name: str, arm: str) -> list[tuple[float, float]]:
    """(leak, accuracy) of each seed."""
    keys = [key for key in points if key.rsplit("/", 1)[0] == f"{name}/{arm}"]
    return [(points[key]["leak"], points[key]["accuracy"]) for key in keys]


def main(arguments: Sequence[str] = ()) -> None:
    """Measure what is missing, then print the table and draw the plot."""
    seeds = int(arguments[0]) if arguments else SEEDS
    path = FOLDER / "privacy_utility.json"
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    points: dict[str, dict[str, float]] = stored["points"] if stored.get("commit") == commit else {}
    for seed in range(seeds):
        for name in DATA:
            for label, arm in ARMS.items():
                if (key := f"{name}/{label}/{seed}") not in points:
                    with reproducible():
                        points[key] = measured(name, arm, seed)
                    sys.stdout.write(f"{key}: {points[key]}\n")
                    sys.stdout.flush()
                    content = {"commit": commit, "setting": SETTING, "environment": environment(), "points": points}
                    with replacing(path) as writing:
                        writing.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(points) + "\n")
    panels = {name: {label: of(points, name, label) for label in ARMS} for name in DATA}
    pictures.scatter(path.with_suffix(".png"), panels, x="leak in dB above the best placebo", y="held-out accuracy")


if __name__ == "__main__":
    main(sys.argv[1:])
