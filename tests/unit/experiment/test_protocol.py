"""What a protocol refuses, what is drawn into it, and what its digest depends on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from gia.federated import LocalTraining
from gia.harness.protocol import Experiment, Fished, Protocol
from tests.harness.toy import FITTING, PROTOCOL, silence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "ripe"}, "state: expected one of .* got 'ripe'"),
        ({"half": 2}, "half: expected between 0 and epochs=2"),
    ],
)
def test_a_training_that_cannot_be_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        replace(FITTING, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "images: expected a positive multiple of batch_size=3, got 4"),
        ({"fish": Fished(targets=5)}, "images: expected at least 5 to fish in, got 4"),
        ({"disjoint": "people"}, "disjoint: expected 'images' or 'labels'"),
        ({"attacker": 0, "disjoint": "labels"}, "attacker: expected None where labels are disjoint"),
        ({"score": ("label_agreement",)}, "judge: expected a classifier's maker"),
        ({"space": "latent"}, "space: expected 'pixels' or 'standardized', got 'latent'"),
        ({"dtype": "float16"}, "dtype: expected"),
        ({"victim": {"width": 3}}, "victim: expected a 'name'"),
        ({"score": ("psnr", "fid")}, "score: expected names among .*got 'fid'"),
        (
            {"assumed": LocalTraining(1, 1, 0.1), "reveal": ("local",)},
            "assumed: expected None where 'local' is revealed",
        ),
    ],
)
def test_a_protocol_that_cannot_run_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        replace(PROTOCOL, **changes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"width": 3}, "'width' names no field"), ({"images.first": 3}, "'images', which has none")],
)
def test_a_drawn_key_that_fits_no_field_is_refused(setting: dict[str, Any], message: str) -> None:
    """A misspelled key would be drawn, stored and ignored."""
    with pytest.raises(ValueError, match=message):
        PROTOCOL.drawn(setting)


def test_local_training_is_drawn_part_by_part_and_left_out_where_there_is_none() -> None:
    """FedSGD would be given local steps, or the epochs would be the same in every block."""
    local = LocalTraining(epochs=1, batch_size=2, lr=0.1)
    base = replace(PROTOCOL, local=local, vary={"local.epochs": (2, 5), "local.batch_size": (1, 4)})
    drawn = base.drawn({"local.epochs": 5, "local.batch_size": 1})
    assert drawn.local == LocalTraining(epochs=5, batch_size=1, lr=0.1)
    assert replace(base, local=None).drawn({"local.epochs": 5}).local is None
    assert set(Experiment("toy", {"sgd": replace(base, local=None), "avg": base}).levels) == {"sgd", "avg"}
    with pytest.raises(ValueError, match=r"differ in 'local\.epochs', which is also drawn"):
        Experiment("toy", {"one": base, "two": replace(base, local=replace(local, epochs=2))})


def test_a_factor_cannot_be_both_compared_and_drawn() -> None:
    """The draw would overwrite the level, and all levels would be alike."""
    base = replace(PROTOCOL, vary={"victim.width": (8, 16)})
    levels = {width: replace(base, victim={"name": "mlp", "width": width}) for width in (8, 32)}
    with pytest.raises(ValueError, match=r"differ in 'victim\.width', which is also drawn"):
        Experiment("toy", levels)


@dataclass(frozen=True)
class Mild:
    """A setting."""

    weight: float = 1.0


@dataclass(frozen=True)
class Sharp:
    """Another with the same fields."""

    weight: float = 1.0


def test_a_digest_depends_on_settings_and_on_nothing_else() -> None:
    """Two settings would share a baseline or a cached block, or one would have several."""
    turned = replace(PROTOCOL, settings=dict(reversed(PROTOCOL.settings.items())))
    assert PROTOCOL.digest() == turned.digest()
    others = [
        replace(PROTOCOL, settings={"objective": Mild()}),
        replace(PROTOCOL, settings={"objective": Sharp()}),
        replace(PROTOCOL, settings={"objective": Sharp(2.0)}),
        replace(PROTOCOL, edit=silence),
        replace(PROTOCOL, control=None),
        replace(PROTOCOL, local=LocalTraining(1, 1, 0.1)),
        replace(PROTOCOL, assumed=LocalTraining(1, 1, 0.1)),
        replace(PROTOCOL, fit=FITTING),
    ]
    assert len({PROTOCOL.digest(), *(other.digest() for other in others)}) == 9


def test_a_field_at_its_default_is_not_in_the_description() -> None:
    """A new option would make every stored baseline stale, although nothing that it measures has changed."""
    described = PROTOCOL.described()
    assert described == {**replace(PROTOCOL, fish=None, channels=None, disjoint="images").described()}
    assert set(described) < {field.name for field in fields(Protocol)}
    assert "control_images" not in described
    assert replace(PROTOCOL, control_images=3).described()["control_images"] == 3


@pytest.mark.parametrize(("changes", "message"), [({"kind": "net"}, "kind: expected"), ({"targets": 0}, "targets:")])
def test_fishing_that_cannot_be_is_refused_when_it_is_made(changes: dict[str, Any], message: str) -> None:
    """The error would come from a worker, minutes later."""
    with pytest.raises(ValueError, match=message):
        Fished(**changes)
