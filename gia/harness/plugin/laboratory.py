"""What the harness is handed in by the option `claims_experiment`: a module that can measure, name metrics and draw."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from gia.harness.baseline.file import Quantity
from gia.harness.blocks.level import Measure

#: Level -> the level with another attack, or a sentence that says why that attack cannot take it.
Substitution = Callable[[Any], Any]


class Laboratory(Protocol):
    """A module such as `gia.experiment`."""

    @property
    def measure(self) -> Measure:
        """(level, block, *, cache) -> result."""

    @property
    def METRICS(self) -> Mapping[str, Quantity]:
        """Metric -> its unit, its better side, and how far it may move."""

    def substitution(self, attack: str, settings: Mapping[str, Any], /) -> Substitution:
        """What puts an attack in the place of a level's own. Raises ValueError or TypeError where there is none."""

    def draw(
        self, folder: Path, id: str, values: np.ndarray, /, *, levels: Sequence[str], **options: Any
    ) -> list[Path]:
        """Write the pictures of a row and return their files."""


def load(name: str) -> Laboratory:
    """The module of that name. Raises ValueError where it lacks one of the four."""
    module = importlib.import_module(name)
    for attribute in ("measure", "METRICS", "substitution", "draw"):
        if not hasattr(module, attribute):
            raise ValueError(f"claims_experiment: expected a module with {attribute!r}, got {name}")
    return cast(Laboratory, module)
