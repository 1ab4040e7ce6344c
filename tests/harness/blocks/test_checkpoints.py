"""Checkpoints in a store: a block whose search was killed goes on from its last step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import gia
from gia.harness.blocks import executor
from gia.harness.blocks.block import Block
from gia.harness.blocks.entries import entries
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.store import Store
from gia.numerics import checkpointing
from tests.harness.planted import Level, Result

#: The steps that searches took in this process, in order.
taken: list[int] = []


class Killed(Exception):
    """Stands in for a kill."""


def searching(level: Level, block: Block, *, cache: Path | None) -> Result:
    """The objective that a search of twelve steps finds; while the list is not full, it is killed at step 8."""
    generator = block.generator("start")
    model = gia.models.build("mlp", num_classes=3, image_size=4, width=4, generator=generator)
    images = torch.rand(1, 3, 4, 4, generator=generator)
    shared = gia.share_gradient(model, images, torch.tensor([1]), reveal=("labels",))

    def told(progress: gia.attacks.matching.Progress) -> None:
        taken.append(progress.step)
        if len(taken) == 9:
            raise Killed

    found = gia.attacks.inverting_gradients(model, shared, generator=generator, steps=12, callback=told)
    return Result(values={"psnr": float(found.objective or 0.0)})


def test_a_killed_block_goes_on_from_its_search_and_its_files_go_once_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill on Sunday would cost the search that began on Friday; or its states would fill the disk for good."""
    monkeypatch.setattr(executor, "checkpointing", partial(checkpointing, every=0))
    experiment, block = Experiment("toy", {1: Level(size=1)}), Block("toy", 0, {})
    taken.clear()
    folder = tmp_path / "store"
    with pytest.raises(Killed):
        run_blocks(experiment, [block], Store(folder), searching, workers=0)
    kinds = [entry.kind for entry in entries(folder)]
    assert kinds.count("checkpoints") == 1
    (resumed,) = run_blocks(experiment, [block], Store(folder), searching, workers=0)
    assert taken == [*range(9), *range(8, 12)]
    assert "checkpoints" not in [entry.kind for entry in entries(folder)]
    (whole,) = run_blocks(experiment, [block], Store(tmp_path / "other"), searching, workers=0)
    assert taken[-12:] == [*range(12)]
    assert resumed.levels == whole.levels


#: How often a block stores its searches, and where.
seen: list[tuple[float, Path]] = []


def looked(level: Level, block: Block, *, cache: Path | None) -> Result:
    """Notes what a search in this block would be given."""
    checkpoints = gia.numerics.checkpoints.active_checkpoints()
    assert checkpoints is not None
    seen.append((checkpoints.every, checkpoints.path))
    return Result(values={"psnr": 1.0})


def test_the_searches_of_a_block_have_checkpoints_every_minute(tmp_path: Path) -> None:
    """Rows of seconds would write to the disk all the time, or rows of days would lose hours."""
    store, experiment, block = Store(tmp_path), Experiment("toy", {1: Level(size=1)}), Block("toy", 0, {})
    seen.clear()
    run_blocks(experiment, [block], store, looked, workers=0)
    assert seen == [(60.0, store.checkpoints_of(store.key(experiment, block, looked)))]
