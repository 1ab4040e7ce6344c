"""The matching problem of several trials: each has its own target, and the model stays the user's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import gia
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine, SquaredDifferences
from tests.contracts.cases import CLASSES, SIZE, private, tangled
from tests.contracts.snapshots import model_state


def observed(model, *chosen, **settings):
    """What leaks of some images, with labels."""
    return gia.share_gradient(model, *private(torch.float32, *chosen), reveal=("labels",), **settings)


def problem(model, *observations):
    """The matching problem with squared differences."""
    return Matching(model, observations, objective=SquaredDifferences(), loss=cross_entropy)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_each_trial_matches_its_own_target(training):
    """If it fails, trials are compared with each other's targets, or in another mode than the client's."""
    model = tangled()
    batches = [(0, 6), (2, 7), (9, 1)]
    matching = problem(model, *[observed(model, *batch, training=training) for batch in batches])
    data = [private(torch.float32, *batch) for batch in batches]
    order = [labels.argsort() for _, labels in data]
    images = torch.stack([images[by] for (images, _), by in zip(data, order, strict=True)])
    assert len(matching) == 3
    assert matching.labels.tolist() == [sorted(labels.tolist()) for _, labels in data]
    values, to_images, to_labels = matching(images, matching.labels)
    # |g|^2 is 1.3 to 1.5 here. Trials run together, so another order of sums than the client's: 1e-5 of |g| in float32.
    assert values.max() < 1e-8
    assert to_images.shape == images.shape
    assert to_labels is None
    assert matching(images.roll(1, 0), matching.labels.roll(1, 0)).values.min() > 1e-3
    assert matching(images, matching.labels).values.equal(values)


def test_a_slice_of_trials_is_evaluated_and_counted_alone():
    """If it fails, the cost of one trial is charged to another."""
    model = tangled()
    matching = problem(model, observed(model, 0), observed(model, 1), observed(model, 2))
    assert matching.evaluations == [0, 0, 0]
    images = torch.stack([private(torch.float32, i)[0] for i in range(3)])
    values = matching(images, matching.labels).values
    some = matching(images[1:2], matching.labels[1:2], trials=slice(1, 2))
    torch.testing.assert_close(some.values, values[1:2], rtol=1e-5, atol=1e-12)  # alone by another engine
    assert matching.evaluations == [1, 2, 1]
    alone = matching.values(images[2:], matching.labels[2:], trials=slice(2, 3))
    torch.testing.assert_close(alone, values[2:], rtol=1e-5, atol=1e-12)
    assert matching.evaluations == [1, 2, 2]


def test_the_model_is_left_alone_and_its_later_life_does_not_matter():
    """If it fails, attack and user share weights: training on changes a running attack, or the attack the model."""
    model = tangled()
    observation = observed(model, 0, 1, training=True)
    before = model_state(model)
    matching = problem(model, observation)
    images = private(torch.float32, 0, 1)[0][None]
    value = matching(images, matching.labels).values
    assert model_state(model) == before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert matching(images, matching.labels).values.equal(value)


def test_it_knows_the_form_of_its_trials():
    """If it fails, starts are drawn in another shape, dtype or number of classes than the victim's."""
    model = tangled().double()
    observation = gia.share_gradient(model, *private(torch.float64, 0, 1))
    matching = problem(model, observation)
    assert (matching.image_shape, matching.batch_size, matching.classes) == ((3, SIZE, SIZE), 2, CLASSES)
    assert matching.reference.dtype == torch.float64
    assert matching.labels is None


