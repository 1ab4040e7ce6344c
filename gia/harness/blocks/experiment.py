"""An experiment: the levels that are compared inside each block."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gia.harness.blocks.level import Level


@dataclass(frozen=True)
class Experiment:
    """The levels that are compared inside each block, label -> level; a block is valid if the control of each passes.

    Raises ValueError without levels, for two labels with the same text, or where a level changes what `vary` draws (the
    draw would overwrite it), and TypeError for a setting that is no plain JSON.
    """

    id: str
    levels: Mapping[Any, Level]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("levels: expected at least one, got none")
        if len({str(label) for label in self.levels}) < len(self.levels):  # results are kept by the text
            raise ValueError(f"levels: expected labels that differ as text, got {list(self.levels)}")
        for level in self.levels.values():
            level.described()  # raises for what cannot cross to a worker
        for key in self.first.vary:
            whole = key.rpartition(".")[0]
            set_there = [level.at(key) for level in self.levels.values() if not whole or level.at(whole) is not None]
            if len({json.dumps(value, sort_keys=True, default=repr) for value in set_there}) > 1:
                raise ValueError(
                    f"levels: expected the same {key!r} in all, since it is drawn per block, got {set_there}"
                )

    @property
    def first(self) -> Level:
        """A of a pair, the first level of a trend; all levels draw the same block, so it stands for what they share."""
        return next(iter(self.levels.values()))
