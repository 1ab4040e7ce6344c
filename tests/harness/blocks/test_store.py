"""The store of finished blocks: what it gives back, what it refuses to, and what makes it forget."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia import numerics
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
    controls={"1": Control(True, "the search ends lower", {"found": 0.1, "truth": 0.0}), "2": Control(True, "it does")},
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
        {"data": "0f"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_any_changed_setting_is_another_key(store: Store, changes: dict[str, Any]) -> None:
    """A result of an old setting would be served for a new one."""
    assert store.key(an_experiment(), BLOCK, measure) != store.key(an_experiment(**changes), BLOCK, measure)


def test_another_block_measure_or_order_of_levels_is_another_key(store: Store) -> None:
    """Blocks would be mixed up, or a block that is void served as one that was measured."""
    experiment = an_experiment()
    key = store.key(experiment, BLOCK, measure)
    turned = Experiment(experiment.id, dict(reversed(experiment.levels.items())))
    assert key != store.key(experiment, replace(BLOCK, index=4), measure)
    assert key != store.key(experiment, replace(BLOCK, lane="pilot"), measure)
    assert key != store.key(experiment, BLOCK, measure, void_too=True)
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


def test_data_of_other_content_under_the_same_name_are_another_key(store: Store) -> None:
    """Images that were replaced in their folder would be answered with the results of the old ones."""
    keys = [store.key(an_experiment(data=digest), BLOCK, measure) for digest in ("0f", "0f", "10")]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0]["inputs"] == {"planted": "0f"}


def test_the_arithmetic_and_the_device_are_in_the_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of another torch, another MKL or another processor would be taken for this one's."""
    with numerics.reproducible(threads=1):
        fingerprint = numerics.fingerprint()
    key = store.key(an_experiment(), BLOCK, measure)
    assert key["arithmetic"] == fingerprint
    assert key["devices"] == {"cpu": "cpu"}
    store_module._arithmetic.cache_clear()  # asked once in a process
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert store.key(an_experiment(), BLOCK, measure)["arithmetic"] != fingerprint
    store_module._arithmetic.cache_clear()


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """For tests that change what is installed: nothing of it stays in the memory of this process."""

    def forget() -> None:
        for function in (*vars(sources).values(), *vars(store_module).values()):
            if hasattr(function, "cache_clear"):
                function.cache_clear()

    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def installed(folder: Path, name: str, content: str = "0") -> None:
    """A package with one module, as pip leaves it."""
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / f"{name}.py").write_text(f"CONTENT = {content!r}\n", encoding="utf-8")
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    digest = sha256((folder / f"{name}.py").read_bytes()).hexdigest()
    (facts / "RECORD").write_text(
        f"{name}.py,sha256={digest},20\n../../bin/{name},sha256={folder},1\n", encoding="utf-8"
    )


def test_a_package_that_nothing_imports_is_recorded_beside_the_result_and_not_in_the_key(
    store: Store, tmp_path: Path, python: pytest.MonkeyPatch
) -> None:
    """Every block would be computed again because a package for reports was installed; or nobody could look up what was
    there when it was computed."""
    before = store.key(an_experiment(), BLOCK, measure)
    installed(tmp_path / "site-packages", "toy")
    installed(tmp_path / "setuptools" / "_vendor", "vendored")
    python.syspath_prepend(tmp_path / "site-packages")
    python.syspath_prepend(tmp_path / "setuptools" / "_vendor")
    for function in (sources._records, sources.packages, sources._closure, sources._distributions_of):
        function.cache_clear()
    assert store.key(an_experiment(), BLOCK, measure) == before
    store.save(before, RESULT, {})
    (entry,) = store.folder.glob("*.json")
    recorded = json.loads(entry.read_text(encoding="utf-8"))["recorded"]
    assert "toy==1.0" in recorded["packages"]
    assert f"torch=={importlib.metadata.version('torch')}" in recorded["packages"]
    assert not [package for package in recorded["packages"] if package.startswith("vendored")]
    assert recorded["environment"]["python"] == platform.python_version()


def test_a_distribution_counts_by_the_files_that_it_installed(tmp_path: Path, python: pytest.MonkeyPatch) -> None:
    """A rebuilt package of the same version would be taken for the old one, or the same one in another environment for
    another."""
    found = []
    for folder, content in (("a", "0"), ("b", "0"), ("c", "1")):
        installed(tmp_path / folder, "toy", content)
        with python.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            sources._records.cache_clear()
            sources._distributions_of.cache_clear()
            found.append(dict(sources._distributions_of("toy")))
    assert found[0] == found[1] != found[2]
    assert found[0]["toy"].startswith("1.0 ")


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
        entry.write_text(entry.read_text(encoding="utf-8").replace("18.0", "28.0"), encoding="utf-8")
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
    entry.write_text("{", encoding="utf-8")
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
