"""The lanes of a run: which blocks a claim draws, how often it is looked at, and whether void blocks are measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

#: claims: the first look. pilot: for choosing settings. confirm: the verdicts that are published. reach: many settings.
LANES = ("claims", "pilot", "confirm", "reach")

#: Settings that reach draws for each row, and how many of them it draws again with another seed.
DRAWS = 24
DRAWN_AGAIN = 16


@dataclass(frozen=True)
class Lane:
    """How a session draws and looks.

    Args:
        name: one of `LANES`.
        placebo: what takes the place of each attack, on the blocks of the lane "claims", so that victims are shared;
            "all" tries one after the other.
        opening: only ask which rows there are, and with which protocols.
        draws: number of settings in the lane "reach".
        early: whether a look ends once it is certain to be inconclusive, as the record says.

    >>> Lane("confirm").looks, Lane("claims").looks
    (3, 1)
    """

    name: str = LANES[0]
    placebo: str | None = None
    opening: bool = False
    draws: int = DRAWS
    early: bool = False

    @property
    def looks(self) -> int:
        """How many looks a row may have."""
        return 3 if self.name == "confirm" else 1

    @property
    def suffix(self) -> str:
        """What the folder of the run has behind its name."""
        parts = [self.name] if self.name != LANES[0] else []
        parts += [f"placebo-{self.placebo}"] if self.placebo else []
        parts += ["announced"] if self.opening else []
        return "".join(f"-{part}" for part in parts)

    def of_blocks(self, experiment: str, frozen: str | None) -> str:
        """The lane in the seed of a block; that of a confirm run holds a salt, which nobody knew before `frozen`.

        Reach asks about the blocks of the confirm run, and before one is announced about those of the lane "claims".

        Args:
            experiment: the name that its blocks are drawn under.
            frozen: the hash of the commit at which the confirm run was announced; None without one.

        >>> Lane("pilot").of_blocks("op.size", None)
        'pilot'
        """
        if self.name not in ("confirm", "reach"):
            return self.name
        if frozen is None and self.name == "reach":
            return LANES[0]
        if frozen is None:
            raise ValueError(f"frozen: expected the commit at which a confirm run of {experiment!r} was announced")
        return f"confirm:{hashlib.sha256(f'{frozen} {experiment}'.encode()).hexdigest()}"
