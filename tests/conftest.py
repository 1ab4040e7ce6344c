"""Every test draws its examples by the profile "unit", begins with the same random state, and fails if it warns."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

import gia.harness.decide.profiles  # noqa: F401 - registers the profile

settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make warnings errors while a test runs, whoever gives them; a test's own filters come after this one."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)


def pytest_collection() -> None:
    """Seed what test modules draw while they are imported."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed what a test and its fixtures draw without a generator: else its outcome may be another one in each run."""
    _seed()


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is meant
    random.seed(0)
