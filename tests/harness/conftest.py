"""Fixtures of several modules: an inner pytest, a file of stored baselines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401 - an inner pytest forgets what it imported first, and this cannot be imported twice

from tests.harness.baseline.stored import store
from tests.harness.plugin.inner_project import Inner


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether CI runs these tests decides nothing in them; a test of CI says so itself."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """An empty inner project, away from any CI around this run."""
    return Inner(pytester, monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of stored baselines with the one entry op/b1."""
    store(tmp_path / "batch_size.json")
    return tmp_path / "batch_size.json"
