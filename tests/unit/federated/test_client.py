"""What a client answers: the same batch each time, with its own order, its defenses and its check of the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from gia import LocalTraining, Observation, share_gradient, share_update
from gia.federated import Client, RefusedModel
from tests.contracts.cases import SIZE, tangled
from tests.contracts.snapshots import observation_state
from tests.unit.federated.perceptron import IMAGES, LABELS, perceptron


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