def test_what_cannot_be_matched_is_refused():
    """If it fails, an attack on an empty gradient, on impossible labels or on other images returns a picture."""
    model = tangled()
    observation = observed(model, 0, 1)
    zeros = {name: torch.zeros_like(value) for name, value in observation.gradients.items()}
    empty = replace(observation, gradients=zeros)
    with pytest.raises(gia.attacks.NothingFound, match="gradients: expected an entry other than 0, got zeros"):
        problem(model, empty, empty)
    first = next(iter(zeros))
    problem(model, replace(observation, gradients={**zeros, first: torch.full_like(zeros[first], 1e-18)}))
    with pytest.raises(ValueError, match="labels: expected 0 to 9 for 10 logits, got 3 to 10"):
        problem(model, replace(observation, labels=torch.tensor([3, 10])))
    with pytest.raises(ValueError, match=r"image_shape: expected one that the model takes, got \(3, 4, 8\)"):
        problem(model, replace(observation, image_shape=(3, 4, 8)))
    with pytest.raises(ValueError, match=r"model: expected logits \(N, classes\), got \(2, 5, 2\)"):
        problem(torch.nn.Sequential(model, torch.nn.Unflatten(1, (5, 2))), observation)


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**-70, 2.0**-90, 2.0**55, 2.0**70, 2.0**100])
def test_the_size_of_a_gradient_changes_nothing_under_the_cosine(factor):
    """Squares below 2^-126 are lost in float32, and sums of them overflow above 2^128.

    If it fails, a start image comes back without a word.
    """
    model = tangled()
    observation = observed(model, 0, 6)
    tiny = sized(observation, factor)
    images = torch.rand(1, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    expected, got = (
        Matching(model, [each], objective=Cosine(), loss=cross_entropy, engine="plain")(
            images, observation.labels[None]
        )
        for each in (observation, tiny)
    )
    torch.testing.assert_close(got.values, expected.values, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.images, expected.images, rtol=1e-4, atol=1e-7)
    if factor < 2.0**-64:
        with pytest.raises(gia.attacks.NothingFound, match=r"gradients: expected entries whose squares torch\.float32"):
            problem(model, tiny)


def sized(observation, factor):
    """The observation with its gradient times a factor."""
    return replace(observation, gradients={name: g * factor for name, g in observation.gradients.items()})


def test_small_entries_of_a_small_gradient_count_under_the_cosine():
    """The largest entry's square can be held, and those of the layer that is compared are 2^-20 times as large.

    If it fails, a gradient is searched as it is though most of its entries have squares of zero.
    """
    model = tangled()
    observation = observed(model, 0, 6)
    first = next(iter(observation.gradients))
    spread = {name: g * (2.0**-10 if name == first else 1.0) for name, g in observation.gradients.items()}
    largest = max(float(g.abs().max()) for g in spread.values())
    images = torch.rand(1, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for factor in (2.0**-62 / largest, 2.0**-52 / largest):
        expected, got = (
            Matching(model, [each], objective=Cosine(layers=[first]), loss=cross_entropy, engine="plain")(
                images, observation.labels[None]
            ).values
            for each in (observation, sized(replace(observation, gradients=spread), factor))
        )
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 2.0**-90])
def test_a_trial_to_which_nothing_can_be_matched_is_lost_alone(factor):
    """If it fails, one client without a gradient ends the search of all, or gets an image that nothing speaks for."""
    model = tangled()
    good, other = observed(model, 0), observed(model, 1)
    matching = problem(model, good, sized(good, factor), other)
    images, alone = (
        torch.rand(3, 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)),
        problem(model, good, other),
    )
    values, to_images, _ = matching(images, matching.labels)
    expected = alone(images[::2], alone.labels)
    torch.testing.assert_close(values[::2], expected.values)
    torch.testing.assert_close(to_images[::2], expected.images, rtol=1e-4, atol=1e-7)
    assert values[1] == torch.inf
    assert not to_images[1].any()
    assert matching.values(images, matching.labels).isinf().tolist() == [False, True, False]
    assert matching.values(images[:2], matching.labels[:2], trials=slice(1, 2)).isinf().all()


@pytest.mark.parametrize("attack", ["dlg", "inverting_gradients", "ci_net"])
def test_an_attack_on_many_reports_the_lost_ones(attack):
    """If it fails, a batch of clients of which one shares zeros has no result, or a made-up image for that one."""
    model = tangled()
    observations = [observed(model, 0), sized(observed(model, 2), 0.0), observed(model, 1)]
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    results = gia.attacks.run_many(attack, model, observations, generators=seeds, steps=3)
    assert [len(result.images) for result in results] == [1, 0, 1]
    assert [result.lost for result in results] == [0, 1, 0]


def test_a_victim_that_is_sure_of_its_image_is_searched():
    """Its gradient is 1e-26 at the private image and near it, so that both sides of the cosine underflow."""
    model = tangled()
    images, labels = private(torch.float32, 0)
    with torch.no_grad():
        *_, bias = (p for name, p in model.named_parameters() if name.endswith("bias") and len(p) == CLASSES)
        bias -= model.eval()(images)[0]
        bias[labels] += 60
    observation = gia.share_gradient(model, images, labels, reveal=("labels",))
    at = Matching(model, [observation], objective=Cosine(), loss=cross_entropy)(images[None], observation.labels[None])
    assert float(at.values) < 1e-3
