"""Recovers the original: is the result the attacked image, or another of its class? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

import pytest

from claims.factors import attack_types
from claims.protocols import CELLS


@pytest.mark.parametrize("attack_type", attack_types("original"))
def test_original(claims, attack_type):
    """PSNR to the attacked image against PSNR to another image with its label, which a look-alike is as near to."""
    cell = CELLS[claims.scale]["original"][attack_type]
    claims.cell(
        f"{attack_type}.original",
        cell.protocol,
        levels=cell.levels,
        change=lambda protocol, level: protocol,
        value=("psnr", "psnr_other"),
    )
