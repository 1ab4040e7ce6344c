"""How real an image looks: its perceptual distance to the nearest of many real images."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gia.metrics._checks import image_batch, reference_batch
from gia.metrics.perceptual import SMALLEST, between, features

__all__ = ["NEAREST_OF", "lpips_nearest"]

NEAREST_OF = 100
"""Number of real images among which `lpips_nearest` looks for the nearest one."""

#: Features are cached for real images of at most this many values: 0.5 MB per image at 32 pixels, 25 MB at 224.
_CACHED = 3 * 64 * 64


@torch.no_grad()
def lpips_nearest(reconstruction: Tensor, real: Tensor) -> Tensor:
    """LPIPS with VGG16 between each image and the nearest of `NEAREST_OF` real images, computed in float32 on the CPU.

    It needs no original: a small distance says that the image looks like the real ones, not that it is the private one.
    The features of small real images are cached between calls.

    Args:
        reconstruction: images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        real: at least `NEAREST_OF` real images (N,C,H,W), in [0,1], C = 1 or 3, at least 32 pixels high and wide, none
            of them attacked; the first `NEAREST_OF` count.

    Returns:
        Tensor (B,), float32, at least 0, on the device of `reconstruction`.

    Raises:
        FileNotFoundError, gia.data.assets.AssetError: as `lpips`.
        TypeError, ValueError: too few or too small real images; otherwise see `gia.metrics`.

    >>> import torch, gia
    >>> faces = gia.data.load("faces", image_size=32).images
    >>> real = faces[:1].expand(gia.metrics.NEAREST_OF, -1, -1, -1)  # one image only, so that the example is fast
    >>> [round(distance, 3) for distance in gia.metrics.lpips_nearest(faces[:2], real).tolist()]
    [0.0, 0.385]
    """
    if isinstance(real, Tensor) and len(real) < NEAREST_OF:
        raise ValueError(f"real: expected at least {NEAREST_OF} images, got {len(real)}")
    real = reference_batch(real, "real", smallest=SMALLEST)[:NEAREST_OF].cpu().float()
    images = image_batch(reconstruction, "reconstruction").cpu().float()  # a perceptual distance needs no more digits
    if images.shape[2:] != real.shape[2:]:
        raise ValueError(
            f"reconstruction: expected the height and width of real, {tuple(real.shape[2:])}, "
            f"got {tuple(images.shape[2:])}"
        )
    features_of = _cached_features if real[0].numel() <= _CACHED else _cached_features.__wrapped__
    known = [features_of(image.numpy().tobytes(), image.shape) for image in real]
    layers = [torch.cat(layer) for layer in zip(*known, strict=True)]
    distances = between(features(2 * images.clamp(0, 1) - 1, "vgg"), layers)
    return distances.amin(1).to(reconstruction.device)


@lru_cache(maxsize=3 * NEAREST_OF // 2)
def _cached_features(image: bytes, shape: torch.Size) -> list[Tensor]:
    """Features of one real image, float32 (C,H,W); callers pass mostly the same images, and VGG16 is slow."""
    pixels = torch.frombuffer(bytearray(image), dtype=torch.float32).view(1, *shape)
    return features(2 * pixels - 1, "vgg")
