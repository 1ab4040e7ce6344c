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
    """What the control of a block said."""

    passed: bool
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockResult:
    """One block.

    Attributes:
        levels: label of each level -> metric -> value; empty where the control failed.
        control: None where the first level has none.
        valid: whether the control passed.
        seconds: what the block cost when it was computed.
        counts, details: label of each level -> those of its result.
        cached: whether the block was computed in an earlier run.
        pictures: the stored files of arrays.
    """

    block: Block
    levels: Mapping[str, Mapping[str, float | None]]
    control: Control | None
    valid: bool
    seconds: float
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cached: bool = False
    pictures: tuple[Path, ...] = ()
