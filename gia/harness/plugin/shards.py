"""The share of one run in an array of runs that fill one store, each on its own machine.

Shares are of rows, since only a run that sees all blocks of a row knows whether it needs further ones. Every count-th
row belongs to one share: neighbours in a module cost about the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Share:
    """Part `index`, from 1, of `count`.

    >>> Share(2, 3).of(["a", "b", "c", "d", "e"])
    ['b', 'e']
    """

    index: int
    count: int

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of this share: each row belongs to exactly one of them."""
        return list(rows[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share(text: str) -> Share:
    """The share behind the option `--shard`.

    Raises:
        ValueError: it is not I/N with I from 1 to N.

    >>> share("2/8")
    Share(index=2, count=8)
    """
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is not None and 1 <= int(found[1]) <= int(found[2]):
        return Share(int(found[1]), int(found[2]))
    raise ValueError(f"expected I/N with I from 1 to N, such as 2/8, got {text!r}")
