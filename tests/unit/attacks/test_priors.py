"""Total variation, written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia.attacks.optimization.pixels import penalty
from gia.attacks.priors import TotalVariation
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
