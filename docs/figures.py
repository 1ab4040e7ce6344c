"""The pictures of README.md and docs/, made again from real runs with fixed seeds.

    python -m docs.figures              # all of them, about three minutes on one core
    python -m docs.figures leak         # one of them

docs/pictures.toml names the source and the licence of each picture.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import gia

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"

SIZE = 32  # pixels of an image
TILE = 192  # pixels of its tile
GAP, HEADING, CAPTION = 16, 100, 40

#: The attacked images: the third crop of each photo. The attackers' images never contain them.
ATTACKED = torch.arange(8, 12)

#: The attacked digits. No decoder for photos can be trained in a minute, so `gen_z` is shown on digits.
DIGITS = torch.tensor([2, 3, 5, 8])

Column = tuple[str, str, Tensor]


def attack_types() -> None:
    """Four photos, and what five types of attack give back of them; then four digits, and what the sixth gives back."""
    photos = gia.data.load("photos", image_size=SIZE).take(ATTACKED)
    digits = gia.data.load("digits").take(DIGITS)
    parts = []
    for what, private, attacks in (("photos", photos, ON_PHOTOS), ("digits", digits, ON_DIGITS)):
        columns: list[Column] = [("private", f"the client's {what}", private.images)]
        for name, (method, attack) in attacks.items():
            columns.append((name, method, attack(private)))
            psnr = ", ".join(f"{value:.1f}" for value in gia.metrics.psnr(columns[-1][2], private.images))
            sys.stdout.write(f"{name}: {psnr} dB\n")
            sys.stdout.flush()
        parts.append(columns)
    draw(FOLDER / "attack_types.png", parts)


def optimization(private: gia.data.Images) -> Tensor:
    """Inverting Gradients, one photo behind each gradient."""
    model = victim("convnet", width=32)
    return searched("inverting_gradients", model, private, steps=500)


def latents(private: gia.data.Images) -> Tensor:
    """GGL: the latents of a decoder that was trained on the attacker's digits."""
    digits = gia.data.load("digits")
    own = digits.take(torch.tensor([index for index in range(len(digits)) if index not in DIGITS.tolist()]))
    decoder = gia.models.train_decoder(own, generator=seed(0))
    model = victim("convnet", width=16, channels=1, num_classes=10, image_size=8)
    return searched("ggl", model, private, decoder=decoder, optimizer="adam", steps=60)


def decoder_weights(private: gia.data.Images) -> Tensor:
    """CI-Net on a Sigmoid network."""
    model = victim("convnet", width=32, activation="sigmoid")
    return searched("ci_net", model, private, steps=200)


def inverter(private: gia.data.Images) -> Tensor:
    """Learning to Invert: a network that was trained on gradients of the attacker's images."""
    model, own = victim("lenet", activation="sigmoid", init="dlg"), attackers()
    training = {"hidden": (1000,), "hashed": 2048, "lr": 3e-4, "epochs": 30, "training_batch": 64}
    trained = gia.attacks.train_inverter(model, own.images, own.labels, batch_size=1, generator=seed(0), **training)
    return searched("learning_to_invert", model, private, inverter=trained)


def imprint(private: gia.data.Images) -> Tensor:
    """Robbing the Fed: 64 images behind one gradient; for each photo the result that is nearest to it."""
    others = attackers_crops()
    images, labels = torch.cat([private.images, others.images[:60]]), torch.cat([private.labels, others.labels[:60]])
    shape = (3, SIZE, SIZE)
    sent = gia.federated.server.imprint(victim("convnet", width=32), image_shape=shape, bins=256, generator=seed(0))
    found = gia.attacks.robbing_the_fed(sent, gia.share_gradient(sent, images, labels), generator=seed(0)).images
    scores = torch.stack([gia.metrics.psnr(found, image.expand_as(found)) for image in private.images])
    return found[scores.argmax(1)]


def fished(private: gia.data.Images) -> Tensor:
    """Fishing: all four photos behind one gradient; each is isolated in turn by its class."""
    found = []
    for target in private.labels.tolist():
        client = gia.federated.Client(private.images, private.labels)
        model, observation = gia.attacks.fish(
            victim("convnet", width=64), client, target=target, generator=seed(target)
        )
        settings = {"target": target, "steps": 300}
        found.append(gia.attacks.fishing(model, observation, generator=seed(target), **settings).images)
    return torch.cat(found)


