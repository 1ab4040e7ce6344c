"""Equal labels: do images that share a label protect each other? (arXiv 2503.11514, Sec. IV-B, Fig. 5 and Table I.)"""

from __future__ import annotations

import pytest

from claims.changes import with_equal_labels
from claims.factors import attack_types, decide
from claims.scales import Scale
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("same_labels"))
def test_same_labels(claims: Claims, scale: Scale, attack_type: str) -> None:
    """With every further image of the same label: OP-GIA's PSNR falls from 22.03 dB to 14.03 dB for four of four."""
    decide(claims, scale, attack_type, "same_labels", with_equal_labels)
