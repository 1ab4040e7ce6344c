"""What is shared of a batch: its gradient or its update, and nothing that is not revealed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from gia import LocalTraining, share_gradient, share_update
from gia.federated import set_mode
from tests.contracts.cases import CLASSES, SIZE, tangled
from tests.contracts.snapshots import global_state, model_state, observation_state
from tests.unit.federated.perceptron import IMAGES, LABELS, perceptron


def test_the_gradient_of_a_softmax_layer_is_what_the_textbook_says():
    """(p - y)^T x / B and the mean of p - y (Bishop, 2006, Eq. 4.109), in NumPy. If it fails, what is shared is summed
    in place of averaged, or not the gradient."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES)).double()
    x, y = IMAGES.flatten(1).numpy(), np.eye(CLASSES)[LABELS.numpy()]
    logits = x @ model[1].weight.detach().numpy().T + model[1].bias.detach().numpy()
    error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - y
    shared = share_gradient(model, IMAGES, LABELS).gradients
    assert list(shared) == ["1.weight", "1.bias"]
    np.testing.assert_allclose(shared["1.weight"], error.T @ x / len(x), atol=1e-14)
    np.testing.assert_allclose(shared["1.bias"], error.mean(0), atol=1e-14)


@given(
    lr=st.floats(1e-4, 10),
    momentum=st.floats(0, 0.99),
    count=st.integers(1, 6),
    spare=st.integers(0, 3),
    seed=st.integers(0, 99),
    training=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_one_full_batch_step_is_the_step_size_times_the_gradient(lr, momentum, count, spare, seed, training):
    """If it fails, FedAvg and FedSGD disagree where they are one: the update is divided, or stepped twice."""
    model = perceptron(seed)
    images, labels = IMAGES[:count], LABELS[:count]
    local = LocalTraining(epochs=1, batch_size=count + spare, lr=lr, momentum=momentum)
    gradient = share_gradient(model, images, labels, training=training).gradients
    update = share_update(model, images, labels, local=local, training=training).gradients
    # before - (before - lr * g) is rounded at the size of the weights, which is at most max(1/2, lr * |g|).
    for name, value in gradient.items():
        size = max(0.5, lr * float(value.abs().max()))
        torch.testing.assert_close(update[name], lr * value, rtol=0, atol=4 * torch.finfo(value.dtype).eps * size)


@given(
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 7),
    momentum=st.sampled_from([0.0, 0.9]),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_an_update_is_heavy_ball_descent_over_the_batches_in_their_order(epochs, batch_size, momentum, data):
    """Against the formula v = m v + g, w = w - lr v, written out. If it fails, local training is not what it says: its
    order, its last smaller batch, its momentum or its restart per epoch."""
    count, lr = 5, 0.3
    order = torch.tensor([data.draw(st.permutations(range(count))) for _ in range(epochs)])
    model, by_hand = perceptron(), perceptron()
    local = LocalTraining(epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum)
    shared = share_update(model, IMAGES[:count], LABELS[:count], local=local, order=order).gradients
    start = [p.detach().clone() for p in by_hand.parameters()]
    velocity = [torch.zeros_like(p) for p in start]
    for epoch in order.tolist():
        for first in range(0, count, batch_size):
            chosen = epoch[first : first + batch_size]
            loss = cross_entropy(by_hand(IMAGES[chosen]), LABELS[chosen])
            steps = torch.autograd.grad(loss, list(by_hand.parameters()))
            velocity = [momentum * v + g for v, g in zip(velocity, steps, strict=True)]
            with torch.no_grad():
                for parameter, v in zip(by_hand.parameters(), velocity, strict=True):
                    parameter -= lr * v
    for value, before, after in zip(shared.values(), start, by_hand.parameters(), strict=True):
        torch.testing.assert_close(value, before - after.detach(), rtol=1e-10, atol=1e-13)


def test_images_come_in_their_own_order_unless_told_otherwise():
    """If it fails, the default order is not the documented one, or an order leaks into the observation."""
    local = LocalTraining(epochs=2, batch_size=2, lr=0.5)
    model = perceptron()
    plain = share_update(model, IMAGES, LABELS, local=local)
    same = share_update(model, IMAGES, LABELS, local=local, order=torch.arange(6).repeat(2, 1))
    other = share_update(model, IMAGES, LABELS, local=local, order=torch.arange(6).flip(0).repeat(2, 1))
    assert observation_state(plain) == observation_state(same)
    assert observation_state(plain)["gradients"] != observation_state(other)["gradients"]
    assert observation_state(plain)["rest"] == observation_state(other)["rest"]


@pytest.mark.parametrize(
    "order",
    [
        torch.arange(6),
        torch.arange(6).repeat(3, 1),
        torch.zeros(2, 6, dtype=torch.int64),
        torch.arange(12.0).view(2, 6) % 6,
    ],
    ids=["one dimension", "too many epochs", "no permutation", "floats"],
)
def test_an_order_is_a_permutation_for_each_epoch(order):
    """If it fails, some images are trained on twice and others never."""
    with pytest.raises(ValueError, match="order: expected 2 permutations of 6 images in int64"):
        share_update(perceptron(), IMAGES, LABELS, local=LocalTraining(2, 2, 0.1), order=order)


@pytest.mark.parametrize("share", [share_gradient, share_update])
def test_sharing_disturbs_neither_model_nor_process(share):
    """If it fails, batch statistics move the server's buffers, or dropout and random slopes the global random state."""
    model = tangled()
    before = model_state(model), global_state()
    local = {"local": LocalTraining(2, 2, 0.1)} if share is share_update else {}
    first, second = (
        share(model, IMAGES, LABELS, training=True, reveal=("labels", "batch_norm"), **local) for _ in range(2)
    )
    assert (model_state(model), global_state()) == before
    assert observation_state(first) == observation_state(second)
    with torch.no_grad():
        assert observation_state(
            share(model, IMAGES, LABELS, training=True, reveal=("labels", "batch_norm"), **local)
        ) == (observation_state(first))


def test_dropout_and_random_slopes_stay_off_in_training():
    """If it fails, no attacker can repeat what the client computed."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.RReLU(), nn.BatchNorm2d(3))
    set_mode(model, True)
    assert [module.training for module in model] == [False, False, False, False, True]
    set_mode(model, False)
    assert not any(module.training for module in model.modules())
    halves = -torch.ones(1, 3, 2, 2)
    assert nn.Sequential(model[3])(halves).unique().item() == pytest.approx(-(1 / 8 + 1 / 3) / 2)


def test_the_mode_of_batch_normalization_is_chosen_and_recorded():
    """If it fails, an attack runs on running statistics where the client used those of its batch, or the reverse."""
    model = tangled()
    images = IMAGES.float()
    for training in (False, True):
        observation = share_gradient(model, images, LABELS, training=training)
        by_hand = set_mode(tangled(), training)
        loss = cross_entropy(by_hand(images), LABELS)
        expected = torch.autograd.grad(loss, [p for p in by_hand.parameters() if p.requires_grad])
        assert observation.training is training
        for value, wanted in zip(observation.gradients.values(), expected, strict=True):
            torch.testing.assert_close(value, wanted)
    assert model.training


@pytest.mark.parametrize("training", [False, True])
def test_leaked_statistics_are_those_of_what_enters_the_layer(training):
    """If it fails, a batch-norm prior steers by running statistics, or by an unbiased variance."""
    model = tangled().double()
    entering = model[1](IMAGES.flatten(1)).detach().numpy()
    mean, variance = share_gradient(model, IMAGES, LABELS, reveal=["batch_norm"], training=training).batch_norm["2"]
    np.testing.assert_allclose(mean, entering.mean(0), atol=1e-12)
    np.testing.assert_allclose(variance, entering.var(0), atol=1e-12)
    first = share_update(
        model, IMAGES, LABELS, local=LocalTraining(2, 3, 0.5), reveal=["batch_norm"], training=training
    ).batch_norm["2"]
    np.testing.assert_allclose(first[0], entering[:3].mean(0), atol=1e-12)


def test_shared_are_the_parameters_that_require_a_gradient():
    """If it fails, frozen weights or buffers are shared, or a parameter without influence is left out."""
    model = perceptron()
    assert share_gradient(model, IMAGES, LABELS).trainable is None
    model[1].weight.requires_grad_(False)
    model.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    observation = share_gradient(model, IMAGES, LABELS)
    update = share_update(model, IMAGES, LABELS, local=LocalTraining(2, 2, 0.1))
    for shared in (observation, update):
        assert list(shared.gradients) == ["idle", "1.bias", "3.weight", "3.bias"]
        assert shared.trainable == ("idle", "1.bias", "3.weight", "3.bias")
        assert shared.gradients["idle"].tolist() == [0, 0]
        shared.check(model)
    with pytest.raises(ValueError, match="model: expected at least one parameter with requires_grad, got none"):
        share_gradient(model.requires_grad_(False), IMAGES, LABELS)


def test_only_what_is_revealed_leaks():
    """If it fails, an attack gets more than its threat model grants."""
    local = LocalTraining(1, 2, 0.1)
    for reveal in ((), ("labels",), ("local",), ("batch_norm",), ("labels", "local", "batch_norm")):
        observation = share_update(tangled(), IMAGES, LABELS, local=local, reveal=reveal)
        known = {name for name in ("labels", "local", "batch_norm") if getattr(observation, name) is not None}
        assert known == set(reveal)
        assert (observation.batch_size, observation.image_shape) == (6, (3, SIZE, SIZE))
        gradient = share_gradient(tangled(), IMAGES, LABELS, reveal=reveal)
        known = {name for name in ("labels", "local", "batch_norm") if getattr(gradient, name) is not None}
        assert known == set(reveal) - {"local"}
    assert observation.local == local
    assert observation.labels.tolist() == sorted(LABELS.tolist())


BAD = {
    "above one": (
        {"images": IMAGES * 2},
        ValueError,
        r"images: expected values in \[0, 1\], got \[.*normalize in the model",
    ),
    "below zero": ({"images": IMAGES - 1}, ValueError, r"images: expected values in \[0, 1\]"),
    "NaN": ({"images": IMAGES * torch.nan}, ValueError, r"images: expected values in \[0, 1\]"),
    "bytes": (
        {"images": (IMAGES * 255).byte()},
        ValueError,
        r"images: expected floats \(N, C, H, W\), got .* torch.uint8",
    ),
    "one image": ({"images": IMAGES[0]}, ValueError, r"images: expected floats \(N, C, H, W\)"),
    "none": ({"images": IMAGES[:0], "labels": LABELS[:0]}, ValueError, "images: expected at least one image, got none"),
    "too few labels": ({"labels": LABELS[:5]}, ValueError, r"labels: expected \(6,\) of int64, got \(5,\)"),
    "float labels": ({"labels": LABELS.float()}, ValueError, r"labels: expected \(6,\) of int64, got .* torch.float32"),
    "a label too large": ({"labels": LABELS + 5}, ValueError, "labels: expected 0 to 9 for 10 logits, got 5 to"),
    "a negative label": ({"labels": LABELS - 5}, ValueError, "labels: expected 0 to 9 for 10 logits, got -5 to"),
    "a string to reveal": (
        {"reveal": "labels"},
        TypeError,
        r"reveal: expected a collection of names such as \('labels',\)",
    ),
    "an unknown leak": (
        {"reveal": ["label"]},
        ValueError,
        "reveal: expected one of .* got 'label'; did you mean 'labels'",
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("share", [share_gradient, share_update])
def test_a_batch_that_makes_no_sense_is_named(share, kind):
    """If it fails, images on another scale are shared, and every score of them is on that scale too."""
    changes, error, message = BAD[kind]
    settings_ = {"images": IMAGES, "labels": LABELS, "reveal": (), **changes}
    if share is share_update:
        settings_["local"] = LocalTraining(1, 6, 0.1)
    with pytest.raises(error, match=message):
        share(perceptron(), **settings_)


def test_a_loss_of_the_clients_own_is_what_is_shared():
    """If it fails, the client's loss is ignored: a sum and a mean over six images would share the same gradient."""
    mean = share_gradient(perceptron(), IMAGES, LABELS).gradients
    summed = share_gradient(
        perceptron(), IMAGES, LABELS, loss=lambda logits, labels: cross_entropy(logits, labels, reduction="sum")
    ).gradients
    for name in mean:
        torch.testing.assert_close(summed[name], 6 * mean[name])
