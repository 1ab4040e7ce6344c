"""Recovers the original: is the result the attacked image, or another of its class? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

import pytest

from claims.changes import unchanged
from claims.factors import attack_types, decide
from claims.scales import Scale
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("original"))
def test_original(claims: Claims, scale: Scale, attack_type: str) -> None:
    """PSNR to the attacked image against PSNR to another image with its label, which a look-alike is as near to."""
    decide(claims, scale, attack_type, "original", unchanged, value=("psnr", "psnr_other"))
