"""PSNR and exactness: against scikit-image, and where published conventions go wrong."""

import pytest
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import metrics

UNIT = settings.get_profile("unit")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 64, 224])
def test_psnr_agrees_with_scikit_image_image_by_image(photos, noise_like, size, channels, dtype):
    """If this fails, PSNR has another peak, is averaged over the batch, or depends on size, channels or dtype."""
    reference = photos(size, channels=channels, dtype=dtype)
    reconstruction = (reference + 0.1 * noise_like(reference, 0)).clamp(0, 1)
    ours = metrics.psnr(reconstruction, reference)
    theirs = [
        skimage.metrics.peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=1)
        for x, y in zip(reference, reconstruction, strict=True)
    ]
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), torch.tensor(theirs, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_uniform_error_of_a_tenth_is_twenty_decibels(photos):
    """If this fails, the peak is not 1: 10 log10(1 / .01) = 20 by hand."""
    reference = photos(16) * 0.8
    torch.testing.assert_close(metrics.psnr(reference + 0.1, reference), torch.full((4,), 20.0, dtype=torch.float64))


def test_an_exact_image_does_not_poison_the_mean_of_its_batch(photos, noise_like):
    """If this fails, one exact image makes a batch mean infinite, as in the code of several published attacks."""
    reference = photos(32)
    reconstruction = (reference + 0.1 * noise_like(reference, 0)).clamp(0, 1)
    reconstruction[1] = reference[1]
    scores = metrics.psnr(reconstruction, reference)
    assert scores[1] == metrics.PSNR_CAP == 100
    assert scores.isfinite().all()
    assert (scores[[0, 2, 3]] < 30).all()


def test_nearly_exact_images_stop_at_the_cap_too(photos):
    """If this fails, an analytic attack in float64 scores 300 dB and outweighs every other image in a mean."""
    reference = photos(32) * 0.5
    assert (metrics.psnr(reference + 1e-12, reference) == metrics.PSNR_CAP).all()
    torch.testing.assert_close(metrics.psnr(reference + 1e-4, reference), torch.full((4,), 80.0, dtype=torch.float64))


def test_reconstructions_are_clamped_before_they_are_compared(photos):
    """If this fails, an attack is charged for values that no picture shows."""
    reference = photos(16)
    beyond = torch.where(reference >= 0.5, reference + 5, reference - 5)
    assert metrics.psnr(beyond, reference).equal(metrics.psnr(beyond.clamp(0, 1), reference))
    assert (metrics.psnr(torch.where(reference == 1, 3.0, reference), reference) == metrics.PSNR_CAP).all()


@UNIT
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.3), st.floats(1.2, 5))
def test_more_of_the_same_noise_is_never_better(photos, noise_like, seed, amount, factor):
    """If this fails, PSNR does not order attacks by their error."""
    reference = photos(16, dtype=torch.float32)
    noise = noise_like(reference, seed)
    less = metrics.psnr(reference + amount * noise, reference)
    more = metrics.psnr(reference + factor * amount * noise, reference)
    assert (less > more).all()


def test_exactness_is_judged_before_clamping_and_by_the_worst_pixel(photos):
    """If this fails, clamping forgives an analytic attack its errors beyond [0,1], or a mean hides one wrong pixel."""
    reference = photos(16)
    reference[0, 0, 0, 0] = 1
    beyond = reference.clone()
    beyond[0, 0, 0, 0] = 1.5
    assert metrics.exact(beyond, reference).tolist() == [False, True, True, True]
    assert metrics.psnr(beyond, reference)[0] == metrics.PSNR_CAP


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_exactness_has_the_limit_of_its_dtype(photos, dtype, limit):
    """If this fails, exact counts differ from the limits that architecture.md states: 1e-9 and 1e-3."""
    reference = photos(16, dtype=dtype) * 0.5
    assert metrics.exact(reference + 0.9 * limit, reference).all()
    assert not metrics.exact(reference + 1.1 * limit, reference).any()
