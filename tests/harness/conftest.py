"""Fixtures of several modules: an inner pytest, an attack that is watched instead of run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gia.harness import scene
from tests.harness.baseline.stored import store
from tests.harness.inner_project import Inner
from tests.harness.toy import Spy, black


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """An empty inner project, away from any CI around this run."""
    return Inner(pytester, monkeypatch)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """No attack is run; what it would have been given is noted."""
    spy = Spy(black)
    monkeypatch.setattr(scene.attacks, "run_many", spy)
    return spy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of stored baselines with the one entry op/b1."""
    store(tmp_path / "batch_size.json")
    return tmp_path / "batch_size.json"
