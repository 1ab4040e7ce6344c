"""What takes part and is changed while a run computes: the numbers belong to no one state of it, and are not stored."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

from gia.harness.blocks import distributions, sources
from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.sources import EditedError
from gia.harness.blocks.store import Store
from gia.harness.blocks.workers import spread
from tests.harness.planted import Level, Result

BLOCKS = draw_blocks("toy", {}, 3)

#: A measure whose number comes from another module, which is edited as soon as block 1 is there.
MEASURE = """
from pathlib import Path

from gia_edited_part import number
from tests.harness.planted import Result

def measure(level, block, *, cache):
    if block.index == 1:
        with Path(__file__).with_name("gia_edited_part.py").open("a", encoding="utf-8") as source:
            source.write("# edited\\n")
    return Result(values={"psnr": number()})

def alone(item):
    measure(None, item, cache=None)
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module with a measure, which is imported; sources are read as in a new process."""
    for function in vars(sources).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "gia_edited_part.py").write_text("def number():\n    return 1.0\n")
    (folder / "gia_edited.py").write_text(MEASURE, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("gia_edited")
    for name in ("gia_edited", "gia_edited_part"):
        del sys.modules[name]


def an_experiment() -> Experiment:
    """One level."""
    return Experiment("toy", {1: Level()})


def stored(folder: Path) -> int:
    """How many blocks a store has."""
    return len(list(folder.glob("*.json")))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_block_is_not_stored_after_its_source_was_edited(user: ModuleType, tmp_path: Path, workers: int) -> None:
    """The numbers of the edited code would be stored under the key of the old one, and served once the edit is taken
    back."""
    store = Store(tmp_path / "blocks")
    with pytest.raises(EditedError, match=r"got .*gia_edited_part\.py edited while the run computes; start again"):
        run_blocks(an_experiment(), BLOCKS, store, user.measure, workers=workers)
    assert stored(store.folder) == 1  # that of block 0, which was finished before
    with pytest.raises(EditedError):  # at once: what is in memory is still the old code
        run_blocks(an_experiment(), BLOCKS, store, user.measure, workers=workers)


def test_a_source_that_was_edited_after_its_import_is_refused_before_anything_is_computed(
    user: ModuleType, tmp_path: Path
) -> None:
    """A claim that runs hours after the start would be stored under a key of code that this process does not have."""
    store = Store(tmp_path / "blocks")
    part = tmp_path / "user" / "gia_edited_part.py"
    source = part.read_text(encoding="utf-8")
    part.write_text(source + "# edited\n", encoding="utf-8")
    part.write_text(source, encoding="utf-8")  # and back: a worker may have imported the edit
    os.utime(part, ns=(time.time_ns(), time.time_ns()))
    with pytest.raises(EditedError, match=r"gia_edited_part\.py"):
        run_blocks(an_experiment(), BLOCKS[:1], store, user.measure, workers=0)
    assert stored(tmp_path / "blocks") == 0


def test_an_edit_of_a_file_that_takes_no_part_stops_nothing(user: ModuleType, tmp_path: Path) -> None:
    """A run of hours would end with an error for a word in a report."""
    store = Store(tmp_path / "blocks")
    (tmp_path / "user" / "gia_report.py").write_text("", encoding="utf-8")
    importlib.import_module("gia_report")
    (tmp_path / "user" / "gia_report.py").write_text("# edited\n", encoding="utf-8")
    assert len(run_blocks(an_experiment(), BLOCKS[:1], store, user.measure, workers=0)) == 1
    del sys.modules["gia_report"]


def test_what_is_spread_is_refused_after_its_source_was_edited(user: ModuleType, tmp_path: Path) -> None:
    """Counterexamples would be searched in two states of the code at once."""
    with pytest.raises(EditedError, match=r"gia_edited_part\.py"):
        spread(user.alone, BLOCKS, workers=0)


@dataclass(frozen=True, kw_only=True)
class Reading(Level):
    """A level whose data are a file."""

    root: str | None = None

    def inputs(self, *, again: bool = False) -> dict[str, str]:
        """The file as it is."""
        return {"images": Path(self.root or "", "images").read_text(encoding="utf-8")}


def replacing_images(level: Reading, block: Block, *, cache: Path | None) -> Result:
    """A measure during which somebody replaces the images."""
    Path(level.root or "", "images").write_text("new", encoding="utf-8")
    return Result(values={"psnr": 1.0})


def test_blocks_are_taken_back_when_their_data_changed_meanwhile(tmp_path: Path) -> None:
    """A worker may have read the old images or the new ones, and the key says the old ones."""
    (tmp_path / "images").write_text("old", encoding="utf-8")
    experiment = Experiment("toy", {1: Reading(root=str(tmp_path)), 2: Reading(root=str(tmp_path), size=2)})
    store = Store(tmp_path / "blocks")
    with pytest.raises(EditedError, match="got images edited while the run computes"):
        run_blocks(experiment, BLOCKS, store, replacing_images, workers=0)
    assert stored(store.folder) == 0
    other = Experiment("other", {1: replace(experiment.levels[1], slope=3.0)})
    with pytest.raises(EditedError):  # another row of the same run: a worker may still have the old images
        run_blocks(other, BLOCKS, store, replacing_images, workers=0)
    assert len(run_blocks(experiment, BLOCKS, Store(store.folder), replacing_images, workers=0)) == 3


def failing(level: Level, block: Block, *, cache: Path | None) -> Result:
    """What half a package does."""
    if block.index == 1:
        raise ImportError("planted")
    return Result(values={"psnr": 1.0})


def test_blocks_are_taken_back_when_a_package_changed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade during a run: workers that begin later have another package than the key; most often they fail."""
    store = Store(tmp_path / "blocks")
    monkeypatch.setattr(distributions, "changed", lambda names: sorted({"torch"} & set(names)))
    with pytest.raises(EditedError, match="got torch edited while the run computes") as caught:
        run_blocks(an_experiment(), BLOCKS, store, failing, workers=0)
    assert isinstance(caught.value.__context__, ImportError)
    assert stored(store.folder) == 0
