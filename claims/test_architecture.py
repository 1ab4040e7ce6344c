"""Architecture: do deeper residual networks protect an image? (arXiv 2503.11514, Sec. IV-B, Fig. 3b and Table I.)"""

from __future__ import annotations

import pytest

from claims.changes import on_network
from claims.factors import attack_types, decide
from claims.scales import Scale
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("architecture"))
def test_architecture(claims: Claims, scale: Scale, attack_type: str) -> None:
    """The same images behind another network: OP-GIA's SSIM .766/.618/.423/.317 for ResNet-18/34/50/101."""
    decide(claims, scale, attack_type, "architecture", on_network)


@pytest.mark.claim("op.depth_over_batch")
def test_depth_protects_one_image_better_than_a_large_batch_does(claims: Claims, scale: Scale) -> None:
    """PSNR of one image in the deep net lies below that of a large batch in the shallow one; .423 and .513 in SSIM."""
    row = scale.ROWS["op.depth_over_batch"]
    claims.paired("op.depth_over_batch", row.protocol, levels=tuple(row.levels), change=row.change)
