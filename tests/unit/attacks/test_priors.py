"""Priors, written out by other means: pixel by pixel, layer by layer, trial by trial."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gia
from gia.attacks.alignment import shift
from gia.attacks.optimization.pixels import penalty
from gia.attacks.priors import (
    BatchNormStatistics,
    GroupConsistency,
    L2Norm,
    PatchConsistency,
    TotalVariation,
    known_statistics,
)
from gia.federated.layers import BatchStatistics
from tests.contracts.cases import private

SHAPES = st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(1, 6)] * 2)


def written_out(images):
    """Mean absolute difference of neighbours across plus down; a direction without neighbours adds nothing."""
    count, channels, height, width = images.shape
    across = [
        abs(float(images[n, c, i, j + 1] - images[n, c, i, j]))
        for n in range(count)
        for c in range(channels)
        for i in range(height)
        for j in range(width - 1)
    ]
    down = [
        abs(float(images[n, c, i + 1, j] - images[n, c, i, j]))
        for n in range(count)
        for c in range(channels)
        for i in range(height - 1)
        for j in range(width)
    ]
    return sum(across) / max(len(across), 1) + sum(down) / max(len(down), 1)


@given(shape=SHAPES, weight=st.floats(0, 10), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_it_is_the_mean_difference_of_neighbours_per_trial(shape, weight, seed):
    """If it fails, the border is charged, or the sum is divided by something else than documented (by H*W, by one mean
    over both directions, over trials), and published weights no longer fit."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [weight * written_out(trial) for trial in images]
    assert TotalVariation(weight)(images).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(shape=SHAPES, weight=st.floats(0, 10), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_its_closed_form_is_its_derivative(shape, weight, seed):
    """If it fails, the search follows another penalty than the one that its starts and iterates are judged by."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    value = TotalVariation(weight)(images)
    expected = torch.autograd.grad(value.sum(), images)[0]
    for found in (penalty([TotalVariation(weight)], images), penalty([TotalVariation(weight / 2)] * 2, images)):
        torch.testing.assert_close(found[0], value.detach(), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(found[1], expected, rtol=1e-12, atol=1e-15)
    other = penalty([lambda images: TotalVariation(weight)(images)], images)  # by autograd, as any prior
    torch.testing.assert_close(other[1], expected, rtol=1e-12, atol=1e-15)


def test_a_ramp_costs_its_slope_and_a_constant_nothing():
    """If it fails, the border is charged: a constant image has no variation, a ramp of slope 1/8 an eighth."""
    ramp = (torch.arange(8.0) / 8).expand(1, 1, 3, 5, 8)
    assert float(TotalVariation(1.0)(ramp)) == 1 / 8
    assert float(TotalVariation(1.0)(ramp.transpose(-1, -2))) == 1 / 8
    assert float(TotalVariation(1.0)(torch.full((1, 2, 3, 4, 4), 0.7))) == 0


def test_a_photo_has_less_of_it_than_noise():
    """If it fails, the prior pulls away from natural images."""
    images, _ = private(torch.float64, 0, 1, 2, 3)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (TotalVariation(1.0)(images[:, None]) < TotalVariation(1.0)(noise[:, None])).all()


@given(shape=SHAPES, weight=st.floats(0, 10), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_its_closed_form_is_what_autograd_finds(shape, weight, seed):
    """If it fails, attacks descend along something else than the penalty, also where neighbours are equal."""
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    images = (drawn * 3).round().requires_grad_()
    prior = TotalVariation(weight)
    values, gradient = prior.with_gradient(images.detach())
    (expected,) = torch.autograd.grad(prior(images).sum(), images)
    torch.testing.assert_close(values, prior(images.detach()), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_its_gradient_is_that_of_each_trial_alone():
    """If it fails, trials share one backward pass and get each other's gradients."""
    images = torch.rand(3, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    priors = [TotalVariation(0.5), TotalVariation(0.25)]
    values, along = penalty(priors, images)
    assert torch.autograd.gradcheck(TotalVariation(0.5), images[:1].clone().requires_grad_())
    for trial in range(3):
        value, gradient = penalty([TotalVariation(0.75)], images[trial : trial + 1])
        torch.testing.assert_close(values[trial], value[0])
        torch.testing.assert_close(along[trial], gradient[0])
    assert not values.requires_grad
    assert not along.requires_grad


def test_the_l2_norm_is_that_of_a_trial_and_flat_at_black():
    """If it fails, images of a trial are normed one by one, or a black start has a gradient that is not a number."""
    images = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, along = penalty([L2Norm(0.5)], images)
    assert values.tolist() == pytest.approx(
        [0.5 * sum(x**2 for x in trial.flatten().tolist()) ** 0.5 for trial in images]
    )
    torch.testing.assert_close(along, 0.25 * images / values.view(-1, 1, 1, 1, 1))
    assert penalty([L2Norm(0.5)], torch.zeros_like(images))[1].equal(torch.zeros_like(images))


def trained(dtype=torch.float64):
    """The trained CIFAR-10 network."""
    return gia.models.pretrained("cifar10-cnn").to(dtype)


def pixels():
    """Its test images, in full size, and their labels."""
    data = gia.data.load("cifar10-samples")
    return data.images.double(), data.labels


def small(training=False):
    """A small net whose batch normalizations, 2D and 1D, have seen data: two batches of photos."""
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, dtype=torch.float64),
        torch.nn.BatchNorm2d(4, dtype=torch.float64),
        torch.nn.Sigmoid(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 6 * 6, 5, dtype=torch.float64),
        torch.nn.BatchNorm1d(5, dtype=torch.float64),
        torch.nn.Linear(5, 10, dtype=torch.float64),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.5)
    net.train()
    for batch in (range(10), range(10, 20)):
        net(private(torch.float64, *batch)[0])
    return net.train(training)


