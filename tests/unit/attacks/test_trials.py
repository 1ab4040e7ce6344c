"""One attack over trials, called for one observation."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from gia import Observation
from gia.attacks import CARDS, Reconstruction, run_many
from gia.attacks.optimization import dlg
from gia.attacks.trials import Card, attack
from tests.contracts.cases import CASES, build, share

CARD = Card(leaf="OP", needs=frozenset(), iterative=False, source="made up")


@attack(CARD)
def made_up(model, observations, *, generators, setting=1):
    """Returns what it was given.

    The second line."""
    assert torch.is_grad_enabled()
    return [
        Reconstruction(images=torch.full((1, 3, 2, 2), float(setting)), objective=float(len(observations)))
        for _ in observations
    ]


def test_one_trial_is_a_list_of_one():
    """If it fails, `ATTACKS[name]` and `run_many` are two implementations."""
    case = CASES["dlg"]
    model = build(case, torch.float32)
    observation = share(case, model, 0)
    with torch.no_grad():
        found = made_up(model, observation, generator=torch.Generator(), setting=5)
        many = run_many(made_up, model, [observation] * 2, generators=[torch.Generator()] * 2)
    assert (found.objective, found.images.unique().tolist()) == (1, [5])
    assert [each.objective for each in many] == [2, 2]


def test_it_shows_the_signature_that_it_has():
    """If it fails, help() and editors show arguments that the call does not take."""
    parameters = inspect.signature(made_up).parameters
    assert list(parameters) == ["model", "observation", "generator", "setting"]
    assert parameters["observation"].annotation is Observation
    assert parameters["generator"].annotation is torch.Generator
    assert inspect.signature(made_up).return_annotation is Reconstruction
    assert made_up.__name__ == "made_up"
    assert made_up.__doc__.startswith("Returns what it was given.")
    assert made_up.card is CARD
    assert pickle.loads(pickle.dumps(dlg)) is dlg


def test_cards_and_reconstructions_cannot_be_changed():
    """If it fails, one caller edits what all others read."""
    with pytest.raises(FrozenInstanceError):
        CARDS["dlg"].leaf = "GEN-z"
    with pytest.raises(FrozenInstanceError):
        Reconstruction(images=torch.zeros(1, 3, 2, 2)).objective = 0.0
