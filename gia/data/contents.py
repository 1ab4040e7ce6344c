"""What a data set holds, as a digest: two sets of one name are told apart by it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gia.data import assets
from gia.data.bundled import BUNDLED
from gia.data.full import FULL, full_digest
from gia.errors import expected_one_of

__all__ = ["content_digest"]


def content_digest(name: str, *, root: str | Path | None = None, again: bool = False) -> str:
    """SHA-256 of what stands behind a name: the files of an installed package, or images and labels of a full set.

    Of a full set only the images count that `gia.data.load` takes without further arguments. Everything is read once in
    a process.

    Args:
        name: a data set that `gia.data.load` knows.
        root: the folder of the full sets; other names ignore it.
        again: whether to read everything once more, to see whether it changed.

    Returns:
        64 hex digits.

    Raises:
        ValueError: an unknown name, or a full set without `root`.
        FileNotFoundError, gia.data.assets.AssetError: as `gia.data.load`.

    >>> from gia.data.contents import content_digest
    >>> content_digest("digits")[:16]
    '09f66e6debdee2cd'
    """
    if name in BUNDLED:
        return (_bundled_digest.__wrapped__ if again else _bundled_digest)(name)
    if name not in FULL:
        raise ValueError(expected_one_of("name", name, (*BUNDLED, *FULL)))
    if root is None:
        raise ValueError(f"root: expected the folder that holds {FULL[name].folder} for {name}, got None")
    return (full_digest if again else _full_digest)(name, Path(root).expanduser().absolute())


@cache
def _bundled_digest(name: str) -> str:
    assets.files(name)  # raises where the files are not those of the digest
    return assets.ASSETS[name].digest


_full_digest = cache(full_digest)
