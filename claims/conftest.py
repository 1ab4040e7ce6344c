"""What the tests of all claims share."""

from __future__ import annotations

import pytest

from claims import scales
from claims.scales import Scale
from gia.harness.plugin.claims import Claims


@pytest.fixture
def scale(claims: Claims) -> Scale:
    """The protocols, cells and rows of this run's scale."""
    return scales.at(claims.scale)