@pytest.mark.parametrize("leaked", [False, True], ids=["running", "leaked"])
def test_batch_statistics_are_compared_layer_by_layer_with_what_is_known(leaked):
    """On the trained net, against a client's own record of one batch at a time and sums of squares: the first layer ten
    times, means and variances by their norms, never squared. If it fails, trials share their statistics, the leaked
    ones are passed over, or the first layer is not the first."""
    model, images, labels = trained(), *pixels()
    batches = images[:8].view(4, 2, 3, 32, 32)
    reveal = ("labels", "batch_norm") if leaked else ("labels",)
    observations = [
        gia.share_gradient(model, images[i : i + 2], labels[i : i + 2], reveal=reveal) for i in (8, 10, 12, 14)
    ]
    prior = BatchNormStatistics(0.1, model, [known_statistics(model, o) for o in observations], training=False)
    expected = []
    for batch, observation in zip(batches, observations, strict=True):
        with BatchStatistics(model) as here, torch.no_grad():
            model(batch)
        total = 0.0
        for factor, (name, (mean, variance)) in zip([1.0] + [0.1] * 5, here.seen.items(), strict=True):
            layer = model.get_submodule(name)
            known = observation.batch_norm[name] if leaked else (layer.running_mean, layer.running_var)
            total += factor * float(
                (mean - known[0]).square().sum() ** 0.5 + (variance - known[1]).square().sum() ** 0.5
            )
        expected.append(total)
    assert prior(batches).tolist() == pytest.approx(expected, rel=1e-10)


def test_the_private_batch_has_no_penalty_where_its_statistics_leaked():
    """If it fails, the prior's variance is not the biased one that leaks, or pulls away from the truth."""
    model, images, labels = trained(), *pixels()
    observation = gia.share_gradient(model, images[:2], labels[:2], reveal=("batch_norm",))
    prior = BatchNormStatistics(1.0, model, [known_statistics(model, observation)], training=False)
    private_batch, other = images[None, :2], images[None, 2:4]
    assert float(prior(private_batch)) < 1e-9 * float(prior(other))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_prior_s_gradient_is_its_derivative_and_trials_never_mix(training):
    """If it fails, the search follows something else than the penalty, or, in training mode, a trial is normalized by
    another one's images."""
    model = small(training)
    images, labels = private(torch.float64, *range(12))
    observation = gia.share_gradient(model, images[8:11], labels[8:11], reveal=("labels",), training=training)
    known = known_statistics(model, observation)
    prior = BatchNormStatistics(0.3, model, [known] * 2, training=training)
    batches = images[:6].view(2, 3, 3, 8, 8)
    assert torch.autograd.gradcheck(prior, batches.clone().requires_grad_())
    values, along = penalty([prior], batches)
    for trial in (0, 1):
        alone = penalty([BatchNormStatistics(0.3, model, [known], training=training)], batches[trial : trial + 1])
        torch.testing.assert_close(values[trial], alone[0][0])
        torch.testing.assert_close(along[trial], alone[1][0])


def test_a_layer_that_has_seen_no_data_tells_nothing():
    """If it fails, an untrained net's mean 0 and variance 1 are taken for those of natural images."""
    model, (images, labels) = small(), private(torch.float64, 0, 1)
    plain, leaky = (gia.share_gradient(model, images, labels, reveal=r) for r in ((), ("batch_norm",)))
    assert list(known_statistics(model, plain)) == ["1", "5"]
    model[1].reset_running_stats()
    assert list(known_statistics(model, plain)) == ["5"]
    model[5] = torch.nn.BatchNorm1d(5, track_running_stats=False)
    assert known_statistics(model, plain) == {}
    assert list(known_statistics(model, leaky)) == ["1", "5"]


