"""Every test of this repository draws its examples by the profile "unit", and fails if it warns."""

from __future__ import annotations

import pytest
from hypothesis import settings

import gia.harness.decide.profiles  # noqa: F401 - registers the profile

settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make warnings errors while a test runs, whoever gives them; a test's own filters come after this one."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)
