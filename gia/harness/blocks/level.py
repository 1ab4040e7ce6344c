"""What the harness knows of a level and of its result: their structure, and nothing of what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gia.harness.blocks.block import Block, Scalar


class Level(Protocol):
    """One setting of the compared factor, such as a `gia.experiment.Protocol`; it can be pickled."""

    @property
    def vary(self) -> Mapping[str, tuple[Any, ...]]:
        """Dotted key -> the values from which a block's setting is drawn."""

    @property
    def device(self) -> str:
        """Where it is measured, "cpu" or "cuda"."""

    @property
    def dtype(self) -> str:
        """ "float32" or "float64"."""

    @property
    def root(self) -> str | None:
        """The folder of the user's data; None if there is none."""

    @property
    def control(self) -> Callable[..., Control] | None:
        """(level, block, *, cache) -> whether the path from the images to a result works at this level; None: no check.

        It runs in each block before anything is attacked there.
        """

    def at(self, key: str) -> Any:
        """The value at a dotted key, None where there is none."""

    def with_budget(self, factor: int) -> Any:
        """This level with `factor` times the budget of its attack; None where the attack has no budget."""

    def placed(self, *, device: str, root: str | None) -> Any:
        """This level on a device, with the user's data in the folder `root`."""

    def described(self) -> dict[str, Any]:
        """Everything that is set, as plain JSON. Raises TypeError for a value that has no such form."""

    def digest(self) -> str:
        """Of `described()`."""

    def callables(self) -> Iterable[Callable[..., object]]:
        """The functions that take part; their source is in the key of a stored block."""

    def inputs(self, *, again: bool = False) -> Mapping[str, str]:
        """Name of each data set and weight file that takes part -> digest of its content, for the same key.

        With `again` what was read before is read once more, to see whether it changed while blocks were computed.
        """


class Control(Protocol):
    """Whether a level of a block can say anything, and what was seen."""

    @property
    def passed(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    @property
    def values(self) -> Mapping[str, float]: ...


class Result(Protocol):
    """What one level of one block comes to."""

    @property
    def values(self) -> Mapping[str, float | None]:
        """Metric -> its value, None where it is not defined."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted, such as gradient evaluations."""

    @property
    def details(self) -> Mapping[str, Any]:
        """Plain JSON that decides nothing."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """For pictures."""


class Measure(Protocol):
    """A module-level function, so that worker processes can look it up."""

    def __call__(self, level: Any, block: Block, /, *, cache: Path | None) -> Result: ...


__all__ = ["Block", "Control", "Level", "Measure", "Result", "Scalar"]
