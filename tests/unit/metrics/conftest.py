"""Real photos at any size for the metric tests, and noise for hypothesis to draw."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

CROPS = [
    ("astronaut", 20, 180),
    ("coffee", 100, 200),
    ("chelsea", 50, 100),
    ("rocket", 60, 200),
    ("astronaut", 200, 30),
    ("coffee", 10, 330),
    ("chelsea", 70, 180),
    ("astronaut", 280, 250),
]


@cache
def pixels(photo: str) -> np.ndarray:
    """A photo that scikit-image ships, (H,W,3), uint8."""
    return getattr(skimage.data, photo)()


def cut(photo: str, top: int, left: int, step: int, size: tuple[int, int]) -> Tensor:
    """Every `step`-th pixel of a photo from (top, left): (3,H,W), float64, in [0,1]."""
    part = pixels(photo)[top::step, left::step][: size[0], : size[1]]
    return torch.from_numpy(np.moveaxis(part, -1, 0) / 255)


def photos(size: int, *, count: int = 4, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Crops of photos (count, channels, size, size), at most 224 pixels high and wide; gray is the green channel."""
    step = 4 if size <= 32 else 2 if size <= 64 else 1
    batch = torch.stack([cut(*crop, step, (size, size)) for crop in CROPS[:count]])
    return (batch if channels == 3 else batch[:, 1:2]).to(dtype)


def noise_like(images: Tensor, seed: int) -> Tensor:
    """Normal noise of the shape and dtype of `images`."""
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=images.dtype)


@pytest.fixture(scope="session", name="photos")
def _photos() -> Callable[..., Tensor]:
    return photos


@pytest.fixture(scope="session", name="cut")
def _cut() -> Callable[..., Tensor]:
    return cut


@pytest.fixture(scope="session", name="noise_like")
def _noise_like() -> Callable[..., Tensor]:
    return noise_like
