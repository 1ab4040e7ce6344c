"""Federated averaging: the server's arithmetic, who takes part, and how images are shared out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gia
from gia.federated import Client, LocalTraining, ValidationReport, federated_averaging, split_by_label
from gia.federated.validation import Finding

DIGITS = gia.data.load("digits").take(torch.arange(60))
LOCAL = LocalTraining(epochs=2, batch_size=4, lr=0.1)


def perceptron() -> nn.Module:
    """For digits."""
    generator = torch.Generator().manual_seed(0)
    return gia.models.build("mlp", num_classes=10, image_size=8, channels=1, width=8, generator=generator)


def client(part: slice, **options: Any) -> Client:
    """Of some of the digits."""
    return Client(DIGITS.images[part], DIGITS.labels[part], **options)


def test_the_server_averages_updates_by_numbers_of_images() -> None:
    """McMahan et al., 2017, Alg. 1: w <- sum_k n_k/n w_k, with the models that each client ends at."""
    parts, model = [slice(0, 4), slice(4, 16)], perceptron()
    found = federated_averaging(model, [client(p, local=LOCAL) for p in parts], rounds=1, held_out=DIGITS)
    updates = [gia.share_update(model, DIGITS.images[p], DIGITS.labels[p], local=LOCAL).gradients for p in parts]
    for name, before in model.named_parameters():
        ended = [before.detach() - update[name] for update in updates]
        torch.testing.assert_close(found.model.get_parameter(name).detach(), 0.25 * ended[0] + 0.75 * ended[1])
    assert found.accuracies[0] == gia.federated.accuracy(model, DIGITS)
    assert found.accuracies[1] == gia.federated.accuracy(found.model, DIGITS)


def test_gradients_are_applied_with_the_servers_step_size() -> None:
    """One client that shares gradients is gradient descent."""
    model = perceptron()
    found = federated_averaging(model, [client(slice(0, 9))], rounds=1, held_out=DIGITS, lr=0.5)
    gradients = gia.share_gradient(model, DIGITS.images[:9], DIGITS.labels[:9]).gradients
    for name, before in model.named_parameters():
        torch.testing.assert_close(found.model.get_parameter(name).detach(), before.detach() - 0.5 * gradients[name])


def test_a_client_that_refuses_is_left_out_of_the_mean() -> None:
    """Its images would pull the mean to zero, or one client would stop the training of all."""

    def never(model: nn.Module) -> ValidationReport:
        return ValidationReport((Finding(check="drift", layer="layers", value=2.0, limit=1.0),))

    both = [client(slice(0, 4), local=LOCAL), client(slice(4, 16), local=LOCAL, validate=never)]
    found = federated_averaging(perceptron(), both, rounds=2, held_out=DIGITS)
    alone = federated_averaging(perceptron(), both[:1], rounds=2, held_out=DIGITS)
    assert (found.refusals, alone.refusals) == (2, 0)
    assert found.accuracies == alone.accuracies
    assert all(map(torch.equal, found.model.parameters(), alone.model.parameters()))
    silent = federated_averaging(perceptron(), both[1:], rounds=1, held_out=DIGITS)
    assert all(map(torch.equal, silent.model.parameters(), perceptron().parameters()))


@given(clients=st.integers(1, 6), concentration=st.floats(0.05, 50), least=st.integers(0, 10), seed=st.integers(0, 99))
def test_each_image_has_one_client_and_each_client_enough(
    clients: int, concentration: float, least: int, seed: int
) -> None:
    """An image would be trained on twice, or a client would have nothing to train on."""
    labels = torch.arange(60) % 7
    generator = torch.Generator().manual_seed(seed)
    parts = split_by_label(labels, clients, concentration=concentration, generator=generator, least=least)
    assert len(parts) == clients
    assert torch.cat(parts).sort().values.tolist() == list(range(60))
    assert min(map(len, parts)) >= least


def test_a_small_concentration_gives_each_label_to_few_clients() -> None:
    """The largest share of a label at one of 5 clients: 1/5 where all have equal shares, 1 where one has all."""

    def largest(concentration: float) -> float:
        labels = torch.arange(1000) % 10
        generator = torch.Generator().manual_seed(0)
        parts = split_by_label(labels, 5, concentration=concentration, generator=generator)
        counts = torch.stack([torch.bincount(labels[part], minlength=10) for part in parts])
        return float((counts.amax(0) / 100).mean())

    assert largest(0.05) > 0.8 > 0.6 > largest(1.0) > 0.35 > 0.25 > largest(1000.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": 0}, "clients, least, concentration: expected"),
        ({"concentration": 0.0}, "clients, least, concentration: expected"),
        ({"least": 31}, "least: expected at most 30 for 60 images, got 31"),
    ],
)
def test_a_split_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    """It would not end, or leave clients without images."""
    settings = {"clients": 2, "concentration": 1.0, **changes}
    with pytest.raises(ValueError, match=message):
        split_by_label(torch.arange(60) % 7, generator=torch.Generator(), **settings)


def test_a_training_without_clients_or_rounds_is_refused() -> None:
    """It would return the model as it came."""
    with pytest.raises(ValueError, match="clients: expected at least one, got none"):
        federated_averaging(perceptron(), [], rounds=1, held_out=DIGITS)
    with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
        federated_averaging(perceptron(), [client(slice(0, 2))], rounds=0, held_out=DIGITS)
