"""What each attack gets from a full gradient, and from adapters at initialization and after training, at 32 pixels.

    python -m claims.peft_table [MINUTES]      # about 45 minutes of one core; it stops after a cell beyond MINUTES

It writes baselines/stored/peft_table.json, a cell as soon as it is finished, and the tables of docs/peft.md between
their two markers. What is there is not measured again. The grids of searches were declared before any of them ran.
Settings are chosen on pilot images, by the mean leak after `PILOT_STEPS`; the attacked images are others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from claims.cells import Cell, complete, write
from claims.edits import Adapted, Flattened
from claims.equipment import decoder_of_public
from gia import metrics, validate_model
from gia.attacks import data_terms
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine, SquaredDifferences
from gia.attacks.priors import PatchConsistency
from gia.experiment import Attacker, Batch, Exchange, Protocol, Round, Scoring, Victim
from gia.harness.blocks.block import Block
from gia.harness.decide.statistics import median_interval
from gia.harness.report.markdown import table_line

ROOT = Path(__file__).parents[1]
PATH = ROOT / "baselines" / "stored" / "peft_table.json"
PAGE = ROOT / "docs" / "peft.md"
MARKERS = ("<!-- written by `python -m claims.peft_table` -->", "<!-- end of what it writes -->")
#: Where decoders are kept that cells share; git ignores it.
NETS = ROOT / ".gia" / "stored"

#: Of each data set a victim with four images is attacked. The pilots are other victims with other images.
DATA = ("faces", "cifar10-samples")
IMAGES, PILOT_IMAGES = 4, 2
#: Queries, keys and values are three layers, as in Hugging Face's networks.
NET: Mapping[str, Any] = {"patch": 4, "heads": 2, "fused": False}
#: Width and blocks. Equations suffice for the closed form in the wider one: 144 features less 65 tokens, for 48 pixels.
Size = tuple[int, int]
NARROW: Size = (96, 2)
WIDER: Size = (144, 2)
DEEP: Size = (144, 12)
RANK, EPOCHS = 16, 10
#: Evaluations of the gradient at most; a search that has converged ends before.
STEPS, PILOT_STEPS = 400, 150
CONVERGED = 0.01
#: An outer step of L-BFGS has this many evaluations.
INNER = 20
#: Engines whose cost is measured, the fast one first.
ENGINES: tuple[Literal["taps", "plain"], ...] = ("taps", "plain")

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


def _seams(weight: float) -> tuple[PatchConsistency, ...]:
    return (PatchConsistency(weight, NET["patch"]),)


SMOOTHNESS = ({"smoothness": 0.3}, {"smoothness": 3.0}, {"smoothness": 30.0})
#: Attacks without steps.
CLOSED = ("patch_embedding", "patch_span")
ATTACKS: Mapping[str, Tried] = {
    "closed form of the embeddings (`patch_embedding`)": Tried("patch_embedding", SMOOTHNESS, states=(FULL,)),
    "closed form (`patch_span`)": Tried("patch_span", SMOOTHNESS),
    "closed form, float64": Tried("patch_span", SMOOTHNESS, dtype="float64"),
    "malicious server (`flatten_blocks`, then `patch_span`)": Tried(
        "patch_span", SMOOTHNESS, malicious=True, states=(INITIAL, TRAINED)
    ),
    "pixels (`inverting_gradients`)": Tried(
        "inverting_gradients",
        (
            {"lr": 0.1, "total_variation": 1e-4},
            {"lr": 0.1, "total_variation": 1e-3},
            {"lr": 0.1, "total_variation": 1e-2},
            {"lr": 0.02, "total_variation": 1e-3},
        ),
    ),
    "generator weights (`ci_net`)": Tried(
        "ci_net",
        (
            {"lr": 1e-3, "total_variation": 0.0},
            {"lr": 5e-3, "total_variation": 0.0},
            {"lr": 1e-3, "total_variation": 1e-3},
        ),
    ),
    "latents (`ggl`, by Adam)": Tried(
        "ggl",
        (
            {"lr": 0.1, "objective": SquaredDifferences()},
            {"lr": 0.1, "objective": Cosine()},
            {"lr": 0.03, "objective": Cosine()},
        ),
        decodes=True,
    ),
    "L-BFGS in float64 (`dlg`)": Tried(
        "dlg",
        (
            {"lr": 1.0, "objective": SquaredDifferences()},
            {"lr": 0.1, "objective": SquaredDifferences()},
            {"lr": 1.0, "objective": Cosine()},
        ),
        dtype="float64",
    ),
    "pixels and GradViT's patch prior": Tried(
        "inverting_gradients",
        (
            {"total_variation": 1e-3, "priors": _seams(1e-5)},
            {"total_variation": 1e-3, "priors": _seams(1e-4)},
            {"total_variation": 1e-2, "priors": _seams(1e-4)},
        ),
    ),
    "generator weights and the patch prior": Tried(
        "ci_net",
        (
            {"lr": 1e-3, "priors": _seams(1e-5)},
            {"lr": 1e-3, "priors": _seams(1e-4)},
            {"lr": 5e-3, "priors": _seams(1e-4)},
        ),
    ),
}

#: Client in `findings` -> what the page calls it.
CLIENTS = {
    "agreed": "has the agreed network",
    "own batch": "has its own images alone",
    "honest": "has both, and is sent the honest network",
}

#: (rank, targets) of the ladders of the closed forms; the last rank is the width.
RUNGS = ((1, "qkv"), (4, "qkv"), (16, "qkv"), (WIDER[0], "qkv"), (16, "q"), (16, "all"))
#: Column of the ladders -> (malicious, epochs of training, size of the network).
LADDERS: Mapping[str, tuple[bool, int, Size]] = {
    "honest, at initialization": (False, 0, WIDER),
    "honest, after training": (False, EPOCHS, WIDER),
    "malicious server, 2 blocks": (True, 0, WIDER),
    "malicious server, 12 blocks": (True, 0, DEEP),
}


def protocol(
    tried: Tried, edit: Adapted | None, data: str, settings: Settings, *, pilot: bool, size: Size = NARROW
) -> Protocol:
    """One attack on one state of the network, with images of a data set."""
    given, steps = dict(settings), PILOT_STEPS if pilot else STEPS
    if tried.attack not in CLOSED:
        given |= {"steps": steps // INNER if tried.attack == "dlg" else steps, "converged": CONVERGED}
    if tried.attack == "ggl":
        given["optimizer"] = "adam"
    width, depth = size
    return Protocol(
        victim=Victim(name="vit_tiny", options={**NET, "width": width, "depth": depth}, edit=edit, dtype=tried.dtype),
        batch=Batch(data=data, image_size=32, channels=3, images=PILOT_IMAGES if pilot else IMAGES),
        attacker=Attacker(attack=tried.attack, settings=given, equip=decoder_of_public if tried.decodes else None),
        scoring=Scoring(metrics=("psnr",)),
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
    tried: Tried, edit: Adapted | None, data: str, settings: Settings, *, pilot: bool = False, size: Size = NARROW
) -> Exchange:
    """What the clients of a data set share, and the attacker on it."""
    asked = protocol(tried, edit, data, settings, pilot=pilot, size=size)
    round = Round(asked, block_of(data, pilot=pilot), cache=NETS)
    round.__dict__["victim"] = victim(edit, tried.dtype, data, pilot=pilot, size=size)
    return Exchange(round, round.private)


@cache
def victim(edit: Adapted | None, dtype: str, data: str, *, pilot: bool, size: Size) -> nn.Module:
    """The network as sent. Attacks share it, since its adapters take seconds to train."""
    asked = protocol(Tried("patch_span", dtype=dtype), edit, data, {}, pilot=pilot, size=size)
    return Round(asked, block_of(data, pilot=pilot)).victim


def measured(
    tried: Tried, edit: Adapted | None, settings: Settings, *, pilot: bool = False, size: Size = NARROW
) -> Cell:
    """The attack on the images of all data sets.

    Returns lists with one entry per image: "leak", "psnr", "placebo" and "evaluations"; for a search also "converged",
    and its data term at what it "found" and at the "truth". "images" has the indices per data set.
    """
    names = ("leak", "psnr", "placebo", "evaluations", "converged", "found", "truth")
    cell: Cell = {name: [] for name in names} | {"images": {}}
    for data in DATA:
        exchange = exchange_of(tried, edit, data, settings, pilot=pilot, size=size)
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


def best_of(tried: Tried, edit: Adapted | None, *, size: Size) -> tuple[Settings, list[float]]:
    """The settings of the grid with the largest mean leak on the pilot images, and the means of all of them."""
    if len(tried.grid) == 1:
        return tried.grid[0], []
    leaks = [mean(measured(tried, edit, settings, pilot=True, size=size)["leak"]) for settings in tried.grid]
    return tried.grid[leaks.index(max(leaks))], leaks


def cell_of(tried: Tried, edit: Adapted | None, *, size: Size = NARROW) -> Cell:
    """A cell of the table: what the best settings get."""
    settings, pilots = best_of(tried, edit, size=size)
    shown = {name: repr(value) for name, value in settings.items()}
    return {"settings": shown, "pilots": pilots, **measured(tried, edit, settings, size=size)}


def findings() -> Cell:
    """What `validate_model` finds, by client: names of the checks that fire, for each data set.

    "agreed" knows the honest network, "own batch" has only its images, and "honest" is sent the honest network.
    """
    found: Cell = {client: {} for client in CLIENTS}
    for data in DATA:
        exchange = exchange_of(Tried("patch_span"), edit := Flattened(rank=RANK), data, {})
        sent = exchange.round.victim
        honest = victim(Adapted(rank=edit.rank), "float32", data, pilot=False, size=NARROW)
        batch = exchange.reference, torch.cat([answer.labels for answer in exchange.answers])
        reports = {
            "agreed": validate_model(sent, honest),
            "own batch": validate_model(sent, batch=batch),
            "honest": validate_model(honest, honest, batch=batch),
        }
        for client, report in reports.items():
            found[client][data] = sorted({finding.check for finding in report.findings})
    return found


def costs() -> Cell:
    """CPU milliseconds of a step, per trial of eight, by both engines: the median of five turns, in which all four run.

    A step is the matching term with its gradient to the images, without the update.
    """
    calls: dict[str, Callable[[], object]] = {}
    for state in (FULL, INITIAL):
        exchange = exchange_of(Tried("patch_span"), STATES[state], "faces", {})
        observations = 2 * exchange.observations
        labels = torch.stack([answer.labels for answer in exchange.answers]).repeat(2, 1)
        starts = torch.rand(len(labels), 1, 3, 32, 32, generator=exchange.block.generator("costs"))
        for engine in ENGINES:
            matching = Matching(
                exchange.round.victim, observations, objective=Cosine(), loss=cross_entropy, engine=engine
            )
            calls[f"{state}/{engine}"] = partial(matching, starts, labels)
    turns: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(6):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if turn:  # the first one prepares the engine
                turns[name].append(1000 * (time.process_time() - began) / (2 * IMAGES))
    return {name: median(each) for name, each in turns.items()}


def planned() -> Iterator[tuple[str, Callable[[], Cell]]]:
    """Key of each cell, and what measures it: closed forms first, then two searches, ladders and the other searches."""
    closed = [name for name, tried in ATTACKS.items() if tried.attack in CLOSED]
    searches = [name for name in ATTACKS if name not in closed]
    yield from _attacked(closed)
    yield "findings", findings
    yield "costs", costs
    yield from _attacked(searches[:2])
    for column, (malicious, epochs, size) in LADDERS.items():
        for rank, targets in RUNGS:
            edit = (Flattened if malicious else Adapted)(rank=rank, targets=targets, epochs=epochs)
            yield f"{column}/{rank}, {targets}", partial(cell_of, Tried("patch_span", SMOOTHNESS), edit, size=size)
    yield from _attacked(searches[2:])


def _attacked(names: Iterable[str]) -> Iterator[tuple[str, Callable[[], Cell]]]:
    for name in names:
        tried = ATTACKS[name]
        for state in tried.states:
            edit = STATES[state]
            if tried.malicious:
                assert edit is not None  # the construction needs adapters
                edit = Flattened(rank=RANK, epochs=edit.epochs)
            yield f"{name}/{state}", partial(cell_of, tried, edit)


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


def markdown(cells: Mapping[str, Cell]) -> str:
    """The section of docs/peft.md: leak of each attack and state, how the searches ended, checks, ladders, and costs.

    A table without a cell is left out, and attacks without one are listed.
    """
    images = {(data, image) for cell in cells.values() for data, of in cell.get("images", {}).items() for image in of}
    attacks = {name: [cells.get(f"{name}/{state}") for state in STATES] for name in ATTACKS}
    missing = [name for name, states in attacks.items() if not any(states)]
    ended = [_ended(name, state, cells.get(f"{name}/{state}")) for name in ATTACKS for state in STATES]
    rungs = {
        (str(rank), targets): [cells.get(f"{column}/{rank}, {targets}") for column in LADDERS]
        for rank, targets in RUNGS
    }
    costs = cells.get("costs", {})
    parts = {
        f"Median leak in dB over {len(images)} distinct images, the least and the largest, and the medians of "
        f"{' and '.join(DATA)}:": (
            ["attack", *STATES],
            [[name, *map(interval, states)] for name, states in attacks.items() if any(states)],
        ),
        "How the searches ended, as medians and counts over the images:": (
            ["attack", "shared", "chosen settings", "PSNR", "evaluations", "converged", "fits as well as the truth"],
            [line for line in ended if line],
        ),
        "What `validate_model` finds in the network of the malicious server, and in the honest one:": (
            ["client", *DATA],
            [
                [text, *(", ".join(cells["findings"][client][data]) or "nothing" for data in DATA)]
                for client, text in CLIENTS.items()
                if "findings" in cells
            ],
        ),
        f"Leak of the closed form in float32 by rank and adapted layers, in networks of width {WIDER[0]}:": (
            ["rank", "targets", *LADDERS],
            [[*rung, *map(interval, columns)] for rung, columns in rungs.items() if any(columns)],
        ),
        "CPU milliseconds of a step at 32 pixels, per trial of eight at once:": (
            ["shared", "fast engine", "plain engine"],
            [[state, *(f"{costs[f'{state}/{name}']:.1f}" for name in ENGINES)] for state in (FULL, INITIAL) if costs],
        ),
    }
    texts = [text for title, (header, rows) in parts.items() if rows for text in (title, _table(header, rows))]
    return "\n\n".join([*texts, *([f"Not measured yet: {'; '.join(missing)}."] if missing else [])])


def _ended(name: str, state: str, cell: Cell | None) -> list[str]:
    """A line on the searches of a cell; empty for a closed form and for a cell that is not there."""
    if not cell or not cell["found"]:
        return []
    settings = ", ".join(f"{key}={value}" for key, value in cell["settings"].items())
    fitting = sum(found <= truth for found, truth in zip(cell["found"], cell["truth"], strict=True))
    count = len(cell["found"])
    return [
        name,
        state,
        f"`{settings}`",
        f"{median(cell['psnr']):.1f}",
        f"{median(cell['evaluations']):.0f}",
        f"{sum(cell['converged'])} of {count}",
        f"{fitting} of {count}",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(table_line(line) for line in (header, ["---"] * len(header), *rows))


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the cells that are missing, each stored at once, then write the page."""
    setting = {**NET, "rank": RANK, "epochs": EPOCHS, "steps": STEPS, "pilot_steps": PILOT_STEPS}
    write(PAGE, MARKERS, markdown(complete(PATH, planned(), setting, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
