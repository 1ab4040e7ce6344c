"""A process whose children search under checkpoints and are killed, for test_checkpointing.py.

It forks, since a new process would take seconds to import torch. Its folder gets result.pt, what the last child found,
and for each child a file N.steps with the steps that it took.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import gia
from gia.attacks.matching import Progress

KILLS = 10


def search(folder: Path | None, life: int = 0, *, steps: int = 120) -> dict[str, torch.Tensor]:
    """A search on noise; with a folder under checkpoints."""
    seed = torch.Generator().manual_seed(0)
    model = gia.models.build("mlp", num_classes=4, image_size=8, width=16, generator=seed)
    images, labels = torch.rand(2, 3, 8, 8, generator=seed), torch.tensor([1, 3])
    observation = gia.share_gradient(model, images, labels, reveal=("labels",))

    def told(progress: Progress) -> None:
        if folder is not None:
            with (folder / f"{life}.steps").open("a", encoding="utf-8") as file:
                file.write(f"{progress.step}\n")

    settings = {"steps": steps, "seeds": 2, "generator": seed, "callback": told}
    if folder is None:
        found = gia.attacks.gradinversion(model, observation, **settings)
    else:
        with gia.attacks.checkpointing(folder / "search", every=0):
            found = gia.attacks.gradinversion(model, observation, **settings)
    return {"images": found.images, "generator": seed.get_state()}


def main(folder: Path) -> None:
    """Kill children at random times, then let one end."""
    draw = random.Random(0)
    (folder / "warm").mkdir()
    search(folder / "warm", steps=1)  # reads the sources, whose digest the children have then
    for life in range(KILLS + 1):
        child = os.fork()
        if child == 0:
            torch.save(search(folder, life), folder / "result.pt")
            os._exit(0)
        if life < KILLS:
            steps, taken = draw.randint(2, 5), folder / f"{life}.steps"
            while not taken.exists() or len(taken.read_bytes().split()) < steps:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.01))  # in a step, or while its state is written
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if (folder / "result.pt").exists():
        return
    raise SystemExit(f"expected the last child to end, got status {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
