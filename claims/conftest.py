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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make warnings errors while a test runs, as tests/conftest.py does where claims are not collected."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)
