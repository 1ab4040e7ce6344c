"""The paper's scale in two steps: every comparison runs on made folders with the layout of the real data sets.

Networks are narrow, searches and trainings take two steps, and data are noise; all else is the paper's: loaders, images
and batches of a block, edits, local trainings, attacks, controls and scores. `nox -s paper` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from claims import paper
from claims.equipment import Inverting
from gia.attacks import card_of
from gia.experiment import Fitting, Protocol, measure
from gia.harness.blocks.drawing import draw_blocks
from tests.paper import made
from tests.unit.test_cells import compared

ROWS = [(id, levels) for id, _, levels in compared(paper)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all four data sets. Their digests are those of no real set, so torchvision must not ask."""
    folder = tmp_path_factory.mktemp("data")
    made.cifar(folder)
    made.celeba(folder)
    made.imagenet(folder)
    with pytest.MonkeyPatch.context() as patch:
        for kind in (datasets.CIFAR10, datasets.CIFAR100, datasets.CelebA):
            patch.setattr(kind, "_check_integrity", lambda self: True)
        for kind in (datasets.CIFAR10, datasets.CIFAR100):
            patch.setitem(kind.meta, "md5", None)
        yield folder


def dry(level: Protocol, root: Path) -> Protocol:
    """The level with two steps, narrow networks and two epochs."""
    changes: dict[str, Any] = {}
    if "width" in level.victim.options:
        changes["victim.width"] = 4
    if level.victim.name.startswith("vit_"):
        changes["victim.name"] = "vit_tiny"
    card = card_of(level.attacker.attack)
    if card is not None and card.iterative:
        changes["attacker.settings"] = {**level.attacker.settings, "steps": 2}
    if level.fit is not None:
        changes["fit"] = Fitting(
            **{**vars(level.fit), "epochs": 2, "half": 1, "accuracy": 0.0},
        )
    if isinstance(level.attacker.equip, Inverting):
        changes |= {"attacker.equip.epochs": 1, "attacker.equip.hidden": (8,), "attacker.equip.hashed": 64}
    return level.with_(changes).placed(device="cpu", root=str(root))


def ends(levels: Mapping[Any, Protocol]) -> list[Any]:
    """The first and the last of some levels."""
    labels = list(levels)
    return labels[:1] + labels[1:][-1:]


@pytest.mark.parametrize(
    ("id", "label"), [(id, label) for id, levels in ROWS for label in ends(levels)], ids=lambda value: str(value)
)
def test_a_level_of_the_paper_s_scale_runs(id: str, label: Any, root: Path, tmp_path: Path) -> None:
    """A run that began on Friday would have ended on Friday, at a row that nobody had ever run."""
    level = dry(dict(ROWS)[id][label], root)
    if level.victim.name == "vit_tiny":
        pytest.importorskip("timm")
    (block,) = draw_blocks(id, level.vary, 1)
    found = measure(level, block, cache=tmp_path)
    assert set(found.values) >= set(level.scoring.metrics)
    if level.control is not None:
        assert isinstance(level.control(level, block, cache=tmp_path).passed, bool)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "celeba", "imagenet"])
def test_a_missing_data_set_is_one_line_that_says_what_to_put_where(name: str, tmp_path: Path) -> None:
    """A user would read a traceback of torchvision to find out which folder is missing."""
    levels = [level for _, row in ROWS for level in row.values() if level.batch.data == name]
    level = dry(levels[0], tmp_path)
    (block,) = draw_blocks("paper", level.vary, 1)
    with pytest.raises(FileNotFoundError) as caught:
        measure(level, block)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"root: expected {tmp_path}")
    assert "; to get " in line
