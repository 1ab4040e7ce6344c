"""Batch size: does a larger batch protect its images? (arXiv 2503.11514, Sec. IV-B, Fig. 3a and Table I.)"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from claims.protocols import BATCH_SIZES, PROTOCOLS, batches_of

REPORTED = json.loads((Path(__file__).parents[1] / "baselines" / "reported.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("attack_type", [pytest.param("op", marks=pytest.mark.claim("op.batch_size"))])
def test_larger_batches_are_harder_to_invert(claims, attack_type):
    """PSNR falls with every doubling of the batch; the paper's SSIM falls from .765 at B=1 to .513 at B=64."""
    paper = REPORTED["fig3a_ig_resnet18_ssim"]["cifar100_untrained"]
    claims.trend(
        f"{attack_type}.batch_size",
        PROTOCOLS[claims.scale][attack_type],
        levels=BATCH_SIZES[claims.scale],
        change=batches_of,
        x=math.log2,
        reported={int(batch_size): value for batch_size, value in paper.items()},
        reported_as="the paper's CW-SSIM, CIFAR-100",
    )
