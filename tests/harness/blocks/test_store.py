"""The store of finished blocks: what it gives back, what it refuses to, and what makes it forget."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia import numerics
from gia.harness.blocks import distributions, sources
from gia.harness.blocks import store as store_module
from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.folders import LOCK, MARK
from gia.harness.blocks.results import BlockResult, Control
from gia.harness.blocks.store import Store, load_pictures, log_controls
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
    """Blocks would be mixed up."""
    experiment = an_experiment()
    key = store.key(experiment, BLOCK, measure)
    turned = Experiment(experiment.id, dict(reversed(experiment.levels.items())))
    assert key != store.key(experiment, replace(BLOCK, index=4), measure)
    assert key != store.key(experiment, replace(BLOCK, lane="pilot"), measure)
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
    store_module.arithmetic.cache_clear()  # asked once in a process
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert store.key(an_experiment(), BLOCK, measure)["arithmetic"] != fingerprint
    store_module.arithmetic.cache_clear()


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """For tests that change what is installed: nothing of it stays in the memory of this process."""

    def forget() -> None:
        for function in (each for module in (distributions, sources, store_module) for each in vars(module).values()):
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
    for function in (distributions._all, distributions.packages, distributions.behind, sources._closure):
        function.cache_clear()
    assert store.key(an_experiment(), BLOCK, measure) == before
    store.save(before, RESULT, {})
    (entry,) = store.folder.glob("*.json")
    recorded = json.loads(entry.read_text(encoding="utf-8"))["recorded"]
    assert "toy==1.0" in recorded["packages"]
    assert f"torch=={importlib.metadata.version('torch')}" in recorded["packages"]
    assert not [package for package in recorded["packages"] if package.startswith("vendored")]
    assert recorded["environment"]["python"] == platform.python_version()


@pytest.mark.parametrize("how", ["in place", "with the old time", "another module", "without RECORD"])
def test_a_package_that_is_overlaid_in_place_is_another_one(
    tmp_path: Path, python: pytest.MonkeyPatch, how: str
) -> None:
    """A developer copies a new build over an installed package, whose version and RECORD stay: old blocks would be
    served for it."""
    installed(tmp_path, "toy")
    record = tmp_path / "toy-1.0.dist-info" / "RECORD"
    (tmp_path / "toylib").mkdir()
    (tmp_path / "toylib" / "kernel.so").write_bytes(b"\x7fELF old")
    digest = base64.urlsafe_b64encode(sha256(b"\x7fELF old").digest()).decode().rstrip("=")
    record.write_text(
        record.read_text(encoding="utf-8") + f"toylib/kernel.so,sha256={digest},8\ntoy-1.0.dist-info/RECORD,,\n",
        encoding="utf-8",
    )
    if how == "without RECORD":
        record.unlink()
        (record.parent / "top_level.txt").write_text("toylib\n")
    python.syspath_prepend(tmp_path)

    def seen() -> str:
        for function in vars(distributions).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
        return distributions.behind("toylib")["toy"]

    before = seen()
    assert distributions.changed(["toy"]) == []
    time.sleep(0.02)  # the clock of files ticks
    status = (tmp_path / "toylib" / "kernel.so").stat()
    if how == "another module":
        (tmp_path / "toylib" / "kernel.py").write_text("", encoding="utf-8")
    else:
        (tmp_path / "toylib" / "kernel.so").write_bytes(b"\x7fELF new")
        if how == "with the old time":
            os.utime(tmp_path / "toylib" / "kernel.so", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert distributions.changed(["toy"]) == ["toy"]
    assert seen() != before


@pytest.mark.parametrize("how", ["linked", "linked after it was written again"])
def test_a_package_whose_files_get_a_second_name_is_the_same_one(
    tmp_path: Path, python: pytest.MonkeyPatch, how: str
) -> None:
    """uv links the files of its cache into every environment, and each link touches them: a run would end because
    somebody installed something elsewhere. What was written meanwhile may have been used, whatever it holds now."""
    installed(tmp_path / "site", "toy")
    module = tmp_path / "site" / "toy.py"
    python.syspath_prepend(tmp_path / "site")
    before = distributions.behind("toy")
    assert distributions.changed(["toy"]) == []
    time.sleep(0.02)  # the clock of files ticks
    if how != "linked":
        module.write_bytes(module.read_bytes())
    os.link(module, tmp_path / "toy.py")
    assert distributions.changed(["toy"]) == ([] if how == "linked" else ["toy"])
    distributions.behind.cache_clear()
    assert distributions.behind("toy") == before


def test_a_distribution_counts_by_the_files_that_it_installed(tmp_path: Path, python: pytest.MonkeyPatch) -> None:
    """A rebuilt package of the same version would be taken for the old one, or the same one in another environment for
    another."""
    found = []
    for folder, content in (("a", "0"), ("b", "0"), ("c", "1")):
        installed(tmp_path / folder, "toy", content)
        with python.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            distributions._all.cache_clear()
            distributions.behind.cache_clear()
            found.append(dict(distributions.behind("toy")))
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
    assert [path for path in store.folder.rglob("*") if path.is_file() and path.name not in (MARK, LOCK)] == []
    assert store.load(key, BLOCK) is None


def content(store: Store) -> set[str]:
    """The files of a store, but for its mark and its lock."""
    files = (path for path in store.folder.rglob("*") if path.is_file() and path.name not in (MARK, LOCK))
    return {path.relative_to(store.folder).as_posix() for path in files}


def test_only_the_user_can_read_a_store(store: Store) -> None:
    """Everybody in the group could read reconstructions of private images."""
    before = os.umask(0)
    try:
        key = store.key(an_experiment(), BLOCK, measure)
        store.hold()
        log_controls(store.log_of(key), RESULT.controls)
        store.save(key, RESULT, PICTURES)
    finally:
        os.umask(before)
    modes = {path.relative_to(store.folder): path.stat().st_mode & 0o777 for path in store.folder.rglob("*")}
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert {mode for path, mode in modes.items() if (store.folder / path).is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if (store.folder / path).is_file()} == {0o600}


def test_what_levels_have_under_one_name_counts_for_each(store: Store) -> None:
    """The data of the last level alone would be in the key, and the others could change unseen."""
    one, two = Level(data="0f"), Level(data="10", size=2)
    keys = [
        store.key(Experiment("toy.claim", {1: first, 2: two}), BLOCK, measure)
        for first in (one, replace(one, data="0e"))
    ]
    assert keys[0]["inputs"] != keys[1]["inputs"]
