"""What a budget buys latent search, and what its generator does to pictures of another domain; made by this command.

    python -m claims.stored_latents        # about twenty minutes of one core; what is there is not made again

It writes baselines/stored/latent_budget.json and .png: digits searched with 1 evaluation, as in the released notebooks,
with 50, as in the rows of the register, and with 1,000, after the gradient and after noise in its place. And
latent_domain.json and .png: the real face generator, searched by Adam, on samples of its own (an upper bound, not a
result), on ORL faces, on CIFAR-10's samples and on photos. And latent_weights.json and .png: the same faces attacked by
GIAS, which after 500 steps on the latents goes on with 5,000 on the generator's weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from claims.protocols.gen_z import REDUCED, noise_in_place
from claims.stored import FOLDER
from gia import metrics, share_gradient
from gia.attacks import run_many
from gia.harness import pictures
from gia.harness.blocks import Block
from gia.harness.protocol import Protocol
from gia.harness.run import measure
from gia.models import build, pretrained
from gia.numerics import environment, fingerprint, reproducible

BUDGETS = (1, 50, 1_000)
GUIDES = {"gradient": (), "noise": (noise_in_place,)}
BLOCKS = [
    Block("stored.latent_budget", index, {"victim.width": 16, "victim.activation": activation})
    for index, activation in enumerate(("relu", "tanh"))
]

FACES = Protocol(
    attack="ggl",
    victim={"name": "convnet", "width": 16},
    data="faces",
    image_size=32,
    images=4,
    channels=3,
    settings={"optimizer": "adam", "steps": 150},
    score=("psnr", "ssim", "lpips_vgg"),
)
DOMAINS = ("faces", "cifar10-samples", "photos")


def budget() -> None:
    """Mean and range over the blocks of each metric, and the first block's pictures."""
    kept: dict[str, Any] = {}
    rows: dict[str, np.ndarray] = {}
    for guide, defenses in GUIDES.items():
        for spent in BUDGETS:
            settings = {**REDUCED.settings, "steps": spent - 1}
            protocol = replace(REDUCED, images=32, settings=settings, defenses=defenses, vary={})
            seen = [measure(protocol.drawn(block.setting), block) for block in BLOCKS]
            label = f"{guide}, {spent}"
            kept[label] = {metric: [each.values[metric] for each in seen] for metric in seen[0].values}
            kept[label] |= {"blind_psnr": [each.blind["psnr"] for each in seen], "protocol": protocol.described()}
            rows = rows or {"private": _array(seen[0].originals)}
            rows[label] = _array(seen[0].reconstructions)
    _keep("latent_budget", kept, rows)


def domain() -> None:
    """Each metric per image, and the pictures."""
    kept: dict[str, Any] = {"own samples": {}}
    rows: dict[str, np.ndarray] = {}
    rows["own samples"], rows["found: own samples"], kept["own samples"]["psnr"] = _own_samples()
    for data in DOMAINS:
        seen = measure(replace(FACES, data=data), Block("stored.latent_domain", 0, {}))
        kept[data] = {metric: list(values) for metric, values in seen.per_image.items()}
        kept[data] |= {"blind_psnr": seen.blind["psnr"], "protocol": replace(FACES, data=data).described()}
        rows[data], rows[f"found: {data}"] = _array(seen.originals), _array(seen.reconstructions)
    _keep("latent_domain", kept, rows)


def weights() -> None:
    """Each metric per image, with and without the search of the weights, and the pictures."""
    kept: dict[str, Any] = {}
    rows: dict[str, np.ndarray] = {}
    for label, steps in {"latents, 500 steps": 500, "then weights, 5,000 steps": 5_500}.items():
        protocol = replace(FACES, attack="gias", settings={"steps": steps})
        seen = measure(protocol, Block("stored.latent_domain", 0, {}))
        kept[label] = {metric: list(values) for metric, values in seen.per_image.items()}
        kept[label] |= {"blind_psnr": seen.blind["psnr"], "protocol": protocol.described()}
        rows = rows or {"private": _array(seen.originals)}
        rows[label] = _array(seen.reconstructions)
    _keep("latent_weights", kept, rows)


def _own_samples() -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Samples, what is found of them, and at how many decibels; the victim is as in `FACES`."""
    block, side = Block("stored.latent_domain", 0, {}), FACES.image_size
    victim = build("convnet", num_classes=40, image_size=side, width=16, generator=block.generator("own victim"))
    generators = [block.generator("own", trial) for trial in range(FACES.images)]
    decoder, labels = pretrained("face-decoder"), torch.arange(FACES.images)
    with torch.no_grad():
        made = torch.cat([decoder(torch.randn(1, 100, generator=generator)) for generator in generators])
    images = torch.nn.functional.interpolate(made, (side, side), mode="bilinear", antialias=True)
    shared = [
        share_gradient(victim, *pair, reveal=("labels",)) for pair in zip(images[:, None], labels[:, None], strict=True)
    ]
    found = run_many("ggl", victim, shared, generators=generators, **FACES.settings)
    results = torch.cat([each.images for each in found])
    psnr = metrics.psnr(results, images)
    return _bytes(images), _bytes(results), [float(value) for value in psnr]


def _keep(name: str, kept: dict[str, Any], rows: dict[str, np.ndarray]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "fingerprint": fingerprint(), "results": kept}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    pictures.grid(path.with_suffix(".png"), rows)


def _array(images: np.ndarray | None) -> np.ndarray:
    assert images is not None
    return images


def _bytes(images: torch.Tensor) -> np.ndarray:
    return np.asarray((images.clamp(0, 1) * 255).round().to(torch.uint8))


if __name__ == "__main__":
    with reproducible():
        for name, make in {"latent_domain": domain, "latent_budget": budget, "latent_weights": weights}.items():
            if not (FOLDER / f"{name}.json").exists():
                make()