#: Attack type -> (the published method, its run).
ON_PHOTOS: Mapping[str, tuple[str, Callable[[gia.data.Images], Tensor]]] = {
    "op": ("Inverting Gradients", optimization),
    "gen_w": ("CI-Net", decoder_weights),
    "gen_inv": ("Learning to Invert", inverter),
    "ana_arch": ("Robbing the Fed", imprint),
    "ana_param": ("Fishing", fished),
}
ON_DIGITS = {"gen_z": ("GGL", latents)}


def seed(number: int) -> torch.Generator:
    """A generator with this seed."""
    return torch.Generator().manual_seed(number)


def victim(name: str, **options: object) -> nn.Module:
    """An untrained network, for the four photos if the options do not say otherwise."""
    return gia.models.build(name, generator=seed(0), **{"num_classes": 4, "image_size": SIZE, **options})


def searched(attack: str, model: nn.Module, private: gia.data.Images, **settings: object) -> Tensor:
    """The image that an attack finds behind each private image's own gradient."""
    pairs = zip(private.images[:, None], private.labels[:, None], strict=True)
    shared = [gia.share_gradient(model, image, label, reveal=("labels",)) for image, label in pairs]
    generators = [seed(number) for number in range(len(shared))]
    results = gia.attacks.run_many(attack, model, shared, generators=generators, **settings)
    return torch.cat([each.images for each in results])


def attackers_crops(size: int = SIZE) -> gia.data.Images:
    """The other crops of the same photos, which overlap the attacked ones."""
    others = [index for index in range(96) if index not in ATTACKED.tolist()]
    return gia.data.load("photos", image_size=size).take(torch.tensor(others))


def attackers() -> gia.data.Images:
    """The attacker's training images: 1,840 shifted and mirrored views of `attackers_crops`."""
    large, generator = attackers_crops(SIZE + 8), seed(7)
    views = []
    for number in range(20):
        top, left = torch.randint(9, (2,), generator=generator).tolist()
        view = large.images[:, :, top : top + SIZE, left : left + SIZE]
        views.append(view.flip(3) if number % 2 else view)
    return gia.data.Images(
        images=torch.cat(views),
        labels=large.labels.repeat(20),
        source=f"views of {large.source}",
        licence=large.licence,
        num_classes=large.num_classes,
    )


def draw(path: Path, parts: list[list[Column]]) -> None:
    """One column of tiles for each entry, with PSNR to the first column of its part below each tile."""
    step, between, count = TILE + GAP, 3 * GAP, len(parts[0][0][2])
    width = sum(map(len, parts)) * step + (len(parts) - 1) * between + GAP
    page = Image.new("RGB", (width, HEADING + count * (TILE + CAPTION) + GAP), "white")
    write, left = ImageDraw.Draw(page), GAP
    for part, columns in enumerate(parts):
        if part:
            middle = left + between // 2 - GAP // 2
            write.line([(middle, GAP), (middle, page.height - GAP)], fill="#bbbbbb", width=2)
            left += between
        for column, (name, method, images) in enumerate(columns):
            middle = left + TILE // 2
            write.text((middle, 16), name, fill="black", font=ImageFont.load_default(32), anchor="ma")
            write.text((middle, 58), method, fill="#444444", font=ImageFont.load_default(21), anchor="ma")
            scores = gia.metrics.psnr(images.float(), columns[0][2])
            for row, image in enumerate(images):
                top = HEADING + row * (TILE + CAPTION)
                page.paste(tile(image), (left, top))
                caption = "" if column == 0 else "exact" if scores[row] > 60 else f"{scores[row]:.1f} dB"
                font = ImageFont.load_default(22)
                write.text((middle, top + TILE + 8), caption, fill="#444444", font=font, anchor="ma")
            left += step
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True)


def tile(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], enlarged so that its pixels can be seen."""
    values = (image.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(values)).resize((TILE, TILE), Image.Resampling.NEAREST)


def leak() -> None:
    """What the first Python block of README.md draws."""
    block = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    if block is None:
        raise ValueError("README.md: expected a Python block, got none")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", block[1]], check=True, cwd=folder, env=environment)
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "leak.png").write_bytes((Path(folder) / "leak.png").read_bytes())


FIGURES: Mapping[str, Callable[[], None]] = {"attack_types": attack_types, "leak": leak}


def main() -> None:
    """Make the pictures that the command line names, or all."""
    for name in sys.argv[1:] or FIGURES:
        with gia.numerics.reproducible():
            FIGURES[name]()


if __name__ == "__main__":
    main()
