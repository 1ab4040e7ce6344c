"""The complex-wavelet transform and CW-SSIM against dtcwt 0.14.0 and pytorch-wavelets 1.3.0 (wavelet_oracle.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gia import metrics
from gia.metrics.wavelets import analyze, levels_for

UNIT = settings.get_profile("unit")
ORACLE = json.loads(Path(__file__).with_name("wavelet_oracle.json").read_text(encoding="utf-8"))
# The oracle orders orientations by angle; ours come subband by subband: 15, 75, 45 and their mirrors 165, 105, 135.
BY_ANGLE = [0, 2, 1, 4, 5, 3]
UNIFORM = (0.15, 0.3)  # uniform noise scores from .24 at 16 px down to .17 at 224 px


def pick(cut, photo, top, left, step, size):
    """An image that the oracle names."""
    if photo == "noise":
        return torch.from_numpy(np.random.default_rng(0).random((3, *size)))
    return cut(photo, top, left, step, tuple(size))


@pytest.mark.parametrize("case", ORACLE["scores"], ids=lambda case: f"{case['one'][0]}-{case['two'][0]}-{case['size']}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cw_ssim_agrees_with_two_outside_transforms(cut, case, dtype):
    """If this fails, CW-SSIM has other wavelets, scales, borders, averages or constants than published numbers."""
    one, two = (pick(cut, *case[name], case["size"])[None].to(dtype) for name in ("one", "two"))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert float(metrics.cw_ssim(one, two)) == pytest.approx(case["cw_ssim"], abs=tolerance)
    assert levels_for(*case["size"]) == case["levels"]


def test_every_coefficient_agrees_with_the_outside_transforms(cut):
    """If this fails, a filter, an orientation or the padding of a size not divisible by four is wrong."""
    oracle = ORACLE["coefficients"]
    levels = analyze(pick(cut, *oracle["image"])[0], 3)
    for (real, imaginary), wanted_real, wanted_imaginary in zip(
        levels, oracle["real"], oracle["imaginary"], strict=True
    ):
        for ours, wanted in ((real, wanted_real), (imaginary, wanted_imaginary)):
            torch.testing.assert_close(ours[BY_ANGLE], torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-13)


def test_the_energy_of_every_orientation_and_scale_agrees_at_224_pixels(cut):
    """If this fails, large images are transformed otherwise than small ones."""
    oracle = ORACLE["energies"]
    for (real, imaginary), wanted in zip(analyze(pick(cut, *oracle["image"]), 5), oracle["levels"], strict=True):
        ours = (real.square() + imaginary.square()).sum(dim=(0, 2, 3))
        torch.testing.assert_close(ours[BY_ANGLE], torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("size", "levels"), [(8, 3), (15, 3), (16, 4), (31, 4), (32, 5), (224, 5)])
def test_there_are_five_scales_or_as_many_as_the_size_allows(size, levels):
    """If this fails, small images are scored on scales that hold padding only."""
    assert levels_for(size, 300) == levels_for(300, size) == levels


def test_identity_and_negative_both_score_one(photos):
    """If this fails, the formula has another modulus: CW-SSIM does not see a change of sign."""
    for dtype in (torch.float32, torch.float64):
        reference = photos(32, dtype=dtype)
        assert (metrics.cw_ssim(reference, reference) == 1).all()
        torch.testing.assert_close(metrics.cw_ssim(1 - reference, reference), torch.ones(4, dtype=dtype))


@UNIT
@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 32, 64]))
def test_uniform_noise_scores_far_above_zero(photos, seed, size):
    """If this fails, the noise floor that reports quote for the paper's metric is wrong."""
    reference = photos(size)
    noise = torch.rand(reference.shape, generator=torch.Generator().manual_seed(seed), dtype=reference.dtype)
    score = float(metrics.cw_ssim(noise, reference).mean())
    assert UNIFORM[0] < score < UNIFORM[1]


@UNIT
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.1), st.floats(2, 5))
def test_more_of_the_same_noise_lowers_cw_ssim(photos, noise_like, seed, amount, factor):
    """If this fails, CW-SSIM does not order attacks by their noise."""
    reference = photos(32)
    noise = noise_like(reference, seed)
    less = metrics.cw_ssim((reference + amount * noise), reference)
    more = metrics.cw_ssim((reference + factor * amount * noise), reference)
    assert (less > more).all()


def test_a_shift_by_one_pixel_costs_less_than_in_ssim(cut):
    """If this fails, the coefficients are not complex: shift tolerance is what the transform is for."""
    here, there = (cut("astronaut", 20, left, 2, (64, 64))[None] for left in (180, 182))
    assert metrics.cw_ssim(there, here) > metrics.ssim(there, here) + 0.1
