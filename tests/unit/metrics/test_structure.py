"""SSIM against scikit-image, and the relative data leakage value by hand."""

import pytest
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import metrics

UNIT = settings.get_profile("unit")


def outside(x, y, **options):
    """scikit-image's SSIM with the weights and moments of Wang et al. (2004), averaged over windows and channels."""
    return skimage.metrics.structural_similarity(
        x.numpy(),
        y.numpy(),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        **options,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [11, 16, 32, 64, 224])
def test_ssim_agrees_with_scikit_image(photos, noise_like, size, channels, dtype):
    """If this fails, SSIM has other windows, constants, degrees of freedom or borders than Wang et al. (2004)."""
    reference = photos(size, channels=channels, dtype=dtype)
    reconstruction = (reference + 0.1 * noise_like(reference, 0)).clamp(0, 1)
    reconstruction[1] = reference[2]
    ours = metrics.ssim(reconstruction, reference)
    theirs = [outside(x.double(), y.double()) for x, y in zip(reference, reconstruction, strict=True)]
    assert ours.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours.double(), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=tolerance)


def test_windows_that_leave_the_image_do_not_count(photos, noise_like):
    """If this fails, SSIM pads the border, which moves it at 32 px; scikit-image's full map shows by how much."""
    reference = photos(32)
    reconstruction = (reference + 0.2 * noise_like(reference, 0)).clamp(0, 1)
    ours = metrics.ssim(reconstruction, reference)
    padded = [outside(x, y, full=True)[1].mean() for x, y in zip(reference, reconstruction, strict=True)]
    assert (ours - torch.tensor(padded)).abs().max() > 0.003


def test_identical_images_score_exactly_one_and_a_negative_below_zero(photos):
    """If this fails, the exact case depends on rounding, or SSIM has lost its sign."""
    for dtype in (torch.float32, torch.float64):
        reference = photos(32, count=3, dtype=dtype)  # the fourth is flat sky: no structure whose sign could change
        assert (metrics.ssim(reference, reference) == 1).all()
        assert (metrics.ssim(1 - reference, reference) < 0).all()


@UNIT
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.15), st.floats(1.5, 4))
def test_more_of_the_same_noise_lowers_ssim(photos, noise_like, seed, amount, factor):
    """If this fails, SSIM does not order attacks by their noise."""
    reference = photos(32, dtype=torch.float32)
    noise = noise_like(reference, seed)
    less = metrics.ssim(reference + amount * noise, reference)
    more = metrics.ssim(reference + factor * amount * noise, reference)
    assert (less > more).all()
    assert ((less <= 1) & (more >= -1)).all()


def test_rdlv_is_the_ssim_gained_over_the_prior_in_units_of_the_priors(photos, noise_like):
    """If this fails, RDLV is not (SSIM(rec) - SSIM(prior)) / SSIM(prior) of Hatamizadeh et al. (2023)."""
    reference = photos(32)
    reconstruction = (reference + 0.05 * noise_like(reference, 0)).clamp(0, 1)
    prior = reference.mean(dim=0)
    scores = metrics.rdlv(reconstruction, reference, prior=prior)
    for index in range(4):
        known = outside(reference[index], prior)
        expected = (outside(reference[index], reconstruction[index]) - known) / known
        assert float(scores[index]) == pytest.approx(expected, rel=1e-9)
    each = prior.expand_as(reference)
    assert metrics.rdlv(each, reference, prior=each).abs().max() == 0


def test_a_prior_without_similarity_is_refused(photos):
    """If this fails, RDLV divides by zero or by a negative number and reports the wrong sign."""
    reference = photos(32)
    with pytest.raises(ValueError, match=r"prior: expected a positive SSIM.*\[0, 1, 2\]"):
        metrics.rdlv(reference, reference, prior=1 - reference)
    with pytest.raises(ValueError, match=r"prior: expected the shape of reference"):
        metrics.rdlv(reference, reference, prior=reference[:2])
