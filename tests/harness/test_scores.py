"""Where each score is defined, and what it counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gia import metrics
from gia.harness import scores
from gia.harness.run import measure
from tests.harness.toy import BLOCK, PROTOCOL


def test_a_metric_that_is_not_defined_at_this_size_is_none() -> None:
    """A made-up number, or a crash over a metric that only decorates, would stand in the table."""
    seen = measure(replace(PROTOCOL, score=("psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg")), BLOCK)
    assert {name for name, value in seen.values.items() if value is None} == {"ssim", "lpips", "lpips_vgg"}
    assert set(seen.per_image) == {"psnr", "cw_ssim"}


def test_each_metric_is_defined_from_its_smallest_size_on() -> None:
    """A metric would be n/a where it exists, or raise where it does not."""
    for name, metric in scores.METRICS.items():
        if name.startswith("lpips"):
            assert metric.minimum == metrics.perceptual.SMALLEST
            continue  # needs trained trunks; the limit is that of gia.metrics
        images = torch.rand(2, 3, metric.minimum, metric.minimum, generator=torch.Generator().manual_seed(0))
        assert scores.score(name, images, images.flip(3)) is not None
        if metric.minimum > 1:
            small = images[..., : metric.minimum - 1, : metric.minimum - 1]
            assert scores.score(name, small, small) is None
            with pytest.raises(ValueError, match=str(metric.minimum)):
                metric.function(small, small)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_exact_is_every_pixel_within_the_limit_of_its_dtype_unclamped(dtype: torch.dtype, limit: float) -> None:
    """One wrong pixel, or one beyond [0, 1] that clamping would hide, would count as an exact image."""
    images = torch.ones(4, 3, 8, 8, dtype=dtype)
    off = images.clone()
    off[:, 0, 0, 0] += torch.tensor([0, 0.5, 2, -2]).to(dtype) * limit
    assert scores.score("exact_share", off, images) == [1, 1, 0, 0]
    assert scores.score("recovered_share", off, images) == [1, 1, *[dtype == torch.float64] * 2]


def test_the_distance_to_the_nearest_does_not_hang_on_what_was_seen_before() -> None:
    """Features of real images are kept from block to block: those of another one would give the distance."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(scores.NEAREST_OF, 1, 32, 32, generator=generator)
    result = torch.rand(2, 1, 32, 32, generator=generator)
    for shown in (real, torch.cat([real[:50], 1 - real[50:]]), real / 2):
        expected = metrics.perceptual.pairwise(2 * result - 1, 2 * shown - 1, net="vgg").amin(1).tolist()
        assert scores.lpips_nearest(result, shown) == pytest.approx(expected, rel=1e-4)
