"""Fixtures of the tests that run an inner pytest."""

from __future__ import annotations

import pytest

from tests.harness.inner_project import Inner


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """An empty inner project, away from any CI around this run."""
    return Inner(pytester, monkeypatch)
