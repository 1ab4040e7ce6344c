"""The store of finished blocks: what it gives back, what it refuses to, and what makes it forget."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gia.harness.blocks import sources
from gia.harness.blocks import store as store_module
from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import BlockResult, Control
from gia.harness.blocks.store import Store, load_pictures
from tests.harness.planted import Level, crashing, measure

BLOCK = Block("toy.claim", 3, {"victim.width": 16})


def an_experiment(**changes: Any) -> Experiment:
    """Two sizes of a changed level."""
    base = Level(**changes)
    return Experiment("toy.claim", {1: base, 2: replace(base, size=2)})


RESULT = BlockResult(
    block=BLOCK,
    levels={"1": {"psnr": 0.1 + 0.2, "lpips": None}, "2": {"psnr": 18.0, "lpips": None}},
    control=Control(True, "PSNR 20 dB against 12 dB blind", {"psnr": 20.0}),
    valid=True,
    seconds=1.5,
    counts={"1": {"gradient_evaluations": 40}, "2": {}},
    details={"1": {"blind": {"psnr": 12.0}}, "2": {}},
)
PICTURES = {"1/originals": np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)}


@pytest.fixture
def notices() -> list[str]:
    """What the store said."""
    return []


@pytest.fixture
def store(tmp_path: Path, notices: list[str]) -> Store:
    """An empty store."""
    return Store(tmp_path / "blocks", notice=notices.append)


def test_a_stored_block_comes_back_equal_and_marked_in_a_later_run(store: Store) -> None:
    """A resumed run would give another table than an uninterrupted one."""
    key = store.key(an_experiment(), BLOCK, measure)
    assert store.load(key, BLOCK) is None
    fresh = store.save(key, RESULT, PICTURES)
    again, later = store.load(key, BLOCK), Store(store.folder).load(key, BLOCK)
    assert later is not None
    assert again == fresh
    assert not fresh.cached
    assert later == replace(fresh, cached=True)
    assert np.array_equal(load_pictures(later)["1/originals"], PICTURES["1/originals"])


@pytest.mark.parametrize(
    "changes",
    [
        {"attack": "dlg"},
        {"slope": 3.0},
        {"dtype": "float64"},
        {"root": "elsewhere"},
        {"control": crashing},
        {"vary": {"width": (8, 16)}},
        {"parts": {"edit": crashing}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_any_changed_setting_is_another_key(store: Store, changes: dict[str, Any]) -> None:
    """A result of an old setting would be served for a new one."""
    assert store.key(an_experiment(), BLOCK, measure) != store.key(an_experiment(**changes), BLOCK, measure)


def test_another_block_measure_or_order_of_levels_is_another_key(store: Store) -> None:
    """Blocks would be mixed up, or B's control would stand for A's."""
    experiment = an_experiment()
    key = store.key(experiment, BLOCK, measure)
    turned = Experiment(experiment.id, dict(reversed(experiment.levels.items())))
    assert key != store.key(experiment, replace(BLOCK, index=4), measure)
    assert key != store.key(experiment, replace(BLOCK, setting={"victim.width": 32}), measure)
    assert key != store.key(experiment, BLOCK, crashing)
    assert key != store.key(turned, BLOCK, measure)
    assert key == store.key(an_experiment(), BLOCK, measure)


@dataclass(frozen=True)
class Shifted:
    """A part with a setting."""

    by: float

    def __call__(self, model: Any) -> Any:
        return model


def test_a_part_with_settings_is_keyed_by_its_settings_and_its_source(store: Store) -> None:
    """An edit of another strength would be answered with an old result, or have no key at all."""
    keys = [store.key(an_experiment(parts={"edit": Shifted(by)}), BLOCK, measure) for by in (1.0, 1.0, 2.0)]
    assert keys[0] == keys[1] != keys[2]
    assert __name__ in keys[0]["sources"]


def test_the_key_covers_every_source_file_and_table_of_gia(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """A changed attack would be served from the cache of the old one."""
    seen: list[Path] = []
    monkeypatch.setattr(sources, "file_digest", lambda path: seen.append(path) or "0" * 16)
    sources.source_of_gia.cache_clear()
    key = store.key(an_experiment(), BLOCK, measure)
    sources.source_of_gia.cache_clear()
    root = Path(sources.__file__).parents[2]
    assert {*root.rglob("*.py"), *root.rglob("*.toml")} <= set(seen)
    monkeypatch.undo()
    assert store.key(an_experiment(), BLOCK, measure)["gia"] != key["gia"]


def test_a_package_that_is_installed_is_in_the_key_and_one_that_another_brings_for_itself_is_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks would be computed again because something imported setuptools, as torch 2.6 sometimes does; or taken from
    the store with another numpy."""

    def machine() -> dict[str, str]:
        store_module._machine.cache_clear()  # asked once in a process
        return dict(store.key(an_experiment(), BLOCK, measure)["machine"])

    keys = [machine()]
    for folder in ("setuptools/_vendor", "site-packages"):
        facts = tmp_path / folder / "toy-1.0.dist-info" / "METADATA"
        facts.parent.mkdir(parents=True)
        facts.write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
        keys.append(machine())
    before, vendored, installed = keys
    assert vendored == before
    assert installed != before
    monkeypatch.undo()
    assert machine() == before


