"""Drawing blocks: the random settings that a claim is tried on are read from a hash, one factor at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

from gia.harness.blocks.block import Block, Scalar


def draw_block(claim: str, index: int, space: Mapping[str, Sequence[Scalar]], *, lane: str) -> Block:
    """The block of a claim at one index of a lane.

    Each factor takes `values[int(sha256(json([lane, claim, index, factor]))) % len(values)]`. So factors and indices
    are drawn independently, a new factor changes no other factor's draws, and no library takes part whose next version
    could draw differently. Two blocks may have the same setting; their victims, images and starts differ all the same.

    Args:
        claim: id of the claim.
        index: position among the claim's blocks of this lane, from 0.
        space: factor to its values, all different. The order of the factors does not matter, that of the values does.
        lane: what the block is drawn for.

    Raises:
        TypeError: a factor is no string, or a value no JSON scalar.
        ValueError: index < 0, or a factor has no values, repeated ones or a non-finite one.

    >>> from gia.harness.blocks.drawing import draw_block
    >>> space = {"victim.width": (16, 24, 32), "batch.data": ("photos", "faces")}
    >>> draw_block("op.batch_size", 3, space, lane="claims").setting
    {'batch.data': 'faces', 'victim.width': 16}
    """
    if index < 0:
        raise ValueError(f"index: expected at least 0, got {index}")
    _check_space(space)
    setting = {factor: space[factor][_number(lane, claim, index, factor) % len(space[factor])] for factor in space}
    return Block(claim, index, dict(sorted(setting.items())), lane)


def draw_blocks(
    claim: str, space: Mapping[str, Sequence[Scalar]], count: int, *, lane: str = "claims", first: int = 0
) -> list[Block]:
    """Draw `count` consecutive blocks of a claim, beginning with index `first`.

    The same arguments give the same blocks in every process, and fewer blocks are the beginning of more:
    `draw_blocks(c, s, 8) == draw_blocks(c, s, 16)[:8]`.

    Args:
        claim, space, lane: as in `draw_block`.
        count: number of blocks, at least 1.
        first: index of the first one.

    Raises:
        TypeError: as `draw_block`.
        ValueError: as `draw_block`, and for count < 1.

    >>> from gia.harness.blocks.drawing import draw_blocks
    >>> [block.setting["width"] for block in draw_blocks("op.batch_size", {"width": (16, 24, 32)}, 5)]
    [16, 16, 24, 32, 16]
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    return [draw_block(claim, index, space, lane=lane) for index in range(first, first + count)]


def _number(*parts: str | int) -> int:
    return int(hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest(), 16)


def _check_space(space: Mapping[str, Sequence[Scalar]]) -> None:
    for name, values in space.items():
        if not isinstance(name, str):
            raise TypeError(f"space: expected strings as factors, got {name!r}")
        for value in values:
            if value is not None and not isinstance(value, str | int | float | bool):
                raise TypeError(f"space[{name!r}]: expected JSON scalars, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"space[{name!r}]: expected finite numbers, got {value!r}")
        if not values:
            raise ValueError(f"space[{name!r}]: expected at least one value, got none")
        if len({json.dumps(value) for value in values}) < len(values):
            raise ValueError(f"space[{name!r}]: expected different values, got {list(values)}")
