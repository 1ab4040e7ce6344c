"""Resolution: do larger images resist, and more than larger batches? (arXiv 2503.11514, Sec. IV-B and Remark 1.)"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from claims.factors import attack_types, decide, table
from claims.protocols import CELLS
from claims.protocols.changes import pinned, resized

#: From one image of so many pixels a side, either the batch or height and width are doubled.
SIDE = {"reduced": 32, "paper": 64}


@pytest.mark.parametrize("attack_type", attack_types("resolution"))
def test_resolution(claims, attack_type):
    """The same images at larger sides, per doubling: OP-GIA's SSIM is .765 at 32 px and .398 at 224 px."""
    decide(claims, attack_type, "resolution", resized, math.log2)


@pytest.mark.claim("op.resolution_over_batch")
def test_doubling_the_sides_costs_more_than_doubling_the_batch(claims):
    """PSNR from one image of twice the side lies below that from two images at once; neither stands beside them.

    Single images are those of `op.resolution`, on the same blocks; two at once have a control of their own.
    """
    protocol, side = CELLS[claims.scale]["resolution"]["op"].protocol, SIDE[claims.scale]

    def two_at_once(protocol, _):
        return replace(protocol, image_size=side, batch_size=2)

    def blocks(count):
        two = claims.table("op.resolution", protocol, levels=(f"two of {side}",), change=two_at_once, blocks=count)
        return two.beside(table(claims, "op", "resolution", resized, count)).of(f"two of {side}", 2 * side, side)

    claims.paired("op.resolution_over_batch", blocks)


@pytest.mark.baseline
@pytest.mark.parametrize("side", [16, 48])
def test_quality_is_that_on_record(baseline, side):
    """An attack that became worse, or better, than its stored sample changed: on purpose, or by a regression."""
    pin = pinned(replace(CELLS["reduced"]["resolution"]["op"].protocol, data="photos"))
    protocol = resized(replace(pin, images=1, pattern_batch=None, score=("psnr", "ssim", "rmse")), side)
    baseline.check_level(f"op/side={side}", protocol)
