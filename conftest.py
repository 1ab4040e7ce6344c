"""Warnings are errors while a test runs, whoever gives them; a test's own filters come after this one."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the filter before those of the test itself."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)
