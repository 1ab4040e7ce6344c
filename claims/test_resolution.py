"""Resolution: do larger images resist, and more than larger batches? (arXiv 2503.11514, Sec. IV-B and Remark 1.)"""

from __future__ import annotations

import math

import pytest

from claims.changes import resized
from claims.factors import attack_types, decide, table
from claims.scales import Scale
from gia.harness.decide.table import Table
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("resolution"))
def test_resolution(claims: Claims, scale: Scale, attack_type: str) -> None:
    """The same images at more pixels, per doubling of both sides: OP-GIA's SSIM is .765 at 32 px and .398 at 224 px."""
    decide(claims, scale, attack_type, "resolution", resized, x=math.log2)


@pytest.mark.claim("op.resolution_over_batch")
def test_doubling_the_sides_costs_more_than_doubling_the_batch(claims: Claims, scale: Scale) -> None:
    """PSNR from one image of twice the height and width lies below that from two images at once.

    One image of the smaller size is shown after the pair. Single images are those of `op.resolution`, on the same
    blocks; two at once have a separate control.
    """
    row = scale.ROWS["op.resolution_over_batch"]
    two_at_once, *single = row.levels

    def blocks(count: int) -> Table:
        two = claims.table("op.resolution", row.protocol, levels=(two_at_once,), change=row.change, blocks=count)
        return two.joined(table(claims, scale, "op", "resolution", resized, count)).of(two_at_once, *single)

    claims.paired_of("op.resolution_over_batch", blocks)
