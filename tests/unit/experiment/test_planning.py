"""What a level costs: measured steps on made-up images, scaled to a block."""

from __future__ import annotations

import time

import pytest
import torch

import gia
from claims.equipment import Inverting
from gia.attacks.trials import Card, attack
from gia.experiment import Attacker, Batch, Client, Fishing, Fitting, Protocol, Victim, cost
from gia.federated import LocalTraining

SLEEP = 0.02


def _slow(model, observations, *, generators, steps, callback):
    for step in range(steps):
        callback(gia.attacks.matching.Progress(step, steps, torch.zeros(1), []))
        time.sleep(SLEEP * sum(observation.batch_size for observation in observations))
    raise AssertionError("expected to be ended by the callback")


@attack(Card("OP", frozenset(), iterative=True, source="a test"), many=_slow)
def slow(model, observation, *, generator, steps=100, callback=None):
    """A step takes 20 ms for each image."""
    return _slow(model, [observation], generators=[generator], steps=steps, callback=callback)[0]


def protocol(**changes) -> Protocol:
    """Eight images of a set that is not installed, in batches of 2."""
    base = Protocol(
        victim=Victim(name="mlp", options={"width": 4}),
        batch=Batch(data="cifar10", image_size=8, images=8, size=2),
        attacker=Attacker(attack=slow),
    )
    return base.with_(changes)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_step_is_scaled_to_all_images_of_a_block(size):
    """If it fails, a plan is wrong by the number of images or of batches."""
    found = cost(protocol(**{"batch.size": size}))
    assert found.steps == 100
    assert found.step == pytest.approx(8 * SLEEP, rel=0.5)
    assert found.seconds == pytest.approx(100 * found.step)


def test_each_fished_image_is_attacked_alone():
    """If it fails, the hours of Fishing count images that it never attacks."""
    fished = {"victim.fish": Fishing(targets=3), "attacker.attack": "fishing", "attacker.settings": {"steps": 70}}
    assert cost(protocol(**fished)).steps == 70


def test_the_attack_says_how_many_steps_it_takes_where_the_protocol_does_not():
    """If it fails, CI-Net's 5,000 steps on large batches are planned as 2,000."""
    small = protocol(**{"attacker.attack": "ci_net", "batch.images": 32})
    assert [cost(small.with_({"batch.size": size})).steps for size in (1, 32)] == [2000, 5000]


def test_an_attack_without_a_search_is_timed_as_a_whole():
    """If it fails, closed-form attacks have no place in a plan."""
    found = cost(protocol(**{"attacker.attack": "linear_layer"}))
    assert found.steps == 1
    assert found.step > 0


def test_memory_grows_with_the_images_of_a_block():
    """If it fails, a plan promises that 64 images fit where one does."""
    few, many = (
        cost(protocol(**{"attacker.attack": "inverting_gradients", "batch.images": images})).memory
        for images in (2, 64)
    )
    assert 8 < many / few <= 32.1


def test_what_is_not_counted_is_named_and_no_data_are_read():
    """If it fails, hours of training are missing from a plan without a word, or it wants the data set."""
    fit = Fitting(epochs=30, half=5, accuracy=0.5)
    assert cost(protocol(fit=fit)).without == ("training the victim for 30 epochs",)


def test_an_inverter_cannot_be_planned():
    """If it fails, 5,000 epochs are planned as nothing."""
    learned = {"attacker.attack": "learning_to_invert", "attacker.equip": Inverting(epochs=5000)}
    with pytest.raises(ValueError, match="equip: expected an attack that searches, got Inverting"):
        cost(protocol(**learned))


def test_local_training_is_part_of_a_step():
    """If it fails, the FedAvg rows are planned as if clients shared one gradient."""
    local = Client(local=LocalTraining(epochs=2, batch_size=1, lr=0.01), reveal=("labels", "local"))
    found = cost(protocol(**{"client": local, "attacker.attack": "inverting_gradients"}))
    assert found.steps == 24_000


def test_an_attack_that_fails_on_noise_says_so():
    """If it fails, one row that cannot be planned ends the whole plan."""
    two = protocol(**{"attacker.attack": "idlg"})
    with pytest.raises(ValueError, match="attack: expected idlg to run on made-up images"):
        cost(two)
