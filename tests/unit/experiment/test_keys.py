"""How a nested field is read and changed by its dotted key, and what is drawn into it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gia.experiment import Client, Fishing, Protocol, Victim
from gia.federated import LocalTraining
from gia.harness.blocks.experiment import Experiment
from tests.unit.experiment.toy import FITTING, LOCAL, PROTOCOL, bright


def test_a_nested_field_is_changed_by_its_dotted_key() -> None:
    """A level would be the base protocol, or lose what else the part holds."""
    base = PROTOCOL.with_({"client.local": LOCAL, "fit": FITTING})
    changed = base.with_(
        {
            "device": "cuda",
            "batch.size": 4,
            "client.local.epochs": 5,
            "fit.state": "untrained",
            "attacker.settings.lr": 0.5,
            "victim.width": 24,
            "victim.dtype": "float64",
            "scoring.control": None,
        }
    )
    assert changed == Protocol(
        victim=Victim(name="mlp", options={"width": 24}, dtype="float64"),
        batch=replace(base.batch, size=4),
        attacker=replace(base.attacker, settings={"steps": 5, "total_variation": 0.0, "lr": 0.5}),
        client=Client(local=replace(LOCAL, epochs=5)),
        scoring=replace(base.scoring, control=None),
        fit=replace(FITTING, state="untrained"),
        device="cuda",
    )
    assert base.attacker.settings == PROTOCOL.attacker.settings, "the base protocol stays as it was"
    assert PROTOCOL.with_({}) == PROTOCOL


def test_a_key_of_the_victim_that_is_no_field_is_an_option_of_its_network() -> None:
    """A width would be an error or, worse, be ignored."""
    changed = PROTOCOL.with_({"victim.activation": "sigmoid", "victim.name": "lenet"})
    assert changed.victim == Victim(name="lenet", options={"width": 32, "activation": "sigmoid"})
    assert changed == PROTOCOL.with_({"victim.options.activation": "sigmoid", "victim.name": "lenet"})
    assert PROTOCOL.with_({"victim.options": {}}).victim.options == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"batch.size": 3, "batch.images": 6},
        {"client.reveal": ("local",), "client.local": LOCAL, "attacker.assumed": None},
        {"victim.fish": Fishing(targets=8), "batch.images": 8},
        {"scoring.metrics": ("label_agreement",), "scoring.judge": bright},
    ],
    ids=lambda changes: " and ".join(changes),
)
def test_fields_that_depend_on_each_other_are_changed_at_once(changes: dict[str, Any]) -> None:
    """A valid level could not be reached, since the way to it leads through one that is refused."""
    base = PROTOCOL.with_({"attacker.assumed": LOCAL})
    for order in (changes, dict(reversed(changes.items()))):
        changed = base.with_(order)
        assert all(changed.at(key) == value for key, value in changes.items())


def test_a_whole_field_is_put_in_before_what_is_changed_in_it() -> None:
    """A level that names both would lose one of the two."""
    for changes in (
        {"attacker.settings": {"lr": 1.0}, "attacker.settings.steps": 9},
        {"attacker.settings.steps": 9, "attacker.settings": {"lr": 1.0}},
    ):
        assert PROTOCOL.with_(changes).attacker.settings == {"lr": 1.0, "steps": 9}
    assert PROTOCOL.with_({"fit": FITTING, "fit.state": "untrained"}).at("fit.state") == "untrained"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bach.size", r"changes: expected one of \['victim', .*\], got 'bach'; did you mean 'batch'\?"),
        ("width", r"changes: expected one of .* got 'width'"),
        ("batch.sise", r"batch: expected one of \['data', .*\], got 'sise'; did you mean 'size'\?"),
        ("client.local.epoch", "client.local: expected one of .* got 'epoch'; did you mean 'epochs'"),
        ("batch.images.first", "changes: expected batch.images to have fields, got 4"),
        ("fit.state", "changes: expected fit to be set before its fields, got None for fit"),
        ("victim.fish.targets", "changes: expected victim.fish to be set before its fields, got None"),
    ],
)
def test_a_key_that_names_no_field_is_refused(key: str, message: str) -> None:
    """A misspelt key would be drawn or compared, stored, and ignored."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.with_({"client.local": LOCAL, key: 3})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 3}, "got 'width'"),
        ({"batch.images.first": 3}, "expected batch.images to have fields"),
        ({"attacker.settings.objektive.weight": 1.0}, "expected attacker.settings.objektive to be set"),
    ],
)
def test_a_drawn_key_that_fits_no_field_is_refused(setting: dict[str, Any], message: str) -> None:
    """A misspelt key would be drawn, stored and ignored."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.drawn(setting)


def test_a_value_is_read_at_its_dotted_key() -> None:
    """The harness would compare levels by something else than what they set."""
    protocol = PROTOCOL.with_({"client.local": LOCAL})
    assert protocol.at("batch.size") == 1
    assert protocol.at("victim.width") == protocol.at("victim.options.width") == 32
    assert protocol.at("attacker.settings.steps") == 5
    assert protocol.at("client.local") == LOCAL
    assert protocol.at("client.local.epochs") == 1
    assert protocol.at("fit") is None
    assert protocol.at("fit.epochs") is None
    assert protocol.at("victim.activation") is None
    for key in ("bach.size", "batch.sise"):
        with pytest.raises(ValueError, match="did you mean"):
            protocol.at(key)


def test_local_training_is_drawn_field_by_field_and_left_out_where_there_is_none() -> None:
    """FedSGD would be given local steps, or the epochs would be the same in every block."""
    base = PROTOCOL.with_(
        {"client.local": LOCAL, "vary": {"client.local.epochs": (2, 5), "client.local.batch_size": (1, 4)}}
    )
    drawn = base.drawn({"client.local.epochs": 5, "client.local.batch_size": 1})
    assert drawn.client.local == LocalTraining(epochs=5, batch_size=1, lr=0.1)
    none = base.with_({"client.local": None})
    assert none.drawn({"client.local.epochs": 5, "batch.size": 2}) == none.with_({"batch.size": 2})
    assert PROTOCOL.drawn({"fit.epochs": 5, "victim.fish.targets": 2}) == PROTOCOL
    assert set(Experiment("toy", {"sgd": none, "avg": base}).levels) == {"sgd", "avg"}
    with pytest.raises(ValueError, match=r"the same 'client\.local\.epochs' in all, since it is drawn"):
        Experiment("toy", {"one": base, "two": base.with_({"client.local.epochs": 2})})


def test_a_factor_cannot_be_both_compared_and_drawn() -> None:
    """The draw would overwrite the level, and all levels would be alike."""
    base = PROTOCOL.with_({"vary": {"victim.width": (8, 16)}})
    levels = {width: base.with_({"victim.width": width}) for width in (8, 32)}
    with pytest.raises(ValueError, match=r"the same 'victim\.width' in all, since it is drawn"):
        Experiment("toy", levels)
