"""Finished blocks on disk, under a digest of everything that their numbers depend on."""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gia import numerics
from gia.harness.blocks.block import Block
from gia.harness.blocks.distributions import packages
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.folders import Hold, hold, mark, remove
from gia.harness.blocks.level import Measure
from gia.harness.blocks.opened import opening, watch
from gia.harness.blocks.reservations import Reservations
from gia.harness.blocks.results import Arrays, BlockResult, Control
from gia.harness.blocks.sources import (
    EditedError,
    closure_of,
    named,
    refuse_changed,
    refuse_edited,
    remember_loaded,
)
from gia.harness.blocks.unkeyed import Unkeyed, Watch, relative
from gia.harness.blocks.workers import arithmetic
from gia.numerics import digest_of, file_digest, private_folder, replacing
from gia.numerics.checkpoints import checkpoints_of

_FORMAT = 4

_NOTHING = Unkeyed()

#: The files that were read for the digests of data, in this process: their contents stand in keys.
_declared: set[str] = set()


class Store:
    """Block results by content: `<digest>.json`, and `<digest>.npz` with arrays for pictures where there are any.

    The digest covers what takes part and nothing else: the source and the distributions that the functions of the
    experiment import, directly or not, the content of the data, the arithmetic of this machine, the device, the block
    and every level's setting. What a block read beyond that in the project is stored beside the result, as `read`, and
    the entry is used only while it is unchanged. What else is installed is stored as `recorded` and is not compared.
    Networks that blocks train are kept in `nets`, and what the controls of a block said before it was attacked in
    `controls`. Searches of a block that is not finished have their states in `checkpoints`. Several runs may share the
    folder: in `reserved` stands which of them computes which block.
    A file that is damaged is never used: `notice` gets one line that says so, and the block is computed again. Nothing
    is stored after something that takes part was changed (`gia.harness.blocks.sources.EditedError`).

    Args:
        root: of the project; the present folder by default.

    The folders carry gia's mark if they were empty or not there, and only then is anything in them ever deleted.
    """

    def __init__(
        self, folder: Path, *, root: Path | None = None, notice: Callable[[str], object] | None = None
    ) -> None:
        self.folder = folder
        self.root = (root or Path.cwd()).resolve()
        self.nets = folder / "nets"
        self.controls = folder / "controls"
        self.checkpoints = folder / "checkpoints"
        self.reserved = Reservations(folder / "reserved")
        self._notice = notice
        self._computed: set[Path] = set()
        self._damaged: set[Path] = set()
        self._changed: set[str] = set()
        self._inputs: dict[tuple[str | None, str], str] = {}
        self._hold: Hold | None = None
        watch()
        remember_loaded()

    def hold(self) -> None:
        """Make the folders, and lock them until this object or the process ends."""
        if self._hold is None:
            self._hold = hold(self.folder, private=True)
            for folder in (self.nets, self.controls, self.checkpoints, self.reserved.folder):
                mark(folder, private=True)

    def close(self) -> None:
        """Let others clean the folders."""
        self.reserved.close()
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def tell(self, text: str) -> None:
        """Give the user one line."""
        if self._notice is not None:
            self._notice(text)

    def key(self, experiment: Experiment, block: Block, measure: Measure) -> dict[str, Any]:
        """Everything that the result of this block depends on, as plain JSON."""
        levels = experiment.levels.values()
        calls = [measure, *(call for level in levels for call in level.callables())]
        closure = closure_of(calls, modules=_HARNESS)
        return {
            "format": _FORMAT,
            "sources": dict(closure.modules),
            "distributions": dict(closure.distributions),
            "inputs": self._inputs_of(experiment),
            "arithmetic": arithmetic(),
            "devices": {name: _device(name) for name in sorted({level.device for level in levels})},
            "measure": named(measure),
            "experiment": experiment.id,
            "levels": [[str(label), level.described()] for label, level in experiment.levels.items()],  # in order
            "block": {**asdict(block), "setting": dict(block.setting)},
        }

    def load(self, key: dict[str, Any], block: Block) -> BlockResult | None:
        """The stored result, marked as cached if it is from an earlier run; None if there is none to be trusted."""
        path = self._path(key)
        try:
            found, unkeyed = _read(path, key, block)
        except FileNotFoundError:
            return None
        except _DamagedError as damage:
            if path not in self._damaged:
                self.tell(f"stored block {path.name} is damaged ({damage}); it is computed again")
            self._damaged.add(path)
            return None
        if changed := unkeyed.changed(self.root):
            if changed not in self._changed:
                self.tell(f"{changed} was changed since stored blocks read it; they are computed again")
            self._changed.add(changed)
            return None
        result = replace(found, cached=path not in self._computed)
        with suppress(OSError):  # the cache forgets what was not used for long
            for file in (path, *result.pictures):
                os.utime(file)
        return result

    def check_sources(self, key: dict[str, Any]) -> None:
        """Raise EditedError if a source file behind this key was written since this process first read it."""
        refuse_edited(key["sources"])

    def check_all(self, experiment: Experiment, keys: Sequence[dict[str, Any]]) -> None:
        """As `check_sources` of blocks that are computed, and of their packages and data.

        It reads the state of all packages and all data, which is why it is not done before each block is stored. Where
        these changed, the blocks are taken out of the store again.
        """
        try:
            refuse_changed({name for key in keys for name in key["distributions"]})
            self._refuse_other_inputs(experiment)
        except EditedError:
            remove([file for key in keys for file in (self._path(key), self._path(key).with_suffix(".npz"))])
            raise
        refuse_edited({name for key in keys for name in key["sources"]})

    def watch_of(self, key: dict[str, Any]) -> Watch:
        """What tells the job of a block what it may read without a word."""
        return Watch(tuple(key["sources"]), self.root, self.folder.absolute())

    def save(
        self, key: dict[str, Any], result: BlockResult, arrays: Arrays, unkeyed: Unkeyed = _NOTHING
    ) -> BlockResult:
        """Store a finished block, whole or not at all; returns it with the path of its pictures.

        Args:
            unkeyed: what the block read that is not in its key.

        Raises EditedError as `check_sources`.
        """
        self.check_sources(key)
        self.hold()
        path = self._path(key)
        images = path.with_suffix(".npz")
        declared = {inside for path in _declared if (inside := relative(path, self.root)) is not None}
        content: dict[str, Any] = {
            "key": key,
            "result": _to_plain(result),
            "pictures": None,
            "read": asdict(unkeyed.without(declared)),
            "recorded": _recorded(),
        }
        if arrays:
            with replacing(images, private=True) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            content["pictures"] = file_digest(images)
        content["digest"] = digest_of(content)
        with replacing(path, private=True) as partial:  # last: an entry is there when this file is
            partial.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        remove(checkpoints_of(self.checkpoints_of(key)))
        self._computed.add(path)
        self._damaged.discard(path)
        return replace(result, pictures=(images,) if arrays else ())

    def reserve(self, key: dict[str, Any]) -> bool:
        """Whether this run is to compute the block; False while another run that lives computes it.

        The other one may have stored it at this moment, so whoever is to compute it calls `load` first.
        """
        self.hold()
        return self.reserved.take(self._path(key).stem)

    def release(self, key: dict[str, Any]) -> None:
        """End what `reserve` began, once the block is stored."""
        self.reserved.release(self._path(key).stem)

    def holds(self, key: dict[str, Any]) -> bool:
        """Whether `reserve` gave this block to this run."""
        return self.reserved.holds(self._path(key).stem)

    def owner(self, key: dict[str, Any]) -> str:
        """Which run computes the block; empty where none does."""
        return self.reserved.owner(self._path(key).stem)

    def log_of(self, key: dict[str, Any]) -> Path:
        """The file that `log_controls` writes for the block of this key."""
        return self.controls / self._path(key).name

    def checkpoints_of(self, key: dict[str, Any]) -> Path:
        """The beginning of the files in which the searches of this key's block have their states."""
        return self.checkpoints / self._path(key).stem

    def _inputs_of(self, experiment: Experiment) -> dict[str, str]:
        """Name -> content of all data; what the levels have under one name, and not alike, stands there level by level.

        The first content under a name is remembered: a worker may have it in memory.
        """
        inputs: dict[str, str] = {}
        with opening() as opened:
            for label, level in experiment.levels.items():
                for name, digest in level.inputs().items():
                    inputs[name if inputs.get(name, digest) == digest else f"{name} of level {label}"] = digest
                    self._inputs.setdefault((level.root, name), digest)
        _declared.update(map(os.path.realpath, opened.files))
        return inputs

    def _refuse_other_inputs(self, experiment: Experiment) -> None:
        seen: set[tuple[str | None, str]] = set()
        for level in experiment.levels.values():
            if {(level.root, name) for name in level.inputs()} <= seen:
                continue
            now = {(level.root, name): digest for name, digest in level.inputs(again=True).items()}
            if changed := sorted(name for root, name in now if self._inputs.get((root, name)) != now[root, name]):
                raise EditedError(changed)
            seen |= set(now)

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{digest_of(key)}.json"


