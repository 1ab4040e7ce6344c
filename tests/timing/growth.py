"""How the cost of a step grows: `python -m tests.timing.growth` prints a table in Markdown.

Each row varies one size of a base case and holds the others. All cases take turns in one process. The CPU time of the
shortest turn counts, so other programs disturb the figures little. They are costs of a whole step, over the base case
in the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import process_time

import torch
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine
from gia.federated import share_gradient
from gia.models import build


@dataclass(frozen=True)
class Sizes:
    """A step of gradient matching: `restarts` trials of `batch` images with `side` pixels, on a ConvNet."""

    batch: int = 1
    restarts: int = 4
    side: int = 32
    width: int = 32
    depth: int = 3


BASE = Sizes()
ROWS: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8, 16),
    "restarts": (1, 2, 4, 8, 16, 32),
    "side": (16, 32, 64),
    "width": (16, 32, 64, 128),
    "depth": (2, 3, 4, 5),
}


def step_of(sizes: Sizes) -> Callable[[], object]:
    """One evaluation of the matching loss and its gradient to the images, for all restarts."""
    generator = torch.Generator().manual_seed(0)
    options = {"num_classes": 10, "image_size": sizes.side, "width": sizes.width, "depth": sizes.depth}
    victim = build("convnet", generator=generator, **options)  # type: ignore[arg-type]
    shape = (sizes.batch, 3, sizes.side, sizes.side)
    observation = share_gradient(
        victim, torch.rand(shape, generator=generator), torch.arange(sizes.batch) % 10, reveal=("labels",)
    )
    problem = Matching(victim, [observation] * sizes.restarts, objective=Cosine(), loss=cross_entropy)
    starts = torch.rand((sizes.restarts, *shape), generator=generator)
    labels = problem.labels
    assert labels is not None
    return lambda: problem(starts, labels)


def seconds(cases: dict[Sizes, Callable[[], object]], turns: int = 5) -> dict[Sizes, float]:
    """The shortest of several turns of each case, in seconds of CPU time."""
    times = {sizes: float("inf") for sizes in cases}
    for turn in range(turns + 1):
        for sizes, step in cases.items():
            begin = process_time()
            step()
            if turn:  # the first turn compares the engines
                times[sizes] = min(times[sizes], process_time() - begin)
    return times


def table(times: dict[Sizes, float]) -> str:
    """The costs over the base case, a row for each size."""
    lines = ["| varied | cost of a step, over the base |", "|---|---|"]
    for name, values in ROWS.items():
        costs = [times[replace(BASE, **{name: value})] / times[BASE] for value in values]
        lines.append(f"| {name} | " + ", ".join(f"{v}: {c:.2f}" for v, c in zip(values, costs, strict=True)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure all cases on one thread and print the table."""
    torch.set_num_threads(1)
    sizes = {BASE, *(replace(BASE, **{name: value}) for name, values in ROWS.items() for value in values)}
    times = seconds({each: step_of(each) for each in sorted(sizes, key=repr)})
    sys.stdout.write(f"base: {BASE}, {1e3 * times[BASE]:.1f} ms of CPU time\n\n{table(times)}\n")


if __name__ == "__main__":
    main()
