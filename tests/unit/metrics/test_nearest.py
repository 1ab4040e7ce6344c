"""LPIPS to the nearest of many real images, with its cache of features."""

import pytest
import torch

from gia import metrics
from gia.metrics.perceptual import pairwise


def drawn(count, size=32):
    """Uniform noise (count, 1, size, size)."""
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(count))


def test_the_distance_to_the_nearest_does_not_depend_on_earlier_calls():
    """If this fails, cached features of other real images give the distance."""
    real, images = drawn(metrics.NEAREST_OF), drawn(2)
    for shown in (real, torch.cat([real[:50], 1 - real[50:]]), real / 2):
        expected = pairwise(2 * images - 1, 2 * shown - 1, net="vgg").amin(1)
        torch.testing.assert_close(metrics.lpips_nearest(images, shown), expected, rtol=1e-4, atol=0)
        assert metrics.lpips_nearest(shown[[7]], shown).tolist() == pytest.approx([0], abs=1e-6)


def test_too_few_or_too_small_real_images_are_refused():
    """If this fails, distances to fewer images are larger and pass for less real ones, or come from empty features."""
    images, few, small = drawn(2), drawn(metrics.NEAREST_OF - 1), drawn(metrics.NEAREST_OF, size=31)
    with pytest.raises(ValueError, match="real: expected at least 100 images, got 99"):
        metrics.lpips_nearest(images, few)
    with pytest.raises(ValueError, match="real: expected at least 32 pixels in height and width"):
        metrics.lpips_nearest(images[..., :31, :31], small)
    with pytest.raises(ValueError, match=r"reconstruction: expected the height and width of real, \(33, 33\)"):
        metrics.lpips_nearest(images, drawn(metrics.NEAREST_OF, size=33))
