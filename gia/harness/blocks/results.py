"""What a finished block holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gia.harness.blocks.block import Block

#: "LEVEL/NAME" -> array, for pictures.
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Control:
    """What the control of a level said; `values` may hold "found" and "truth", the data terms that it compared."""

    passed: bool
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockResult:
    """One block.

    Attributes:
        levels: label of each level -> metric -> value; empty where the block is void, unless void blocks were measured.
        controls: label of each level that was controlled -> what its control said. The first failure ends the
            controls of a block, unless void blocks are measured.
        valid: whether all controls passed.
        seconds: what the block cost when it was computed.
        counts, details: label of each level -> those of its result.
        cached: whether the block was computed in an earlier run.
        pictures: the stored files of arrays.
    """

    block: Block
    levels: Mapping[str, Mapping[str, float | None]]
    controls: Mapping[str, Control]
    valid: bool
    seconds: float
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cached: bool = False
    pictures: tuple[Path, ...] = ()
