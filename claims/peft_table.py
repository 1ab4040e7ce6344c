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
from functools import partial
from statistics import median
from typing import Literal

import torch
from torch.nn.functional import cross_entropy

from claims.cells import Cell, complete, write
from claims.edits import Adapted, Flattened
from claims.peft_cells import (
    CLOSED,
    DATA,
    EPOCHS,
    FULL,
    IMAGES,
    INITIAL,
    NARROW,
    NET,
    PAGE,
    PILOT_STEPS,
    RANK,
    ROOT,
    SMOOTHNESS,
    STATES,
    STEPS,
    TRAINED,
    WIDER,
    Net,
    Tried,
    cell_of,
    exchange_of,
    interval,
    table,
    victim,
)
from gia import validate_model
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine, SquaredDifferences
from gia.attacks.priors import PatchConsistency

PATH = ROOT / "baselines" / "stored" / "peft_table.json"
MARKERS = ("<!-- written by `python -m claims.peft_table` -->", "<!-- end of what it writes -->")

#: Deep enough that a malicious server adds up many blocks.
DEEP = Net(width=144, depth=12)
#: Engines whose cost is measured, the fast one first.
ENGINES: tuple[Literal["taps", "plain"], ...] = ("taps", "plain")


def _seams(weight: float) -> tuple[PatchConsistency, ...]:
    return (PatchConsistency(weight, NET["patch"]),)


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
RUNGS = ((1, "qkv"), (4, "qkv"), (16, "qkv"), (WIDER.width, "qkv"), (16, "q"), (16, "all"))
#: Column of the ladders -> (malicious, epochs of training, network).
LADDERS: Mapping[str, tuple[bool, int, Net]] = {
    "honest, at initialization": (False, 0, WIDER),
    "honest, after training": (False, EPOCHS, WIDER),
    "malicious server, 2 blocks": (True, 0, WIDER),
    "malicious server, 12 blocks": (True, 0, DEEP),
}


def findings() -> Cell:
    """What `validate_model` finds, by client: names of the checks that fire, for each data set.

    "agreed" knows the honest network, "own batch" has only its images, and "honest" is sent the honest network.
    """
    found: Cell = {client: {} for client in CLIENTS}
    for data in DATA:
        exchange = exchange_of(Tried("patch_span"), edit := Flattened(rank=RANK), data, {})
        sent = exchange.round.victim
        honest = victim(Adapted(rank=edit.rank), "float32", data, pilot=False, net=NARROW)
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
    for column, (malicious, epochs, net) in LADDERS.items():
        for rank, targets in RUNGS:
            edit = (Flattened if malicious else Adapted)(rank=rank, targets=targets, epochs=epochs)
            yield f"{column}/{rank}, {targets}", partial(cell_of, Tried("patch_span", SMOOTHNESS), edit, net=net)
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
        f"Leak of the closed form in float32 by rank and adapted layers, in networks of width {WIDER.width}:": (
            ["rank", "targets", *LADDERS],
            [[*rung, *map(interval, columns)] for rung, columns in rungs.items() if any(columns)],
        ),
        "CPU milliseconds of a step at 32 pixels, per trial of eight at once:": (
            ["shared", "fast engine", "plain engine"],
            [[state, *(f"{costs[f'{state}/{name}']:.1f}" for name in ENGINES)] for state in (FULL, INITIAL) if costs],
        ),
    }
    texts = [text for title, (header, rows) in parts.items() if rows for text in (title, table(header, rows))]
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


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the cells that are missing, each stored at once, then write the page."""
    setting = {**NET, "rank": RANK, "epochs": EPOCHS, "steps": STEPS, "pilot_steps": PILOT_STEPS}
    write(PAGE, MARKERS, markdown(complete(PATH, planned(), setting, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
