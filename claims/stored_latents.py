"""What a budget buys latent search, and what its generator does to pictures of another domain; made by this command.

    python -m claims.stored_latents        # about twenty minutes of one core; what is there is not made again

It writes baselines/stored/latent_budget.json and .png: digits searched with 1 evaluation, as in the released notebooks,
with 50, as in the rows of the register, and with 1,000, after the gradient and after noise in its place. And
latent_domain.json: the real face generator, searched by Adam, on its own samples (an upper bound, not a
result), on ORL faces, on CIFAR-10's samples and on photos. And latent_weights.json: the same faces attacked by
GIAS, which after 500 steps on the latents goes on with 5,000 on the generator's weights. The pictures of the last two
go to .gia/stored, since faces and CIFAR-10's samples may not be copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from claims.defenses import noise_in_place
from claims.reduced import gen_z
from claims.stored import FOLDER, picture
from gia import metrics, share_gradient
from gia.attacks import run_many
from gia.experiment import Attacker, Batch, Measurement, Protocol, Scoring, Victim, measure
from gia.harness.blocks.block import Block
from gia.models import build, pretrained
from gia.numerics import environment, fingerprint, reproducible

BUDGETS = (1, 50, 1_000)
GUIDES = {"gradient": (), "noise": (noise_in_place,)}
BLOCKS = [
    Block("stored.latent_budget", index, {"victim.width": 16, "victim.activation": activation})
    for index, activation in enumerate(("relu", "tanh"))
]

FACES = Protocol(
    victim=Victim(name="convnet", options={"width": 16}),
    batch=Batch(data="faces", image_size=32, images=4, channels=3),
    attacker=Attacker(attack="ggl", settings={"optimizer": "adam", "steps": 150}),
    scoring=Scoring(metrics=("psnr", "ssim", "lpips_vgg")),
)
DOMAINS = ("faces", "cifar10-samples", "photos")

Rows = dict[str, np.ndarray | Tensor]


def budget() -> None:
    """Each metric in both blocks, and the first block's pictures."""
    results: dict[str, Any] = {}
    rows: Rows = {}
    for guide, defenses in GUIDES.items():
        for spent in BUDGETS:
            changes = {"batch.images": 32, "attacker.settings.steps": spent - 1, "client.defenses": defenses}
            protocol = gen_z.PROTOCOL.with_({**changes, "vary": {}})
            seen = [measure(protocol, block) for block in BLOCKS]
            label = f"{guide}, {spent}"
            results[label] = {metric: [each.values[metric] for each in seen] for metric in seen[0].values}
            placebo = [each.details["placebo"]["psnr"] for each in seen]
            results[label] |= {"placebo_psnr": placebo, "protocol": protocol.described()}
            rows = rows or {"private": seen[0].arrays["originals"]}
            rows[label] = seen[0].arrays["reconstructions"]
    _store("latent_budget", results, rows, gen_z.PROTOCOL.batch.data)


def domain() -> None:
    """Each metric per image, and the pictures."""
    samples, found, psnr = _own_samples()
    results: dict[str, Any] = {"own samples": {"psnr": psnr}}
    rows: Rows = {"own samples": samples, "found: own samples": found}
    for data in DOMAINS:
        protocol = FACES.with_({"batch.data": data})
        seen = measure(protocol, Block("stored.latent_domain", 0, {}))
        results[data] = _per_image(protocol, seen)
        rows[data], rows[f"found: {data}"] = seen.arrays["originals"], seen.arrays["reconstructions"]
    _store("latent_domain", results, rows, *DOMAINS)


def weights() -> None:
    """Each metric per image, with and without the search of the weights, and the pictures."""
    results: dict[str, Any] = {}
    rows: Rows = {}
    for label, steps in {"latents, 500 steps": 500, "then weights, 5,000 steps": 5_500}.items():
        protocol = FACES.with_({"attacker.attack": "gias", "attacker.settings": {"steps": steps}})
        seen = measure(protocol, Block("stored.latent_domain", 0, {}))
        results[label] = _per_image(protocol, seen)
        rows = rows or {"private": seen.arrays["originals"]}
        rows[label] = seen.arrays["reconstructions"]
    _store("latent_weights", results, rows, FACES.batch.data)


def _per_image(protocol: Protocol, seen: Measurement) -> dict[str, Any]:
    details = seen.details
    return {**details["per_image"], "placebo_psnr": details["placebo"]["psnr"], "protocol": protocol.described()}


def _own_samples() -> tuple[Tensor, Tensor, list[float]]:
    """Samples, the reconstructions of them, and the PSNR of each; the victim is as in `FACES`."""
    block, batch = Block("stored.latent_domain", 0, {}), FACES.batch
    size = (batch.image_size, batch.image_size)
    generator = block.generator("own victim")
    victim = build("convnet", num_classes=40, image_size=batch.image_size, width=16, generator=generator)
    generators = [block.generator("own", trial) for trial in range(batch.images)]
    decoder, labels = pretrained("face-decoder"), torch.arange(batch.images)
    with torch.no_grad():
        made = torch.cat([decoder(torch.randn(1, 100, generator=generator)) for generator in generators])
    images = torch.nn.functional.interpolate(made, size, mode="bilinear", antialias=True)
    shared = [
        share_gradient(victim, *pair, reveal=("labels",)) for pair in zip(images[:, None], labels[:, None], strict=True)
    ]
    found = run_many("ggl", victim, shared, generators=generators, **FACES.attacker.settings)
    results = torch.cat([each.images for each in found])
    return images, results, [float(value) for value in metrics.psnr(results, images)]


def _store(name: str, results: Mapping[str, Any], rows: Rows, *data: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "fingerprint": fingerprint(), "results": results}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    picture(name, rows, *data)


if __name__ == "__main__":
    with reproducible():
        for name, make in {"latent_domain": domain, "latent_budget": budget, "latent_weights": weights}.items():
            if not (FOLDER / f"{name}.json").exists():
                make()
