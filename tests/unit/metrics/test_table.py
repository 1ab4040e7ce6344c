"""The table of metrics: sizes, units, tolerances, and the shares of exact images."""

import math

import pytest
import torch

from gia import metrics


def test_the_table_has_the_units_directions_and_tolerances_of_stored_samples():
    """If this fails, stored samples are compared more loosely, or an improvement is taken for a loss."""
    rows = {
        name: (metric.unit, metric.higher_is_better, metric.tolerance, metric.platform_spread)
        for name, metric in metrics.METRICS.items()
    }
    assert rows == {
        "psnr": ("dB", True, 1e-5, 1e-6),
        "ssim": ("1", True, 1e-5, 0),
        "cw_ssim": ("1", True, 1e-5, 0),
        "lpips": ("1", False, 1e-5, 0),
        "lpips_vgg": ("1", False, 1e-5, 0),
        "rmse": ("1", False, 1e-5, 0),
        "exact_share": ("1", True, 1e-5, 0),
        "recovered_share": ("1", True, 1e-5, 0),
    }


@pytest.mark.parametrize("name", metrics.METRICS)
def test_each_metric_is_defined_from_its_minimum_on(photos, name):
    """If this fails, a metric is reported as undefined where it exists, or raises where it should exist."""
    metric = metrics.METRICS[name]
    images = photos(64, count=2)[:, :, : metric.minimum, : metric.minimum]
    assert metric.function(images, images.flip(0)).shape == (2,)
    if metric.minimum > 1:
        small = images[..., 1:, 1:]
        with pytest.raises(ValueError, match=f"reference: expected at least {metric.minimum} pixels"):
            metric.function(small, small)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_the_direction_says_which_of_two_images_is_better(photos, noise_like, name):
    """If this fails, a worse reconstruction counts as an improvement of a stored sample."""
    reference = photos(32, count=2)
    metric = metrics.METRICS[name]
    exact = metric.function(reference, reference)
    noisy = metric.function(reference + 0.1 * noise_like(reference, 0), reference)
    assert ((exact > noisy) if metric.higher_is_better else (exact < noisy)).all()


@pytest.mark.parametrize(("tolerance", "spread"), [(1e-6, 1e-5), (math.inf, 0.0), (math.nan, 0.0), (-1.0, 0.0)])
def test_a_tolerance_below_the_platform_spread_or_without_a_limit_is_refused(tolerance, spread):
    """If this fails, a stored sample fails on another machine, or accepts any value."""
    with pytest.raises(ValueError, match=r"^tolerance: expected"):
        metrics.Metric(metrics.rmse, tolerance=tolerance, platform_spread=spread)
    with pytest.raises(ValueError, match=r"^platform_spread: expected"):
        metrics.Metric(metrics.rmse, platform_spread=-1.0)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_exact_is_every_pixel_within_the_limit_of_its_dtype_unclamped(dtype, limit):
    """If this fails, one wrong pixel, or one beyond [0, 1] that clamping would hide, counts as an exact image."""
    images = torch.ones(4, 3, 8, 8, dtype=dtype)
    off = images.clone()
    off[:, 0, 0, 0] += torch.tensor([0, 0.5, 2, -2]).to(dtype) * limit
    assert metrics.exact_share(off, images).tolist() == [1, 1, 0, 0]
    assert metrics.recovered_share(off, images).tolist() == [1, 1, *[dtype == torch.float64] * 2]


def test_rmse_is_a_hundredth_of_the_range_at_forty_decibels(photos):
    """If this fails, the root or the mean is another: by hand, PSNR = -20 log10(RMSE), after clamping."""
    reference = photos(16)
    reconstruction = (reference + 0.01).clamp(0, 1)
    expected = 10 ** (-metrics.psnr(reconstruction, reference) / 20)
    torch.testing.assert_close(metrics.rmse(reconstruction, reference), expected)
    assert metrics.rmse(torch.full((1, 1, 4, 4), 9.0), torch.full((1, 1, 4, 4), 0.25)).tolist() == [0.75]
