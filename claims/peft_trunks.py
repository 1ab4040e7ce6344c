"""What adapters leak at 32 pixels where the trunk is trained before it gets them, and where its weights are random.

    python -m claims.peft_trunks [MINUTES]      # about 20 minutes of one core; it stops after a cell beyond MINUTES

It writes baselines/stored/peft_trunks.json, a cell as soon as it is finished, and the section of docs/peft.md between
its two markers. What is there is not measured again. The training of trunks was chosen by held-out accuracy alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import torch

from claims.cells import Cell, complete, write
from claims.edits import Adapted, SlowlyAdapted
from claims.peft_cells import (
    EPOCHS,
    FULL,
    NET,
    PAGE,
    PILOT_STEPS,
    RANK,
    ROOT,
    SMOOTHNESS,
    STATES,
    STEPS,
    Net,
    Tried,
    block_of,
    cell_of,
    exchange_of,
    interval,
    protocol,
    table,
)
from claims.peft_table import ATTACKS, RUNGS
from gia.experiment import Fitting, Round
from gia.federated import Observation, accuracy

PATH = ROOT / "baselines" / "stored" / "peft_trunks.json"
MARKERS = ("<!-- written by `python -m claims.peft_trunks` -->", "<!-- end of what it writes on trunks -->")

#: Both are large enough to train a trunk on; the 20 CIFAR-10 images are not.
DATA = ("faces", "digits")
WIDTH = 144
#: Of two step sizes the better one on the pilots: .75 for faces and .96 for digits; with 1e-3 it was .59 and .94.
FITTING = Fitting(epochs=40, half=20, batch_size=32, lr=3e-4, members=False, accuracy=0.5)
TRUNKS: Mapping[str, Net] = {
    "random trunk": Net(width=WIDTH, data=DATA),
    "trained trunk": Net(width=WIDTH, data=DATA, fit=FITTING),
}
#: State of the adapters, how they are made, and for how many epochs they are trained.
ADAPTED: Sequence[tuple[str, type[Adapted], int]] = (
    ("at initialization", Adapted, 0),
    (f"after training with steps of {Adapted.step_size}", Adapted, EPOCHS),
    (f"after training with steps of {SlowlyAdapted.step_size}", SlowlyAdapted, EPOCHS),
)
#: Of the adapters whose directions are counted.
RANKS = (4, 16, WIDTH)
PIXELS = ATTACKS["pixels (`inverting_gradients`)"]


def accuracies() -> Cell:
    """Of the trained trunks, on the images held out of their training, by data set."""
    found = {}
    for data in DATA:
        asked = protocol(Tried("patch_span"), None, data, {}, pilot=False, net=TRUNKS["trained trunk"])
        found[data] = Round(asked, block_of(data, pilot=False)).accuracy
    return {"accuracy": found}


def directions() -> Cell:
    """How well adapters of several ranks were trained on faces, and how many directions they show then.

    "accuracy" is that on the 64 images on which the adapters were trained, "b" the norm of all their B, and
    "directions" the number of singular values of the gradients of the first block's A that exceed 1e-5 of the largest,
    one for each attacked image.
    """
    found: Cell = {}
    trained = [(adapted, epochs) for _, adapted, epochs in ADAPTED if epochs]
    for (trunk, net), (adapted, epochs), rank in product(TRUNKS.items(), trained, RANKS):
        exchange = exchange_of(Tried("patch_span"), adapted(rank=rank, epochs=epochs), "faces", {}, net=net)
        model, public = exchange.round.victim, exchange.round.public
        matrices = {name: p.detach().flatten() for name, p in model.named_parameters() if ".lora_B." in name}
        found[f"{trunk}, rank {rank}, steps of {adapted.step_size}"] = {
            "accuracy": accuracy(model, public.take(torch.arange(min(len(public), 64)))),
            "b": float(torch.cat(list(matrices.values())).norm()),
            "directions": [_directions(observation) for observation in exchange.observations],
        }
    return {"adapters": found}


def _directions(observation: Observation) -> int:
    first = [g for name, g in observation.gradients.items() if ".blocks.0." in name and ".lora_A." in name]
    sizes = torch.linalg.svdvals(torch.cat(first).double())
    return int((sizes > 1e-5 * sizes[0]).sum())


def planned() -> Iterator[tuple[str, Callable[[], Cell]]]:
    """Key of each cell, and what measures it: the closed forms of both trunks first, then the search."""
    yield "accuracy", accuracies
    yield "directions", directions
    for shared, (tried, edit) in rows().items():
        for trunk, net in TRUNKS.items():
            yield f"{shared}/{trunk}", partial(cell_of, tried, edit, net=net)


def rows() -> dict[str, tuple[Tried, Adapted | None]]:
    """Line of the table -> the attack, and what gets adapters."""
    span = Tried("patch_span", SMOOTHNESS)
    found: dict[str, tuple[Tried, Adapted | None]] = {
        f"`patch_embedding`, {FULL}": (Tried("patch_embedding", SMOOTHNESS), None),
        f"`patch_span`, {FULL}": (span, None),
    }
    for state, adapted, epochs in ADAPTED:
        for rank, targets in RUNGS:
            edit = adapted(rank=rank, targets=targets, epochs=epochs)
            found[f"`patch_span`, rank {rank} on {targets}, {state}"] = (span, edit)
    return found | {f"`inverting_gradients`, {state}": (PIXELS, edit) for state, edit in STATES.items()}


def markdown(cells: Mapping[str, Cell]) -> str:
    """The section of docs/peft.md."""
    lines = {shared: [cells.get(f"{shared}/{trunk}") for trunk in TRUNKS] for shared in rows()}
    images = {(data, image) for cell in cells.values() for data, of in cell.get("images", {}).items() for image in of}
    accuracy = cells.get("accuracy", {}).get("accuracy", {})
    trained = ", ".join(f"{data} {share:.2f}" for data, share in accuracy.items())
    parts = [
        f"Median leak in dB over {len(images)} distinct images, the least and the largest, and the medians of "
        f"{' and '.join(DATA)}. Held-out accuracy of the trained trunks: {trained or 'not measured yet'}.",
        table(["attack and what is shared", *TRUNKS], [[name, *map(interval, each)] for name, each in lines.items()]),
    ]
    adapters = cells.get("directions", {}).get("adapters", {})
    if adapters:
        header = ["adapters", "accuracy on their training images", "norm of B", "directions, least to most"]
        lines_of = []
        for name, each in adapters.items():
            least, most = min(each["directions"]), max(each["directions"])
            lines_of.append([name, f"{each['accuracy']:.2f}", f"{each['b']:.1f}", f"{least} to {most}"])
        parts += ["Adapters on queries, keys and values for faces:", table(header, lines_of)]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the cells that are missing, each stored at once, then write the page."""
    fitting = {"epochs": FITTING.epochs, "batch_size": FITTING.batch_size, "lr": FITTING.lr}
    setting = {**NET, "width": WIDTH, "rank": RANK, "adapted": EPOCHS, "steps": STEPS, "pilot_steps": PILOT_STEPS}
    write(PAGE, MARKERS, markdown(complete(PATH, planned(), {**setting, "trunk": fitting}, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
