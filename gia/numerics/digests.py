"""Seeds and digests: the same numbers for the same content, in every process and on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch


def generator_of(*parts: str | int) -> torch.Generator:
    """A new CPU generator whose seed depends on `parts` only, so that every process and machine draws the same numbers.

    The seed is the first eight bytes (big endian) of the SHA-256 of `json.dumps(list(parts))`. Give each purpose its
    own parts: two purposes then draw independently, and neither changes when the other draws more numbers.

    Args:
        *parts: what the random numbers are for, for example an experiment, an index and a purpose.

    Returns:
        A generator on the CPU.

    Raises:
        TypeError: a part is neither a str nor an int (a bool is refused, too).

    >>> import torch
    >>> from gia.numerics import generator_of
    >>> torch.randperm(6, generator=generator_of("experiment", 3, "images")).tolist()
    [5, 2, 4, 1, 3, 0]
    >>> generator_of("experiment", 3, "start").initial_seed()
    13673956423491620716
    """
    for part in parts:
        if not isinstance(part, str | int) or isinstance(part, bool):
            raise TypeError(f"parts: expected strings and integers, got {part!r}")
    digest = hashlib.sha256(json.dumps(list(parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def digest_of(content: Any) -> str:
    """Sixteen hex digits of the SHA-256 of plain JSON content; the order of keys makes no difference.

    Args:
        content: what `json.dumps` takes: dicts with string keys, lists, strings, finite numbers, True, False and None.
            Tuples count as lists.

    Raises:
        TypeError: the content holds another type.
        ValueError: the content holds NaN or infinity.

    >>> from gia.numerics import digest_of
    >>> digest_of({"batch_size": 4, "attack": "dlg"}) == digest_of({"attack": "dlg", "batch_size": 4})
    True
    >>> digest_of([1, 2.5, None])
    'c8638c12c745b295'
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """Sixteen hex digits of the SHA-256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.

    >>> import gia.data.assets
    >>> from gia.numerics import file_digest
    >>> file_digest(gia.data.assets.files("digits")[0])
    '09f66e6debdee2cd'
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
