"""The fixtures of a project with a register."""

from __future__ import annotations

import pytest

from gia.harness.baseline.check import Baselines
from gia.harness.plugin.checks import under_xdist
from gia.harness.plugin.claims import Claims
from gia.harness.plugin.options import foreign
from gia.harness.plugin.run import RUN
from gia.harness.timing.goals import Timings


@pytest.fixture(scope="session")
def claims(request: pytest.FixtureRequest) -> Claims:
    """Runs experiments, decides and records: see `gia.harness.plugin.claims.Claims`."""
    if under_xdist(request.config):
        pytest.fail("claims have worker processes already (--gia-workers): run them without -n", pytrace=False)
    return request.config.stash[RUN].claims


@pytest.fixture(scope="session")
def baselines(request: pytest.FixtureRequest) -> Baselines:
    """The stored samples: `baselines.open("batch_size")` is the file baselines/batch_size.json."""
    if foreign(request.config.option):
        pytest.skip("not tried: baselines are of the protocols' own attacks and defenses")
    return request.config.stash[RUN].baselines


@pytest.fixture(scope="session")
def timings(request: pytest.FixtureRequest) -> Timings:
    """Records what was timed and compares it with its goals: see `gia.harness.timing.goals.Timings`."""
    return request.config.stash[RUN].timings.timings
