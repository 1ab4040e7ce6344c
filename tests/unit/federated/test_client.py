"""What a client shares: the gradient or the update of its batch, and nothing that is not revealed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from gia import LocalTraining, Observation, share_gradient, share_update
from gia.federated import Client, RefusedModel, set_mode
from tests.contracts.cases import CLASSES, SIZE, private, tangled
from tests.contracts.snapshots import global_state, model_state, observation_state

IMAGES, LABELS = private(torch.float64, 0, 1, 2, 3, 4, 5)


def perceptron(seed=0, dtype=torch.float64):
    """Two linear layers with a Sigmoid."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 7), nn.Sigmoid(), nn.Linear(7, CLASSES)).to(dtype)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=g) - 0.5)
    return layers


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


def test_a_client_answers_with_the_same_batch_each_time_and_counts():
    """If it fails, queries are free, or a client can be drained by asking again."""
    images, labels = IMAGES.clone(), LABELS.clone()
    client = Client(images, labels, reveal=("labels",))
    assert client.queries == 0
    first = client.answer(perceptron())
    images.zero_()
    labels.zero_()
    second, other = client.answer(perceptron()), client.answer(perceptron(seed=1))
    assert client.queries == 3
    assert observation_state(first) == observation_state(second)
    assert observation_state(first) == observation_state(
        share_gradient(perceptron(), IMAGES, LABELS, reveal=("labels",))
    )
    assert observation_state(other) != observation_state(first)


def test_a_client_with_local_training_shares_its_update():
    """If it fails, federated averaging falls back to a gradient without a word."""
    local = LocalTraining(2, 2, 0.1)
    options = {"reveal": ("local", "batch_norm"), "training": True}
    answered = Client(IMAGES, LABELS, local=local, **options).answer(tangled())
    assert observation_state(answered) == observation_state(
        share_update(tangled(), IMAGES, LABELS, local=local, **options)
    )


def test_a_client_with_a_generator_trains_in_an_order_of_its_own():
    """If it fails, every epoch visits the images as they lie in memory, or the order is part of the answer."""
    local = LocalTraining(2, 2, 0.1)
    draw = torch.Generator().manual_seed(3)
    orders = torch.stack([torch.randperm(6, generator=draw) for _ in range(4)]).split(2)
    client = Client(IMAGES, LABELS, local=local, generator=torch.Generator().manual_seed(3))
    for order in orders:  # a new one for every answer
        assert observation_state(client.answer(perceptron())) == observation_state(
            share_update(perceptron(), IMAGES, LABELS, local=local, order=order)
        )


def test_a_client_shows_nothing_but_its_answers():
    """If it fails, an attack that holds a client can read the private batch by name."""
    assert [name for name in dir(Client(IMAGES, LABELS)) if not name.startswith("_")] == ["answer", "queries"]


def test_defenses_are_applied_in_their_order():
    """If it fails, clipping after noise becomes noise after clipping."""

    def times(factor):
        return lambda seen: replace(seen, gradients={k: v * factor for k, v in seen.gradients.items()})

    def plus_one(seen: Observation) -> Observation:
        return replace(seen, gradients={k: v + 1 for k, v in seen.gradients.items()})

    plain = Client(IMAGES, LABELS).answer(perceptron())
    defended = Client(IMAGES, LABELS, defenses=[times(2), plus_one, times(3)]).answer(perceptron())
    for name, value in plain.gradients.items():
        torch.testing.assert_close(defended.gradients[name], (2 * value + 1) * 3)


def test_defenses_are_applied_to_updates_as_to_gradients():
    """If it fails, a client that trains locally shares its update bare, and a defense costs nothing."""
    local = LocalTraining(2, 3, 0.1)

    def negated(seen: Observation) -> Observation:
        return replace(seen, gradients={k: -v for k, v in seen.gradients.items()})

    plain = Client(IMAGES, LABELS, local=local).answer(perceptron())
    defended = Client(IMAGES, LABELS, local=local, defenses=[negated]).answer(perceptron())
    for name, value in plain.gradients.items():
        assert value.any()
        assert defended.gradients[name].equal(-value)


class Constant:
    """A step defense that returns a number for every entry, and remembers what it was given."""

    def __init__(self, value=1.0, leave_out=()):
        self.value, self.leave_out, self.calls = value, leave_out, []

    def gradient(self, model, images, labels, *, loss, generator):
        self.calls.append((images.clone(), labels.clone(), loss, generator))
        shared = {name: p for name, p in model.named_parameters() if p.requires_grad and name not in self.leave_out}
        return {name: torch.full_like(p, self.value) for name, p in shared.items()}


