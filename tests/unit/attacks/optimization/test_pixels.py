"""The space that a pixel attack moves in."""

from __future__ import annotations

import pytest
import torch

import gia
from gia.attacks.optimization.pixels import Pixels
from tests.contracts.cases import CASES, SIZE, build

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SHAPE = (2, 3, SIZE, SIZE)


def spaces(name, dtype=torch.float64):
    """A space of a standardizing victim, and its reference parameter."""
    model = gia.models.standardize(build(CASES["dlg"], dtype), mean=MEAN, std=STD)
    reference = next(model.parameters())
    return Pixels(name, model, reference), reference


def seeded(*seeds):
    """One generator per trial."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("space", ["pixels", "standardized"])
@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_a_start_is_one_draw_for_every_dtype(space, init):
    """If it fails, float32 and float64 searches start from different images, and their difference says nothing."""
    starts = []
    for dtype in (torch.float32, torch.float64):
        pixels, reference = spaces(space, dtype)
        starts.append(pixels.start(init, SHAPE, seeded(0, 1), reference))
        assert starts[-1].dtype == dtype
        assert starts[-1].shape == (2, *SHAPE)
    torch.testing.assert_close(starts[0].double(), starts[1], rtol=1e-5, atol=1e-6)
    assert not starts[0][0].equal(starts[0][1])
    pixels, reference = spaces(space, torch.float32)
    assert pixels.start(init, SHAPE, seeded(1), reference)[0].equal(starts[0][1])


def test_starts_have_the_distribution_that_they_are_called():
    """If it fails, a start is normal in the wrong space, or uniform over something else than the images in [0, 1]."""
    shape = (64, 3, SIZE, SIZE)
    for space in ("pixels", "standardized"):
        pixels, reference = spaces(space)
        normal = pixels.start("normal", shape, seeded(0), reference)
        assert float(normal.mean()) == pytest.approx(0, abs=0.04)
        assert float(normal.std()) == pytest.approx(1, abs=0.04)
        images = pixels.images(pixels.start("uniform", shape, seeded(0), reference))
        assert images.min() > -1e-12
        assert images.max() < 1 + 1e-12
        for channel in range(3):
            assert float(images[:, :, channel].mean()) == pytest.approx(0.5, abs=0.02)
            assert float(images[:, :, channel].std()) == pytest.approx(12**-0.5, abs=0.02)


def test_gradients_follow_the_chain_rule_into_the_space():
    """If it fails, the step in standardized space is off by the standard deviations."""
    pixels, reference = spaces("standardized")
    variable = pixels.start("normal", SHAPE, seeded(0), reference).requires_grad_()
    images = pixels.images(variable)
    to_images = torch.randn(images.shape, generator=seeded(3)[0], dtype=images.dtype)
    torch.testing.assert_close(pixels.gradient(to_images), torch.autograd.grad((images * to_images).sum(), variable)[0])
    plain, _ = spaces("pixels")
    assert plain.gradient(to_images).equal(to_images)
    assert plain.images(variable).equal(variable)


@pytest.mark.parametrize("space", ["pixels", "standardized"])
def test_the_box_is_that_of_images_in_0_to_1(space):
    """If it fails, the search is clamped to another box, or another variable than the images is."""
    pixels, reference = spaces(space)
    variables = [3 * pixels.start("normal", SHAPE, seeded(0), reference), torch.full((1, 4), 9.0)]
    before = variables[0].clone()
    pixels.clamp(variables)
    torch.testing.assert_close(pixels.images(variables[0]), pixels.images(before).clamp(0, 1))
    assert variables[1].unique().item() == 9


def test_a_space_or_start_that_does_not_exist_is_named():
    """If it fails, a search moves in pixels where standardized space was asked for."""
    pixels, reference = spaces("pixels")
    with pytest.raises(ValueError, match=r"space: expected one of .*, got 'pixel'; did you mean 'pixels'"):
        spaces("pixel")
    with pytest.raises(ValueError, match=r"space: expected 'pixels' for a model without .*, got 'standardized'"):
        Pixels("standardized", build(CASES["dlg"], torch.float64), reference)
    with pytest.raises(ValueError, match=r"init: expected one of .*, got 'randn'"):
        pixels.start("randn", SHAPE, seeded(0), reference)
