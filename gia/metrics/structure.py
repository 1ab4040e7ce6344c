"""Structural similarity (Wang et al., 2004) and the relative data leakage value that is built on it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gia.metrics._checks import image_pair

__all__ = ["WINDOW", "rdlv", "ssim"]

WINDOW = 11
"""Height and width of the window of `ssim`, and so of the smallest image that it takes, in pixels."""

_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


@torch.no_grad()
def ssim(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image, as Wang, Bovik, Sheikh and Simoncelli define it (IEEE TIP 2004, eq. 13).

    Means, variances and the covariance are weighted by a Gaussian of sigma 1.5 in windows of 11 x 11 pixels. The
    weights sum to 1 and the moments are those of a population (`ddof = 0`), as in the paper and in scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`. Only windows that lie
    completely in the image count, K1 = 0.01, K2 = 0.03, the dynamic range is 1, and the mean is taken over windows and
    channels.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1], at least 11 pixels high and wide.

    Returns:
        Tensor (B,), in [-1,1]; identical images score exactly 1.

    Raises:
        TypeError, ValueError: see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> gia.metrics.ssim(0.9 * reference, reference)
    tensor([0.9893, 0.9893])
    """
    reconstruction, reference = image_pair(reconstruction, reference, smallest=WINDOW)
    x, y = reconstruction.clamp(0, 1), reference
    rows, columns = (_window_matrix(size).to(x) for size in x.shape[2:])
    moments = rows @ torch.stack((x, y, x * x, y * y, x * y)) @ columns.T
    mean_x, mean_y, xx, yy, xy = moments.unbind()
    means, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    structure = (2 * (xy - product) + _C2) / (xx + yy - means + _C2)
    return ((2 * product + _C1) / (means + _C1) * structure).mean(dim=(1, 2, 3))


@torch.no_grad()
def rdlv(reconstruction: Tensor, reference: Tensor, *, prior: Tensor) -> Tensor:
    """Relative data leakage value of each image: (SSIM(rec, ref) - SSIM(prior, ref)) / SSIM(prior, ref).

    It compares the reconstruction with an image that the attacker knew without the gradient; 0 means that nothing
    leaked. Hatamizadeh et al., "Do gradient inversion attacks make federated learning unsafe?", IEEE TMI 2023.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1], at least 11 pixels high and wide.
        prior: what the attacker knew without the gradient, for example the mean image: (B,C,H,W), or (C,H,W) or
            (1,C,H,W) for all images.

    Returns:
        Tensor (B,), at least -1 / SSIM(prior, ref) - 1, without an upper limit.

    Raises:
        ValueError: SSIM(prior, ref) is not positive for an image, so that the ratio has no meaning. Otherwise as
            `ssim`.

    >>> import torch, gia
    >>> images = gia.data.load("cifar10-samples").images
    >>> gia.metrics.rdlv(0.9 * images[:2], images[:2], prior=images.mean(0))
    tensor([4.7144, 4.3527])
    """
    reconstruction, reference = image_pair(reconstruction, reference, smallest=WINDOW)
    if isinstance(prior, Tensor) and prior.shape in (reference.shape[1:], (1, *reference.shape[1:])):
        prior = prior.expand(reference.shape)
    prior, _ = image_pair(prior, reference, name="prior", smallest=WINDOW)
    known = ssim(prior, reference)
    if not bool((known > 0).all()):
        bad = (known <= 0).nonzero().flatten().tolist()
        raise ValueError(f"prior: expected a positive SSIM with every original, got none for the images at {bad}")
    return (ssim(reconstruction, reference) - known) / known


@lru_cache(maxsize=32)
def _window_matrix(size: int) -> Tensor:
    """(size - 10, size): row i weights the window that starts at pixel i; float64."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offset / _SIGMA).square())
    weights /= weights.sum()
    matrix = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64)
    for start in range(size - WINDOW + 1):
        matrix[start, start : start + WINDOW] = weights
    return matrix