def log_controls(path: Path, controls: Mapping[str, Control]) -> None:
    """Write down what the controls of a block said, label by label. Nothing was attacked in this block before."""
    private_folder(path.parent)
    with replacing(path, private=True) as partial:
        plain = {label: asdict(control) for label, control in controls.items()}
        partial.write_text(json.dumps(plain, indent=1), encoding="utf-8")


class _DamagedError(ValueError):
    """An entry that must not be used."""


def _read(path: Path, key: dict[str, Any], block: Block) -> tuple[BlockResult, Unkeyed]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"not JSON: {error}") from error
    if not isinstance(content, dict) or content.pop("digest", None) != digest_of(content):
        raise _DamagedError("its digest does not fit its content")
    if content["key"] != key:
        raise _DamagedError("it was stored for another setting")
    images = path.with_suffix(".npz")
    if content["pictures"] is not None and not (images.exists() and file_digest(images) == content["pictures"]):
        raise _DamagedError("its pictures are missing or changed")
    stored = content["result"]
    controls = {label: Control(**control) for label, control in stored["controls"].items()}
    result = BlockResult(
        **{**stored, "controls": controls, "block": block},
        pictures=() if content["pictures"] is None else (images,),
    )
    return result, Unkeyed(**content["read"])


def load_pictures(result: BlockResult) -> Arrays:
    """The stored pictures of a block, uint8 (n, C, H, W) by "LABEL/originals" and "LABEL/reconstructions"."""
    arrays: Arrays = {}
    for path in result.pictures:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays |= {name: file[name] for name in file.files}
        except zipfile.BadZipFile as error:
            raise ValueError(f"pictures: expected a readable file of arrays, got {path}: {error}") from error
    return arrays


def _to_plain(result: BlockResult) -> dict[str, Any]:
    content = {name: getattr(result, name) for name in ("levels", "valid", "seconds", "counts", "details")}
    return {**content, "controls": {label: asdict(control) for label, control in result.controls.items()}}


#: What runs a block, as far as a level's functions do not import it.
_HARNESS = ("gia.harness.blocks.executor",)


@functools.cache
def _recorded() -> dict[str, Any]:
    """What was there when a block was computed, whether it took part or not."""
    with numerics.reproducible(threads=1):
        return {"environment": numerics.environment(), "packages": list(packages())}


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else name
