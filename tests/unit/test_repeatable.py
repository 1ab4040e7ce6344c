"""A test that draws without a generator sees the same numbers in each run, or the gate would close by accident."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


def draws():
    """From the three global random states."""
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002 - they are meant


@pytest.fixture
def drawn_before():
    """What a fixture draws before the test that asks for it."""
    return draws()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_begins_with_the_same_random_state(turn):
    """If it fails, a test without a generator fails in one run of many."""
    of_torch = torch.rand(2, generator=torch.Generator().manual_seed(0)).tolist()
    assert draws() == (of_torch, np.random.RandomState(0).rand(2).tolist(), random.Random(0).random())


@pytest.mark.parametrize("turn", [1, 2])
def test_its_fixtures_do_too(drawn_before, turn):
    """If it fails, a network that a fixture makes is another one in each run."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    assert drawn_before == draws()
