"""Finished blocks on disk, under a digest of everything that their numbers depend on."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from gia import numerics
from gia.harness.blocks import Block
from gia.harness.controls import Control
from gia.harness.executor import Arrays, BlockResult
from gia.harness.protocol import Experiment, digest_of, plain
from gia.harness.run import Measure

_FORMAT = 1
_GIA = Path(__file__).parents[1]


class Store:
    """Block results by content: `<digest>.json`, and `<digest>.npz` with pictures where there are any.

    The digest covers all of gia's source and that of `sources` (protocols), the code of the callables in an experiment,
    every installed package by version, the arithmetic of this machine, the device, the block and every level's setting.
    Victims that blocks train are kept in `fits`, by `gia.federated.fit`.
    A file that is damaged is never used: `notice` gets one line that says so, and the block is computed again.
    """

    def __init__(
        self, folder: Path, *, sources: Iterable[Path] = (), notice: Callable[[str], object] | None = None
    ) -> None:
        self.folder = folder
        self.fits = folder / "fits"
        self._notice = notice
        self._computed: set[Path] = set()
        self._sources = source_digest([*_GIA.rglob("*.py"), *_GIA.rglob("*.toml"), *sources])

    def clear(self) -> None:
        """Forget every block of this store, and every victim that was trained for one."""
        for pattern in ("*.json", "*.npz", "*.partial", "fits/*"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def key(self, experiment: Experiment, block: Block, measure: Measure) -> dict[str, Any]:
        """Everything that the result of this block depends on, as plain JSON."""
        levels = {str(label): protocol.described() for label, protocol in experiment.levels.items()}
        callables = [
            measure,
            *(call for p in experiment.levels.values() for call in (p.edit, p.equip, p.judge, p.control) if call),
        ]
        devices = {protocol.device for protocol in experiment.levels.values()}
        return {
            "format": _FORMAT,
            "source": self._sources,
            "callables": {_named(call): _code_of(call.__module__) for call in callables},
            "machine": _machine(),
            "devices": {name: _device(name) for name in sorted(devices)},
            "experiment": experiment.id,
            "levels": [[label, described] for label, described in levels.items()],  # a list: their order counts
            "block": {"claim": block.claim, "index": block.index, "setting": dict(block.setting)},
        }

    def load(self, key: dict[str, Any], block: Block) -> BlockResult | None:
        """The stored result, marked as cached if it is from an earlier run; None if there is none to be trusted."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            return replace(_read(path, key, block), cached=path not in self._computed)
        except _DamagedError as damage:
            if self._notice is not None:
                self._notice(f"stored block {path.name} is damaged ({damage}); it is computed again")
            return None

    def save(self, key: dict[str, Any], result: BlockResult, pictures: Arrays) -> BlockResult:
        """Store a finished block, whole or not at all; returns it with the path of its pictures."""
        path = self._path(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        images = path.with_suffix(".npz")
        content: dict[str, Any] = {"key": key, "result": _to_plain(result), "pictures": None}
        if pictures:
            with _replacing(images) as file:
                np.savez_compressed(file, **pictures)  # type: ignore[arg-type]
            content["pictures"] = _sha256(images)
        content["digest"] = digest_of(content)
        with _replacing(path) as file:  # last: an entry is there when this file is
            file.write(json.dumps(content, indent=1, allow_nan=False).encode())
        self._computed.add(path)
        return replace(result, pictures=(images,) if pictures else ())

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{digest_of(key)}.json"


def source_digest(paths: Iterable[Path]) -> str:
    """Sixteen hex digits of the names and contents of source files, whatever their order or the folder above `gia`."""
    base = _GIA.parent
    names = {path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name: path for path in paths}
    return digest_of({name: _sha256(names[name]) for name in sorted(names)})


def _named(call: Callable[..., object]) -> str:
    """A function by module and name; an instance by its class, since its settings stand in the levels."""
    described = plain(call, "measure, edit or control")
    return str(described["class"] if isinstance(described, dict) else described)


class _DamagedError(ValueError):
    """An entry that must not be used."""


def _read(path: Path, key: dict[str, Any], block: Block) -> BlockResult:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise _DamagedError(f"not JSON: {error}") from error
    if not isinstance(content, dict) or content.pop("digest", None) != digest_of(content):
        raise _DamagedError("its digest does not fit its content")
    if content["key"] != key:
        raise _DamagedError("it was stored for another setting")
    images = path.with_suffix(".npz")
    if content["pictures"] is not None and not (images.exists() and _sha256(images) == content["pictures"]):
        raise _DamagedError("its pictures are missing or changed")
    stored = content["result"]
    control = None if stored["control"] is None else Control(**stored["control"])
    return BlockResult(
        **{**stored, "control": control, "block": block},
        pictures=() if content["pictures"] is None else (images,),
    )


def load_pictures(result: BlockResult) -> Arrays:
    """The stored pictures of a block, uint8 (n, C, H, W) by "LABEL/originals" and "LABEL/reconstructions"."""
    found: Arrays = {}
    for path in result.pictures:
        try:
            with np.load(path, allow_pickle=False) as file:
                found |= {name: file[name] for name in file.files}
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: not a readable file of pictures: {error}") from error
    return found


def _to_plain(result: BlockResult) -> dict[str, Any]:
    return {
        "levels": {label: dict(values) for label, values in result.levels.items()},
        "control": None if result.control is None else asdict(result.control),
        "valid": result.valid,
        "seconds": result.seconds,
        "gradient_evaluations": result.gradient_evaluations,
        "details": {label: dict(values) for label, values in result.details.items()},
    }


@functools.cache
def _machine() -> dict[str, str]:
    """Arithmetic as it is in a worker, and every installed package: a change of any of them is a new key."""
    # Setuptools, once it is imported, puts the packages that it brings for itself on the path.
    path = [folder for folder in sys.path if Path(folder).name != "_vendor"]
    packages = sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions(path=path)})
    with numerics.reproducible(threads=1):
        return {**numerics.environment(), "fingerprint": numerics.fingerprint(), "packages": digest_of(packages)}


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else name


def _code_of(module: str) -> str:
    source = getattr(sys.modules[module], "__file__", None)
    return "" if source is None else _sha256(Path(source))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when it is complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
