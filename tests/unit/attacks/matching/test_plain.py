"""The plain engine is the oracle of all others, so it is held to finite differences and to the client itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import gia
from gia.attacks.matching.plain import matching_gradient
from gia.attacks.objectives import Cosine, SquaredDifferences
from gia.federated import set_mode
from tests.contracts.cases import CLASSES, private, tangled

IMAGES, LABELS = private(torch.float64, 0, 1, 2, 3, 4)
OBJECTIVES = [Cosine(), SquaredDifferences(), Cosine(layers=("1",))]


def smooth():
    """A twice differentiable victim in double precision, with batch normalization; one parameter is frozen."""
    model = tangled().double()
    model[5] = nn.Identity()
    return model


def engine(observation, model, images, labels, *, objective, loss=cross_entropy, local=None):
    """The engine on a victim that is set up as `Matching` does it."""
    victim = set_mode(model, observation.training)
    for name, parameter in victim.named_parameters():
        parameter.requires_grad_(name in observation.gradients)
    return matching_gradient(victim, observation.gradients, images, labels, objective=objective, loss=loss, local=local)


def noise(*shape, seed=0):
    """Uniform noise."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("local", [None, gia.LocalTraining(2, 3, 0.3, 0.5)], ids=["gradient", "update"])
def test_the_gradient_is_that_of_finite_differences(objective, training, local):
    """If it fails, every search descends along something else: a graph is cut, or a term is missing."""
    model, images, labels = smooth(), IMAGES, LABELS
    observation = (
        gia.share_gradient(model, images, labels, training=training)
        if local is None
        else gia.share_update(model, images, labels, local=local, training=training)
    )
    point, direction = noise(*images.shape), noise(*images.shape, seed=1) - 0.5

    def at(distance):
        value, gradient, _ = engine(
            observation, smooth(), point + distance * direction, labels, objective=objective, local=local
        )
        return float(value), gradient

    slope = float((at(0)[1] * direction).sum())
    assert (at(1e-5)[0] - at(-1e-5)[0]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-11)
    assert abs(slope) > 1e-7


def test_soft_labels_have_a_gradient_too_and_hard_ones_none():
    """If it fails, DLG cannot find labels, or one-hot labels mean something else than class indices."""
    model, images, labels = smooth(), IMAGES[:3], LABELS[:3]
    observation = gia.share_gradient(model, images, labels)
    point, soft = noise(*images.shape), noise(3, CLASSES).softmax(-1)
    direction = noise(3, CLASSES, seed=1) - 0.5

    def at(distance):
        return engine(observation, smooth(), point, soft + distance * direction, objective=SquaredDifferences())

    slope = float((at(0)[2] * direction).sum())
    assert float(at(1e-5)[0] - at(-1e-5)[0]) / 2e-5 == pytest.approx(slope, rel=1e-6)
    hard = engine(observation, smooth(), point, labels, objective=SquaredDifferences())
    onehot = engine(observation, smooth(), point, one_hot(labels, CLASSES).double(), objective=SquaredDifferences())
    assert hard[2] is None
    torch.testing.assert_close(hard[:2], onehot[:2])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("objective", [Cosine(), SquaredDifferences()], ids=repr)
def test_the_private_batch_matches_in_the_clients_mode_only(training, objective):
    """If it fails, evaluation and training batch normalization are confused: an attack looks for images whose gradient
    in one mode resembles the client's in the other."""
    observation = gia.share_gradient(smooth(), IMAGES, LABELS, training=training)
    same, _, _ = engine(observation, smooth(), IMAGES, LABELS, objective=objective)
    assert abs(float(same)) < 1e-14
    other = gia.share_gradient(smooth(), IMAGES, LABELS, training=not training)
    assert engine(other, smooth(), IMAGES, LABELS, objective=objective)[0] < 1e-14
    mixed = set_mode(smooth(), not training)
    value, _, _ = matching_gradient(
        mixed, observation.gradients, IMAGES, LABELS, objective=objective, loss=cross_entropy, local=None
    )
    assert float(value) > 1e-3


def test_victim_and_attack_use_one_scale_of_the_loss():
    """The squared differences at the private batch are zero with the client's loss, and not with its sum. If it fails,
    the two differ by a factor that a cosine hides."""
    observation = gia.share_gradient(smooth(), IMAGES, LABELS)

    def value(loss):
        return float(engine(observation, smooth(), IMAGES, LABELS, objective=SquaredDifferences(), loss=loss)[0])

    assert value(cross_entropy) < 1e-25
    assert value(lambda logits, labels: cross_entropy(logits, labels, reduction="sum")) > 1


@given(
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 6),
    momentum=st.sampled_from([0.0, 0.9]),
    count=st.integers(1, 5),
)
@settings(max_examples=12, deadline=None)
def test_simulated_local_training_is_the_clients(epochs, batch_size, momentum, count):
    """At the private images, in their order, nothing is left to match. If it fails, federated averaging is attacked
    with another training than the client's: its batches, its momentum or its start."""
    local = gia.LocalTraining(epochs, batch_size, 0.5, momentum)
    images, labels = IMAGES[:count], LABELS[:count].sort().values
    observation = gia.share_update(smooth(), images, labels, local=local)
    value, gradient, _ = engine(observation, smooth(), images, labels, objective=SquaredDifferences(), local=local)
    assert float(value) < 1e-25
    assert float(gradient.abs().max()) < 1e-12
    other, _, _ = engine(
        observation,
        smooth(),
        images,
        labels,
        objective=SquaredDifferences(),
        local=gia.LocalTraining(epochs, batch_size, 0.4, momentum),
    )
    assert float(other) > 1e-12


def test_local_training_goes_on_from_the_last_step():
    """Two local steps differ from twice the first. If it fails, every simulated step starts at the weights as sent."""
    local = gia.LocalTraining(2, 5, 0.5)
    once = gia.share_gradient(smooth(), IMAGES, LABELS)
    twice = {name: 2 * 0.5 * value for name, value in once.gradients.items()}
    observation = gia.Observation(gradients=twice, image_shape=once.image_shape, batch_size=5, trainable=once.trainable)
    value, _, _ = engine(observation, smooth(), IMAGES, LABELS, objective=SquaredDifferences(), local=local)
    assert float(value) > 1e-6
