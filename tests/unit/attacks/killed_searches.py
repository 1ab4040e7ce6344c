"""Searches of two clients by real attacks, which a callback kills at a step."""

from __future__ import annotations

import pytest
import torch

from gia.attacks import checkpointing, run_many
from gia.numerics.checkpoints import checkpoints_of
from tests.contracts.cases import CASES, build, share
from tests.contracts.fresh import equipped
from tests.contracts.snapshots import same_reconstruction


class Killed(Exception):
    """Stands in for a kill: it leaves the attack in the middle of its search."""


def killer(step):
    """A callback that kills the search before this step; None for one that counts only."""

    def call(progress):
        call.steps.append(progress.step)
        if progress.step == step:
            raise Killed

    call.steps = []
    return call


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim(name):
    """An attack's easy victim, what two of its clients share, and settings."""
    case = CASES[name]
    model = build(case, torch.float32)
    chosen = [case.batch(0, 1), case.batch(2, 3)]
    return model, [share(case, model, *each) for each in chosen], equipped({**case.settings, **case.quick})


def run(name, step=None, **settings):
    """Reconstructions of two clients, the states of their generators, and the steps that were taken."""
    model, observations, easy = victim(name)
    generators, callback = [seeded(1), seeded(2)], killer(step)
    found = run_many(name, model, observations, generators=generators, **{**easy, **settings, "callback": callback})
    return found, [generator.get_state() for generator in generators], callback.steps


def same(one, other):
    """Whether two runs agree in every bit, apart from the steps that they took."""
    images = all(same_reconstruction(*pair) for pair in zip(one[0], other[0], strict=True))
    return images and all(torch.equal(*pair) for pair in zip(one[1], other[1], strict=True))


#: Of a short search.
SETTINGS = {"steps": 9}


def killed_at(step, path, **settings):
    """A search that was killed at a step; returns its file."""
    with pytest.raises(Killed), checkpointing(path, every=0):
        run("inverting_gradients", step, **{**SETTINGS, **settings})
    (file,) = checkpoints_of(path)
    return file
