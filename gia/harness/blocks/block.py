"""A block: one random setting of a claim, and the source of all its randomness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gia.numerics import generator_of

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Block:
    """One random setting of a claim: the unit of work, of storage and of the statistics.

    Args:
        claim: id of the claim.
        index: position among the claim's blocks of its lane, from 0.
        setting: factor to the drawn value, sorted by factor; empty where nothing is varied.
        lane: what the block is drawn for, such as "pilot", "claims" or "reach". Lanes share no random numbers, so what
            was seen in one of them says nothing about the next one's draws.

    >>> from gia.harness.blocks.block import Block
    >>> Block("op.batch_size", 3, {"victim.width": 16})
    Block(claim='op.batch_size', index=3, setting={'victim.width': 16}, lane='claims')
    """

    claim: str
    index: int
    setting: Mapping[str, Scalar]
    lane: str = "claims"

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A new CPU generator for one purpose (victim, images, start...), the same in every process and machine.

        It depends on the lane, the claim, the index and the purpose, and neither on the setting nor on what was drawn
        before. Raises TypeError for a part of the purpose that is neither a string nor an integer.
        """
        return generator_of(self.lane, self.claim, self.index, *purpose)