def test_what_is_known_survives_the_model_and_differs_by_trial_only_in_value():
    """If it fails, the target moves with the model's buffers, or trials with other layers are compared wrongly."""
    model, (images, labels) = small(), private(torch.float64, 0, 1)
    observation = gia.share_gradient(model, images, labels)
    known = known_statistics(model, observation)
    before = {name: [value.clone() for value in pair] for name, pair in known.items()}
    model.train()(images)
    assert all(value.equal(kept) for name in known for value, kept in zip(known[name], before[name], strict=True))
    with pytest.raises(ValueError, match="batch_norm: expected statistics of the same layers in all trials"):
        BatchNormStatistics(1.0, model, [known, {"1": known["1"]}], training=False)


def test_candidates_are_pulled_to_their_registered_mean_and_no_further():
    """Two observations of three candidates each; one candidate is shifted. If it fails, the mean moves with the
    derivative, an observation is pulled to another's mean, or the shift is not undone."""
    images = gia.data.load("cifar10-samples").images.double()[:8].view(2, 1, 4, 3, 32, 32)
    candidates = images.expand(2, 3, 4, 3, 32, 32).clone()
    candidates[1, 2] = shift(images[1, 0], torch.tensor([[1, -2]] * 4))
    labels = torch.arange(4).expand(6, 4)
    prior = GroupConsistency(0.5, 3, labels, radius=2)
    values, along = penalty([prior], candidates.flatten(0, 1))
    assert values[:3].tolist() == [0, 0, 0]
    assert along[:3].abs().max() == 0
    apart = 0.5 * float((candidates[1, 2] - images[1, 0])[..., 4:-4, 4:-4].norm())
    assert float(values[5]) > apart > 10 * float(values[3])
    mean = candidates[1, 2] - along[5] * float(values[5]) / 0.25
    assert (mean - images[1, 0])[..., 4:-4, 4:-4].abs().max() < 1e-9


def seams_written_out(images, size):
    """Over each line between two patches, the root of the sum of squared steps across it."""
    count, channels, height, width = images.shape
    total = 0.0
    for place in range(1, width):
        if place % size == 0:
            steps = (
                images[n, c, i, place] - images[n, c, i, place - 1]
                for n in range(count)
                for c in range(channels)
                for i in range(height)
            )
            total += float(sum(step**2 for step in steps)) ** 0.5
    for place in range(1, height):
        if place % size == 0:
            steps = (
                images[n, c, place, j] - images[n, c, place - 1, j]
                for n in range(count)
                for c in range(channels)
                for j in range(width)
            )
            total += float(sum(step**2 for step in steps)) ** 0.5
    return total


@given(shape=SHAPES, size=st.integers(1, 7), weight=st.floats(0, 10), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_patch_consistency_counts_the_steps_over_the_seams_and_nothing_inside_a_patch(shape, size, weight, seed):
    """If it fails, the prior smooths patches, or charges the border of the image."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [weight * seams_written_out(trial, size) for trial in images]
    assert PatchConsistency(weight, size)(images).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_patch_consistency_has_no_gradient_where_there_is_no_step():
    """If it fails, a constant start is NaN after one step."""
    along = penalty([PatchConsistency(0.5, 2)], torch.full((1, 1, 3, 4, 4), 0.5))[1]
    assert along.equal(torch.zeros_like(along))


def test_patch_consistency_closes_the_seams_of_a_vision_transformers_reconstruction():
    """If it fails, the prior that was made for Vision Transformers does nothing there."""
    timm = pytest.importorskip("timm", reason="Vision Transformers need timm")
    assert timm
    seed = torch.Generator().manual_seed(0)
    model = gia.models.build("vit_tiny", num_classes=10, image_size=16, patch=4, width=24, depth=1, generator=seed)
    images, labels = private(torch.float32, 0)
    images = torch.nn.functional.interpolate(images, size=16)
    observation = gia.share_gradient(model, images, labels, reveal=("labels",))

    def seams(*priors):
        generator = torch.Generator().manual_seed(1)
        found = gia.attacks.inverting_gradients(
            model, observation, generator=generator, steps=40, total_variation=0.0, priors=priors
        )
        return float(PatchConsistency(1.0, 4)(found.images[None]))

    assert seams(PatchConsistency(0.1, 4)) < 0.5 * seams()
