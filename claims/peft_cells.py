"""One cell of the tables on adapters: what an attack gets of four images of each data set, at 32 pixels.

Settings are chosen on pilot images, by the mean leak after `PILOT_STEPS`; the attacked images are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from torch import nn

from claims.cells import Cell
from claims.edits import Adapted
from claims.equipment import decoder_of_public
from gia import metrics
from gia.attacks import data_terms
from gia.experiment import Attacker, Batch, Exchange, Fitting, Protocol, Round, Scoring, Victim
from gia.harness.blocks.block import Block
from gia.harness.decide.statistics import median_interval
from gia.harness.report.markdown import table_line

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "peft.md"
#: Where nets are kept that cells share; git ignores it.
NETS = ROOT / ".gia" / "stored"

#: Of each data set a victim with four images is attacked. The pilots are other victims with other images.
DATA = ("faces", "cifar10-samples")
IMAGES, PILOT_IMAGES = 4, 2
RANK, EPOCHS = 16, 10
#: Evaluations of the gradient at most; a search that has converged ends before.
STEPS, PILOT_STEPS = 400, 150
CONVERGED = 0.01
#: An outer step of L-BFGS has this many evaluations.
INNER = 20
#: Queries, keys and values are three layers, as in Hugging Face's networks.
NET: Mapping[str, Any] = {"patch": 4, "heads": 2, "fused": False}


@dataclass(frozen=True)
class Net:
    """The Vision Transformers of a table.

    Args:
        width, depth: features, and number of blocks.
        data: the data sets; there is one victim for each.
        fit: how it is trained on its data set before it gets adapters; None leaves its weights random.
    """

    width: int = 96
    depth: int = 2
    data: tuple[str, ...] = DATA
    fit: Fitting | None = None


NARROW = Net()
#: Equations suffice for the closed form here: 144 features less 65 tokens, for the 48 pixels of a patch.
WIDER = Net(width=144)

FULL, INITIAL, TRAINED = "full fine-tuning", "LoRA at initialization", "LoRA after training"
STATES: Mapping[str, Adapted | None] = {
    FULL: None,
    INITIAL: Adapted(rank=RANK),
    TRAINED: Adapted(rank=RANK, epochs=EPOCHS),
}

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Tried:
    """An attack with the settings that are tried on the pilot images.

    Args:
        attack: its name.
        grid: the settings.
        dtype: of victim, client and attack.
        decodes: whether it gets a decoder that is trained on the attacker's public images.
        malicious: whether the server edits the adapted network before it sends it.
        states: names in `STATES` of the networks that it can attack.
    """

    attack: str
    grid: tuple[Settings, ...] = ({},)
    dtype: str = "float32"
    decodes: bool = False
    malicious: bool = False
    states: tuple[str, ...] = tuple(STATES)


SMOOTHNESS = ({"smoothness": 0.3}, {"smoothness": 3.0}, {"smoothness": 30.0})
#: Attacks without steps.
CLOSED = ("patch_embedding", "patch_span")


def protocol(
    tried: Tried, edit: Adapted | None, data: str, settings: Settings, *, pilot: bool, net: Net = NARROW
) -> Protocol:
    """One attack on one state of the network, with images of a data set."""
    given, steps = dict(settings), PILOT_STEPS if pilot else STEPS
    if tried.attack not in CLOSED:
        given |= {"steps": steps // INNER if tried.attack == "dlg" else steps, "converged": CONVERGED}
    if tried.attack == "ggl":
        given["optimizer"] = "adam"
    return Protocol(
        victim=Victim(
            name="vit_tiny",
            options={**NET, "width": net.width, "depth": net.depth},
            edit=edit,
            dtype=tried.dtype,
        ),
        batch=Batch(data=data, image_size=32, channels=3, images=PILOT_IMAGES if pilot else IMAGES),
        attacker=Attacker(attack=tried.attack, settings=given, equip=decoder_of_public if tried.decodes else None),
        scoring=Scoring(metrics=("psnr",)),
        fit=net.fit,
    )


def block_of(data: str, *, pilot: bool) -> Block:
    """The block of a data set. The measured one is the first whose images are not the pilot's."""
    if pilot:
        return _block(data, 0, "pilot")
    seen = set(images_of(data, pilot=True))
    indices = (index for index in range(100) if seen.isdisjoint(_private(data, _block(data, index, "claims"), False)))
    return _block(data, next(indices), "claims")


def images_of(data: str, *, pilot: bool) -> list[int]:
    """Indices of the attacked images of a data set."""
    return _private(data, block_of(data, pilot=pilot), pilot)


