"""What the harness is handed in by the option `claims_experiment`: a module that measures and draws."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from gia.harness.baseline.file import Quantity
from gia.harness.blocks.level import Measure

#: Level -> the level with the user's attack or defenses, or a sentence that says why these cannot take it.
Substitution = Callable[[Any], Any]


class Cost(Protocol):
    """What a level of one block costs.

    Attributes:
        steps: of its search.
        step: seconds of a step.
        seconds: of all steps.
        memory: bytes at the peak.
        without: what is not counted, in words.
    """

    @property
    def steps(self) -> int: ...

    @property
    def step(self) -> float: ...

    @property
    def seconds(self) -> float: ...

    @property
    def memory(self) -> int: ...

    @property
    def without(self) -> Sequence[str]: ...


class Laboratory(Protocol):
    """A module such as `gia.experiment`. For `--plan` it has `cost(level) -> Cost` too, which raises ValueError."""

    @property
    def measure(self) -> Measure:
        """(level, block, *, cache) -> result."""

    @property
    def METRICS(self) -> Mapping[str, Quantity]:
        """Metric -> its unit, its better side, and how far it may move."""

    def substitution(self, attack: str, settings: Mapping[str, Any], /) -> Substitution:
        """What puts an attack in the place of a level's own. Raises ValueError or TypeError where there is none."""

    def defended(self, specs: Sequence[str], /) -> Substitution:
        """What puts the user's defenses into a level. Raises ValueError or TypeError where there are none."""

    @property
    def PLACEBOS(self) -> Sequence[str]:
        """Names that `placebo` takes."""

    def placebo(self, name: str, /, *, controlled: bool) -> Callable[[Any, int], Any]:
        """What puts a placebo in the place of a level's attack: (level, position among the levels) -> level.

        Without `controlled` the level has no control.
        """

    def draw_reach(
        self, folder: Path, id: str, draws: Sequence[Mapping[str, Any]], /, *, margin: float | None, unit: str
    ) -> list[Path]:
        """Write the specification curve of a row and return its files."""

    def draw(
        self, folder: Path, id: str, values: np.ndarray, /, *, levels: Sequence[str], **options: Any
    ) -> list[Path]:
        """Write the pictures of a row and return their files."""


def load(name: str) -> Laboratory:
    """The module of that name. Raises ValueError where it lacks one of these."""
    module = importlib.import_module(name)
    for attribute in ("measure", "METRICS", "substitution", "defended", "PLACEBOS", "placebo", "draw", "draw_reach"):
        if not hasattr(module, attribute):
            raise ValueError(f"claims_experiment: expected a module with {attribute!r}, got {name}")
    return cast(Laboratory, module)