def test_a_step_defense_gives_the_gradient_of_every_local_step():
    """Six images in batches of four, twice, are four steps. If it fails, some step is taken undefended."""
    step, generator = Constant(), torch.Generator()
    options = {"defenses": [step], "loss": "cross_entropy", "defense_generator": generator}
    shared = Client(IMAGES, LABELS, **options).answer(perceptron())
    assert all(bool((g == 1).all()) for g in shared.gradients.values())
    update = Client(IMAGES, LABELS, local=LocalTraining(2, 4, 0.5), **options).answer(perceptron())
    for gradient in update.gradients.values():
        torch.testing.assert_close(gradient, torch.full_like(gradient, 4 * 0.5))
    assert [len(images) for images, *_ in step.calls] == [6, 4, 2, 4, 2]
    assert all(loss is cross_entropy and given is generator for *_, loss, given in step.calls)
    assert torch.equal(torch.cat([images for images, *_ in step.calls[1:3]]), IMAGES)


def test_other_defenses_follow_the_step_defense_wherever_it_stands():
    """If it fails, what is shared is not what the clipping left."""

    def doubled(seen: Observation) -> Observation:
        return replace(seen, gradients={k: v * 2 for k, v in seen.gradients.items()})

    for defenses in ([Constant(3.0), doubled], [doubled, Constant(3.0)]):
        shared = Client(IMAGES, LABELS, defenses=defenses).answer(perceptron())
        assert all(bool((g == 6).all()) for g in shared.gradients.values())


def test_a_client_gives_its_generator_to_each_defense_that_asks_for_one():
    """In order, from one stream, and never in the place of one that `partial` has given."""
    given, own, other = [], torch.Generator(), torch.Generator()

    def asks(seen: Observation, *, generator: torch.Generator | None = None) -> Observation:
        given.append(generator)
        return seen

    defenses = [asks, lambda seen: seen, partial(asks, generator=other), partial(asks)]
    Client(IMAGES, LABELS, defenses=defenses, defense_generator=own).answer(perceptron())
    assert given == [own, other, own]


@pytest.mark.parametrize(
    ("defenses", "error", "message"),
    [
        ([Constant(), Constant()], ValueError, "defenses: expected at most one that takes the place of the gradient"),
        ([3], TypeError, "defenses: expected callables on an observation or objects with a method gradient, got 3"),
        ([Constant(leave_out=("1.bias",))], ValueError, "defenses: expected a gradient for each of"),
    ],
)
def test_defenses_that_cannot_be_composed_are_refused(defenses, error, message):
    """If it fails, one of two step defenses would be left out in silence, or a parameter would not be shared."""
    with pytest.raises(error, match=message):
        Client(IMAGES, LABELS, defenses=defenses).answer(perceptron())


def test_an_answer_does_not_depend_on_earlier_rounds():
    """If it fails, momentum, statistics or the order of images are kept, and a second query sees another client."""
    options = {"local": LocalTraining(2, 2, 0.1, 0.9), "reveal": ("batch_norm",), "training": True}
    asked = Client(IMAGES, LABELS, **options)
    asked.answer(perceptron())
    asked.answer(tangled())
    fresh = Client(IMAGES, LABELS, **options)
    assert observation_state(asked.answer(tangled())) == observation_state(fresh.answer(tangled()))


def test_its_repr_says_what_it_shares_and_shows_no_private_value():
    """If it fails, a user who prints a client sees the private batch, or not what leaks."""
    client = Client(IMAGES, LABELS)
    client.answer(perceptron())
    shape = f"6 images of 3x{SIZE}x{SIZE} in float64"
    assert repr(client) == f"Client({shape}, eval mode, shares a gradient, reveals: nothing more, 1 query answered)"
    local = LocalTraining(2, 2, 0.1)
    settings_ = {"reveal": ("labels", "local"), "defenses": [lambda seen: seen], "validate": print, "training": True}
    assert repr(Client(IMAGES, LABELS, local=local, **settings_)) == (
        f"Client({shape}, train mode, shares the update of {local}, reveals: labels, local, 1 defense, "
        "validates models, 0 queries answered)"
    )


def test_a_refused_model_gets_no_answer():
    """If it fails, a client trains on a model that its own check refused, or a refusal counts as an answer."""

    @dataclass
    class Verdict:
        ok: bool

    seen = []

    def validate(model):
        seen.append(model)
        return Verdict(ok=len(seen) == 1)

    client, model = Client(IMAGES, LABELS, validate=validate), perceptron()
    client.answer(model)
    with pytest.raises(
        RefusedModel, match=r"model: expected one that the client's validation accepts, .*ok=False"
    ) as caught:
        client.answer(model)
    assert caught.value.report == Verdict(ok=False)
    assert seen == [model, model]
    assert client.queries == 1


def test_a_client_checks_its_batch_when_it_is_made():
    """If it fails, a bad batch is noticed only by the first server that asks."""
    with pytest.raises(ValueError, match="images: expected values"):
        Client(IMAGES * 2, LABELS)
    with pytest.raises(ValueError, match="reveal: expected one of"):
        Client(IMAGES, LABELS, reveal=("images",))