def _block(data: str, index: int, lane: str) -> Block:
    return Block(f"stored.peft_table.{data}", index, {}, lane=lane)


def _private(data: str, block: Block, pilot: bool) -> list[int]:
    indices: list[int] = Round(protocol(Tried("patch_span"), None, data, {}, pilot=pilot), block).private.tolist()
    return indices


def exchange_of(
    tried: Tried, edit: Adapted | None, data: str, settings: Settings, *, pilot: bool = False, net: Net = NARROW
) -> Exchange:
    """What the clients of a data set share, and the attacker on it."""
    asked = protocol(tried, edit, data, settings, pilot=pilot, net=net)
    round = Round(asked, block_of(data, pilot=pilot), cache=NETS)
    round.__dict__["victim"] = victim(edit, tried.dtype, data, pilot=pilot, net=net)
    return Exchange(round, round.private)


@cache
def victim(edit: Adapted | None, dtype: str, data: str, *, pilot: bool, net: Net) -> nn.Module:
    """The network as sent. Attacks share it, since its adapters take seconds to train."""
    asked = protocol(Tried("patch_span", dtype=dtype), edit, data, {}, pilot=pilot, net=net)
    return Round(asked, block_of(data, pilot=pilot), cache=NETS).victim


def measured(tried: Tried, edit: Adapted | None, settings: Settings, *, pilot: bool = False, net: Net = NARROW) -> Cell:
    """The attack on the images of all data sets.

    Returns lists with one entry per image: "leak", "psnr", "placebo" and "evaluations"; for a search also "converged",
    and its data term at what it "found" and at the "truth". "images" has the indices per data set.
    """
    names = ("leak", "psnr", "placebo", "evaluations", "converged", "found", "truth")
    cell: Cell = {name: [] for name in names} | {"images": {}}
    for data in net.data:
        exchange = exchange_of(tried, edit, data, settings, pilot=pilot, net=net)
        given, answers = exchange.protocol.attacker.settings, exchange.answers
        results = exchange.reconstructions(answers, "start")
        for answer, guess, result in zip(answers, exchange.guesses, results, strict=True):
            image = metrics.align(result.images.detach().cpu(), answer.reference, blind=guess.best)
            psnr, placebo = (float(metrics.psnr(each, answer.reference)) for each in (image, guess.best))
            scores = {"leak": psnr - placebo, "psnr": psnr, "placebo": placebo}
            if exchange.searches and len(result.images):
                images, labels = answer.truth
                terms = data_terms(
                    tried.attack, answer.model, answer.observation, [result.images, images], labels, **given
                )
                scores |= {"found": terms[0], "truth": terms[1], "converged": bool(result.converged)}
            for name, value in {**scores, "evaluations": result.gradient_evaluations}.items():
                cell[name].append(value)
        cell["images"][data] = images_of(data, pilot=pilot)
    return cell


def best_of(tried: Tried, edit: Adapted | None, *, net: Net) -> tuple[Settings, list[float]]:
    """The settings of the grid with the largest mean leak on the pilot images, and the means of all of them."""
    if len(tried.grid) == 1:
        return tried.grid[0], []
    leaks = [mean(measured(tried, edit, settings, pilot=True, net=net)["leak"]) for settings in tried.grid]
    return tried.grid[leaks.index(max(leaks))], leaks


def cell_of(tried: Tried, edit: Adapted | None, *, net: Net = NARROW) -> Cell:
    """A cell of the table: what the best settings get."""
    settings, pilots = best_of(tried, edit, net=net)
    shown = {name: repr(value) for name, value in settings.items()}
    return {"settings": shown, "pilots": pilots, **measured(tried, edit, settings, net=net)}


def interval(cell: Cell | None) -> str:
    """Median, least and largest leak of a cell in dB, then the medians of each data set; "-" for a missing cell.

    No value is shown below 0.

    >>> interval({"leak": [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]})
    '1.5 [0.0, 5.0] (0.0, 3.5)'
    """
    if cell is None:
        return "-"
    leaks = cell["leak"]
    low, middle, high, _ = median_interval(leaks)
    each = [median(leaks[first : first + IMAGES]) for first in range(0, len(leaks), IMAGES)]
    return f"{_shown(middle)} [{_shown(low)}, {_shown(high)}] ({', '.join(map(_shown, each))})"


def _shown(leak: float | np.ndarray) -> str:
    return f"{max(float(leak), 0.0):.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(table_line(line) for line in (header, ["---"] * len(header), *rows))
