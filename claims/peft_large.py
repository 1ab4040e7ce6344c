"""What full gradients and adapters of true Vision Transformers give away of photos at 224 pixels, with pictures.

    python -m claims.peft_large [MINUTES]      # about two hours of one core; it stops after a cell beyond MINUTES

It writes baselines/stored/peft_large.json, a cell as soon as it is finished, its picture peft_large.png, and the
section of docs/peft.md between its two markers. What is there is not measured again. Nothing is chosen here: the search
has the settings that the pilots at 32 pixels chose (`claims.peft_table`), and the closed forms their defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from claims.cells import Cell, complete, write
from claims.edits import Adapted
from claims.peft_cells import CONVERGED, FULL, INITIAL, STEPS, TRAINED
from claims.stored import FOLDER, picture
from gia import data, metrics, share_gradient
from gia.attacks import NothingFound, data_terms, run_many
from gia.harness.report.markdown import table_line
from gia.models import add_classifier, build, pretrained
from gia.numerics import generator_of

ROOT = Path(__file__).parents[1]
PATH = FOLDER / "peft_large.json"
PAGE = ROOT / "docs" / "peft.md"
MARKERS = ("<!-- written by `python -m claims.peft_large` -->", "<!-- end of what it writes at 224 pixels -->")
#: Where reconstructions are kept until the picture is drawn; git ignores it.
KEPT = ROOT / ".gia" / "stored" / "peft_large"

SIDE, RANK, EPOCHS = 224, 16, 10
#: Side in the picture, which the repository carries.
SHOWN = 72
#: Astronaut and chelsea, which may be shown. The attacker's images are others, of 20 classes.
PRIVATE, PUBLIC, IMAGES, CLASSES = "photos", "imagenet-samples", 2, 20

NETS: Mapping[str, Callable[[torch.Generator], nn.Module]] = {
    "ViT-tiny/16, random": lambda generator: build(
        "vit_tiny", num_classes=CLASSES, image_size=SIDE, generator=generator
    ),
    "DINOv2 ViT-S/14, pretrained": lambda generator: add_classifier(
        pretrained("dinov2-small"), num_classes=CLASSES, generator=generator
    ),
}
SEARCH: Mapping[str, Any] = {"lr": 0.1, "total_variation": 0.01, "steps": STEPS, "converged": CONVERGED}
#: Attack -> its settings, and the states of the network that it is run on.
ATTACKS: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "patch_embedding": ({}, (FULL,)),
    "inverting_gradients": (SEARCH, (FULL, TRAINED)),
    "patch_span": ({}, (INITIAL, TRAINED)),
}


@cache
def victim(net: str, state: str) -> nn.Module:
    """The network as sent, in evaluation mode; adapters are trained on the attacker's images."""
    model, generator = NETS[net](generator_of("peft_large", net)).eval(), generator_of("peft_large", net, state)
    if state == FULL:
        return model
    return Adapted(rank=RANK, epochs=EPOCHS * (state == TRAINED))(model, public(), generator=generator)


@cache
def public() -> data.Images:
    """The attacker's images, each in a class by itself."""
    images = data.load(PUBLIC, image_size=SIDE)
    return replace(images, labels=torch.arange(len(images)))


@cache
def private() -> data.Images:
    """The attacked images."""
    return data.load(PRIVATE, image_size=SIDE).take(torch.arange(IMAGES))


def placebo(image: Tensor) -> float:
    """PSNR of the best guess without a gradient: the image's own mean colour, or the mean of the public images."""
    guesses = image.mean((1, 2), keepdim=True).expand_as(image), public().images.mean(0)
    return max(float(metrics.psnr(guess[None], image[None])) for guess in guesses)