def test_the_key_names_torch_device_threads_arithmetic_and_packages(store: Store) -> None:
    """Numbers of another torch, machine or image package would be taken for this one's."""
    key = store.key(an_experiment(), BLOCK, measure)
    assert key["machine"]["torch"] == torch.__version__
    assert key["machine"]["threads"] == "1"
    assert {"capability", "fingerprint", "packages"} <= set(key["machine"])
    assert key["devices"] == {"cpu": "cpu"}


@pytest.mark.parametrize("damage", ["truncated", "edited", "moved", "pictures", "no pictures"])
def test_a_damaged_entry_is_not_used_and_the_user_is_told(store: Store, notices: list[str], damage: str) -> None:
    """Half a file, or a number changed by hand, would enter a verdict."""
    key = store.key(an_experiment(), BLOCK, measure)
    store.save(key, RESULT, PICTURES)
    (entry,) = store.folder.glob("*.json")
    (images,) = store.folder.glob("*.npz")
    if damage == "truncated":
        entry.write_bytes(entry.read_bytes()[:-40])
    elif damage == "edited":
        entry.write_text(entry.read_text().replace("18.0", "28.0"))
    elif damage == "moved":
        key = store.key(an_experiment(attack="dlg"), BLOCK, measure)
        entry.rename(store._path(key))
        images.rename(store._path(key).with_suffix(".npz"))
    elif damage == "pictures":
        images.write_bytes(images.read_bytes()[:-1])
    else:
        images.unlink()
    assert store.load(key, BLOCK) is None
    (notice,) = notices
    assert "damaged" in notice
    assert "computed again" in notice


def test_a_block_computed_again_replaces_the_damaged_one(store: Store) -> None:
    """The damage would be reported, and the block computed, on every later run."""
    key = store.key(an_experiment(), BLOCK, measure)
    store.save(key, RESULT, {})
    (entry,) = store.folder.glob("*.json")
    entry.write_text("{")
    assert store.load(key, BLOCK) is None
    store.save(key, RESULT, {})
    assert store.load(key, BLOCK) is not None


def test_an_interrupted_write_leaves_no_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while writing would leave half a block under a good name."""
    key = store.key(an_experiment(), BLOCK, measure)

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(key, RESULT, {})
    monkeypatch.undo()
    assert list(store.folder.iterdir()) == []
    assert store.load(key, BLOCK) is None


def test_clear_forgets_every_block(store: Store) -> None:
    """CI would start from what an earlier job left."""
    key = store.key(an_experiment(), BLOCK, measure)
    store.save(key, RESULT, PICTURES)
    store.nets.mkdir()
    (store.nets / "net-0.safetensors").touch()
    store.clear()
    assert store.load(key, BLOCK) is None
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
