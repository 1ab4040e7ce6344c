"""An attack that is watched instead of run."""

from __future__ import annotations

import pytest

from gia.experiment import exchange
from tests.unit.experiment.toy import Spy, black


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Replaces all attacks: none is run, and what it would have been given is recorded."""
    spy = Spy(black)
    monkeypatch.setattr(exchange.attacks, "run_many", spy)
    return spy
