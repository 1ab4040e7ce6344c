"""Learned inverters: do they need auxiliary images like those they attack? (arXiv 2503.11514, Table I.)

The cells of the matrix for Learning to Invert are in the factor modules.
"""

from __future__ import annotations

import pytest

from claims.scales import Scale
from gia.harness.plugin.claims import Claims


@pytest.mark.claim("gen_inv.auxiliary/2")
def test_an_inverter_needs_auxiliary_images_like_those_it_attacks(claims: Claims, scale: Scale) -> None:
    """Faces attacked by inverters of other people's faces and of digits; one of noise is shown after the pair.

    The attacked people are never among the auxiliary ones.
    """
    row = scale.ROWS["gen_inv.auxiliary/2"]
    claims.paired("gen_inv.auxiliary/2", row.protocol, levels=tuple(row.levels), change=row.change)