def measured(net: str, attack: str, state: str) -> tuple[Cell, Tensor]:
    """An attack on the gradient of each photo alone: its cell, and what it found (n, C, H, W).

    "found" and "truth" are data terms, for a search only.
    """
    settings, _ = ATTACKS[attack]
    model, images, labels = victim(net, state), private().images, private().labels
    pairs = list(zip(images[:, None], labels[:, None], strict=True))
    observations = [share_gradient(model, *pair, reveal=("labels",)) for pair in pairs]
    generators = [generator_of("peft_large", "attack", index) for index in range(len(pairs))]
    try:
        results = run_many(attack, model, observations, generators=generators, **settings)
    except NothingFound:  # B = 0 at initialization makes every gradient of A zero
        return {"nothing found": True}, torch.full_like(images, 0.5)
    found = torch.cat([each.images.detach().cpu() for each in results])
    psnr, blind = [float(value) for value in metrics.psnr(found, images)], [placebo(image) for image in images]
    cell: Cell = {
        "psnr": psnr,
        "ssim": [float(value) for value in metrics.ssim(found, images)],
        "placebo": blind,
        "leak": [one - other for one, other in zip(psnr, blind, strict=True)],
        "exact": [bool(each.exact is not None and each.exact.all()) for each in results],
        "evaluations": [each.gradient_evaluations for each in results],
    }
    if "steps" in settings:
        cell["converged"] = [bool(each.converged) for each in results]
        for index, (observation, result, pair) in enumerate(zip(observations, results, pairs, strict=True)):
            terms = data_terms(attack, model, observation, [result.images, pair[0]], pair[1], **settings)
            for name, term in zip(("found", "truth"), terms, strict=True):
                cell.setdefault(name, []).insert(index, term)
    return cell, found


def planned() -> Iterator[tuple[str, str, str]]:
    """Network, attack and state of each cell."""
    for attack, (_, states) in ATTACKS.items():
        for net in NETS:
            for state in states:
                yield net, attack, state


def key_of(net: str, attack: str, state: str) -> str:
    """The name of a cell.

    >>> key_of("ViT", "patch_span", "LoRA")
    'ViT/patch_span/LoRA'
    """
    return f"{net}/{attack}/{state}".replace("/16", "-16").replace("/14", "-14")


def markdown(cells: Mapping[str, Cell]) -> str:
    """The table of docs/peft.md: means over the photos."""
    header = ["network", "attack", "shared", "PSNR", "leak in dB", "SSIM", "exact", "evaluations", "fits as the truth"]
    lines = [header, ["---"] * len(header)]
    for net, attack, state in planned():
        cell = cells.get(key_of(net, attack, state))
        if cell is None:
            continue
        head = [net, f"`{attack}`", state]
        if cell.get("nothing found"):
            lines.append([*head, *["no equations"], *["-"] * 5])
            continue
        count = len(cell["leak"])
        fitting = sum(found <= truth for found, truth in zip(cell.get("found", ()), cell.get("truth", ()), strict=True))
        lines.append(
            [
                *head,
                f"{fmean(cell['psnr']):.1f}",
                f"{fmean(max(each, 0.0) for each in cell['leak']):.1f}",
                f"{fmean(cell['ssim']):.2f}",
                f"{sum(cell['exact'])} of {count}",
                f"{fmean(cell['evaluations']):.0f}",
                f"{fitting} of {count}" if "found" in cell else "-",
            ]
        )
    return "\n".join(map(table_line, lines))


def draw(cells: Mapping[str, Cell]) -> None:
    """The picture of the cells, where this machine has found them all."""
    paths = {cell: KEPT / f"{key_of(*cell)}.npy" for cell in planned() if key_of(*cell) in cells}
    if not all(path.exists() for path in paths.values()):
        return
    rows = {"private": private().images}
    for (net, attack, state), path in paths.items():
        rows[f"{net.partition(',')[0]}, {state}: {attack}"] = torch.from_numpy(np.load(path)) / 255
    small = {label: interpolate(images, (SHOWN, SHOWN), mode="area") for label, images in rows.items()}
    picture("peft_large", small, PRIVATE)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the cells that are missing, each stored at once, then draw the picture and write the page."""

    def measure(net: str, attack: str, state: str) -> Cell:
        cell, found = measured(net, attack, state)
        path = KEPT / f"{key_of(net, attack, state)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (found.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
        return cell

    setting = {"image_size": SIDE, "rank": RANK, "epochs": EPOCHS, "search": dict(SEARCH)}
    cells = complete(PATH, ((key_of(*cell), partial(measure, *cell)) for cell in planned()), setting, arguments)
    draw(cells)
    write(PAGE, MARKERS, markdown(cells))


if __name__ == "__main__":
    main(sys.argv[1:])
