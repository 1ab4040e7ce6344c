"""What the workers of a cluster compute in tests: a module that does not know of the cluster."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import torch

from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.experiment import Experiment
from gia.numerics import fingerprint
from tests.harness.planted import Level, Result

BLOCKS = draw_blocks("toy", {}, 8)


def noted(level: Level, block: Block, *, cache: Path | None) -> Result:
    """What a small net's gradient says of the block's images, in this process; each call leaves a line."""
    state = random.getstate()
    assert cache is not None
    folder = cache.parents[1]
    with (folder / "computed.txt").open("a", encoding="utf-8") as file:
        file.write(f"{block.index} {os.getpid()}\n")
    if block.index == 2 and (folder / "stop").exists():
        (folder / "stop").rename(folder / "reached")
        time.sleep(600)
    images = torch.rand(4, 3, 16, 16, generator=block.generator("images"))
    kernel = torch.randn(8, 3, 5, 5, generator=block.generator("victim")).requires_grad_()
    time.sleep(0.2)
    if random.getstate() != state:  # as a victim is asked whether it draws random numbers
        raise ValueError("expected a process that does nothing else, got one that draws random numbers meanwhile")
    loss = torch.nn.functional.conv2d(images, kernel).sigmoid().square().mean()
    (gradient,) = torch.autograd.grad(loss, kernel)
    return Result(values={"psnr": float(gradient.norm()) / level.size, "threads": float(torch.get_num_threads())})


def an_experiment() -> Experiment:
    """Two levels."""
    return Experiment("toy", {size: Level(size=size) for size in (1, 2)})


def where(item: int) -> tuple[int, int, str]:
    """The item, the process and its arithmetic."""
    return item, os.getpid(), fingerprint()


def crashing(item: int) -> int:
    """A bug at one item."""
    if item == 1:
        raise ZeroDivisionError("planted")
    return item
