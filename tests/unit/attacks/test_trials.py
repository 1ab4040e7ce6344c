"""What makes a function an attack: its signature, its form over trials, its checks and its card."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from gia.attacks import ATTACKS, CARDS, Card, Reconstruction, dlg, run_many
from gia.attacks.trials import attack, settings_of
from tests.contracts.cases import CASES, build, share

CARD = Card(leaf="OP", needs=frozenset(), iterative=False, source="made up")


def over_trials(model, observations, *, generators, setting):
    """Returns what it was given."""
    assert torch.is_grad_enabled()
    return [
        Reconstruction(images=torch.full((1, 3, 2, 2), float(setting)), objective=float(len(observations)))
        for _ in observations
    ]


@attack(CARD, many=over_trials)
def made_up(model, observation, *, generator, setting: int = 1) -> Reconstruction:
    """Returns what it was given."""
    return over_trials(model, [observation], generators=[generator], setting=setting)[0]


@pytest.fixture(scope="module")
def shared():
    """A victim and what it shares."""
    model = build(CASES["dlg"], torch.float32)
    return model, share(CASES["dlg"], model, 0)


def test_an_attack_runs_with_gradients_for_one_observation_and_for_many(shared):
    """If it fails, a caller in `no_grad` meets a torch error, or defaults differ between one observation and many."""
    model, observation = shared
    with torch.no_grad():
        one = made_up(model, observation, generator=torch.Generator(), setting=5)
        many = run_many(made_up, model, [observation] * 2, generators=[torch.Generator()] * 2)
        few = made_up.many(model, [observation], generators=[torch.Generator()], setting=7)
    assert (one.objective, one.images.unique().tolist()) == (1, [5])
    assert [(each.objective, each.images.unique().tolist()) for each in many] == [(2, [1]), (2, [1])]
    assert few[0].images.unique().tolist() == [7]


def test_an_attack_has_the_signature_that_stands_in_its_source():
    """If it fails, help() and editors show other arguments than the call takes."""
    assert str(inspect.signature(made_up)) == str(inspect.signature(made_up.__wrapped__))
    assert "__signature__" not in vars(made_up)
    assert made_up.__doc__ == "Returns what it was given."
    assert made_up.card is CARD
    assert pickle.loads(pickle.dumps(dlg)) is dlg


@pytest.mark.parametrize("name", ATTACKS)
def test_the_form_over_trials_takes_the_same_settings_and_has_no_defaults(name):
    """If it fails, a default stands in two places, and a direct call and `run_many` may come to differ."""
    many = ATTACKS[name].many.__wrapped__
    settings = settings_of(many)
    parameters = inspect.signature(many).parameters
    assert all(p.default is p.empty for p in parameters.values())
    if settings is not None:  # idlg hands all of them to dlg
        settings.remove("generators")
        assert settings == settings_of(ATTACKS[name])


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_documented_for_one_observation(name):
    """If it fails, a reader of help() takes the attack for one on many observations, or finds no example."""
    text = inspect.getdoc(ATTACKS[name])
    assert "observations" not in text
    assert all(part in text for part in ("Args:", "Returns", "Raises", ">>> "))
    for parameter in inspect.signature(ATTACKS[name]).parameters:
        assert f"{parameter}:" in text or f"{parameter}," in text


def test_a_mistyped_setting_is_named_with_what_was_meant(shared):
    """If it fails, a mistyped setting runs the default, or the error does not help."""
    model, observation = shared
    message = r"setting: expected one of \['steps', .*\], got 'step'; did you mean 'steps'\?"
    with pytest.raises(TypeError, match=message):
        dlg(model, observation, generator=torch.Generator(), step=3)
    with pytest.raises(TypeError, match=message):
        run_many("dlg", model, [observation], generators=[torch.Generator()], step=3)


def test_a_missing_setting_is_named(shared):
    """If it fails, an attack without its class to fish for ends somewhere inside."""
    model, observation = shared
    with pytest.raises(TypeError, match=r"missing a required.* 'target'"):
        ATTACKS["fishing"](model, observation, generator=torch.Generator())
    with pytest.raises(TypeError, match=r"missing a required.* 'target'"):
        run_many("fishing", model, [observation], generators=[torch.Generator()])


def test_cards_and_reconstructions_cannot_be_changed():
    """If it fails, one caller edits what all others read."""
    with pytest.raises(FrozenInstanceError):
        CARDS["dlg"].leaf = "GEN-z"
    with pytest.raises(FrozenInstanceError):
        Reconstruction(images=torch.zeros(1, 3, 2, 2)).objective = 0.0


def test_a_card_knows_its_words():
    """If it fails, a mistyped need of an outside attack is never met, and nobody learns why."""
    with pytest.raises(ValueError, match=r"leaf: expected one of \['OP', .*\], got 'GEN'"):
        Card(leaf="GEN", needs=frozenset(), iterative=False, source="made up")
    with pytest.raises(ValueError, match=r"needs: expected one of .*, got 'label'; did you mean 'labels'\?"):
        Card(leaf="OP", needs=frozenset({"label"}), iterative=False, source="made up")
