"""CI-Net's decoder: sized by the images it is fitted to, and drawn as torch draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gia.models import OverParameterized


def made(image_shape, batch_size=1, seed=0):
    """A decoder."""
    generator = torch.Generator().manual_seed(seed)
    return OverParameterized(image_shape=image_shape, batch_size=batch_size, generator=generator)


def weights(decoder):
    """How many it has."""
    return sum(parameter.numel() for parameter in decoder.parameters())


@given(channels=st.sampled_from([1, 3]), height=st.integers(1, 40), width=st.integers(1, 40), images=st.integers(1, 3))
def test_it_makes_images_of_the_asked_form_and_has_more_weights_than_four_for_each_pixel(
    channels, height, width, images
):
    """If it fails, the decoder is of another resolution than the images, or is not over-parameterized for them."""
    decoder = made((channels, height, width), images)
    found = decoder(torch.randn(images, *decoder.latent_shape, generator=torch.Generator().manual_seed(1)))
    assert found.shape == (images, channels, height, width)
    assert 0 <= found.min() <= found.max() <= 1
    assert weights(decoder) > 4 * images * height * width


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 32, 32), (1, 48, 20)], ids=str)
def test_its_channels_are_doubled_from_32_exactly_when_the_images_outgrow_the_weights(shape):
    """The released settings of arXiv 2503.11514. If it fails, the width is that of another batch size or resolution."""
    pixels = shape[1] * shape[2]
    narrow = weights(made(shape))
    last = (narrow - 1) // (4 * pixels)  # the largest batch that 32 channels have enough weights for
    assert [made(shape, images).width for images in (1, last, last + 1)] == [32, 32, 64]
    assert 4 * last * pixels < narrow <= 4 * (last + 1) * pixels


def test_a_higher_resolution_has_a_wider_decoder():
    """The paper's largest setting, 64 images of 224 px, against one of them: 12.8 million pixels times four."""
    small, large = made((3, 224, 224)), made((3, 224, 224), 64)
    assert small.width < large.width
    assert weights(large) > 4 * 64 * 224 * 224


def test_weights_are_drawn_as_torch_draws_them_in_float32():
    """If it fails, the start of a search is not torch's default, or hangs on the default dtype of the process."""
    torch.set_default_dtype(torch.float64)
    try:
        ours = list(made((3, 8, 8), seed=3).body.parameters())
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Linear(128, 32 * 16), nn.BatchNorm2d(32), nn.Conv2d(32, 3, 3)
    theirs = [parameter for layer in layers for parameter in layer.parameters()]
    assert [each.dtype for each in ours] == [torch.float32] * 6
    assert all(mine.equal(their) for mine, their in zip(ours, theirs, strict=True))


def test_each_generator_draws_other_weights_and_the_global_state_stays():
    """If it fails, two trials search from one decoder, or a user's random numbers move."""
    before = torch.get_rng_state()
    one, same, other = (next(made((3, 8, 8), seed=seed).parameters()) for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)
    assert torch.get_rng_state().equal(before)
