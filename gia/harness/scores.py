"""The metrics by name, as protocols ask for them, each with the size from which it is defined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from gia import metrics
from gia.metrics.perceptual import between, features


@dataclass(frozen=True)
class Metric:
    """(reconstruction, reference) -> (B,), both (B, C, H, W) in [0, 1]; defined from `minimum` pixels a side."""

    function: Callable[[Tensor, Tensor], Tensor]
    minimum: int = 1


def rmse(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Root mean squared error per pixel and channel of each image, after clamping, in [0, 1]; shape (B,)."""
    return (reconstruction.clamp(0, 1) - reference).square().flatten(1).mean(1).sqrt()


def exact_share(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """1 for each image whose every pixel is within 1e-9 in float64, 1e-3 in float32, unclamped; else 0; shape (B,)."""
    return _within(1e-9 if reconstruction.dtype == torch.float64 else 1e-3, reconstruction, reference)


def recovered_share(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """`exact_share` to float32's 1e-3 in either dtype: an update loses digits to the weights' own; shape (B,)."""
    return _within(1e-3, reconstruction, reference)


def _within(limit: float, reconstruction: Tensor, reference: Tensor) -> Tensor:
    return ((reconstruction - reference).abs().flatten(1).amax(1) <= limit).to(reference.dtype)


METRICS: Mapping[str, Metric] = {
    "psnr": Metric(metrics.psnr),
    "ssim": Metric(metrics.ssim, minimum=11),
    "cw_ssim": Metric(metrics.cw_ssim, minimum=8),
    "lpips": Metric(metrics.lpips, minimum=32),
    "lpips_vgg": Metric(partial(metrics.lpips, net="vgg"), minimum=32),
    "rmse": Metric(rmse),
    "exact_share": Metric(exact_share),
    "recovered_share": Metric(recovered_share),
}


#: Scores that take more than a reconstruction and its original (`gia.harness.scene`): "psnr_other", PSNR to another
#: image of the same label; "psnr_lost", how much more PSNR the same attack has where a fished image is the whole
#: batch; "label_agreement", 1 where the protocol's judge sees the original's label; "lpips_nearest",
#: LPIPS with VGG to the nearest of real images that nobody attacked.
CONTEXTUAL = frozenset({"psnr_other", "psnr_lost", "label_agreement", "lpips_nearest"})

#: Real images among which "lpips_nearest" looks.
NEAREST_OF = 100


def lpips_nearest(result: Tensor, real: Tensor) -> list[float] | None:
    """LPIPS-VGG of each image (B, C, H, W) to the nearest of `real` (N, C, H, W), both in [0, 1]; None below 32 pixels.

    Raises ValueError for fewer real images than `NEAREST_OF`.
    """
    if len(real) < NEAREST_OF:
        raise ValueError(f"lpips_nearest: expected at least {NEAREST_OF} real images, got {len(real)}")
    if min(real.shape[-2:]) < METRICS["lpips_vgg"].minimum:
        return None
    result, real = result.float(), real[:NEAREST_OF].float()  # a perceptual distance needs no more digits
    with torch.no_grad():
        look = _seen if real[0].numel() <= _REMEMBERED else _seen.__wrapped__
        known = [look(image.numpy().tobytes(), image.shape) for image in real]
        layers = [torch.cat(layer) for layer in zip(*known, strict=True)]
        distances = between(features(2 * result.clamp(0, 1) - 1, "vgg"), layers)
    return [float(value) for value in distances.amin(1)]


#: Entries of a real image up to which its features are kept: half a megabyte each at 32 pixels, 25 at 224.
_REMEMBERED = 3 * 64 * 64


@lru_cache(maxsize=3 * NEAREST_OF // 2)
def _seen(image: bytes, shape: torch.Size) -> list[Tensor]:
    """Features of a real image, float32 (C, H, W): most are the same in all blocks, and cost more than some attacks."""
    pixels = torch.frombuffer(bytearray(image), dtype=torch.float32).view(1, *shape)
    return features(2 * pixels - 1, "vgg")


def score(name: str, result: Tensor, reference: Tensor) -> list[float] | None:
    """One value per image, None below the size from which the metric is defined."""
    metric = METRICS[name]
    if min(reference.shape[-2:]) < metric.minimum:
        return None
    scores = [float(value) for value in metric.function(result, reference)]
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"{name}: expected a finite value for each image, got {scores}")
    return scores
