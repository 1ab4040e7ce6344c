"""Structural similarity (Wang et al., 2004) and the relative data leakage value that is built on it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gia.metrics._checks import image_pair

__all__ = ["rdlv", "ssim"]

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


@torch.no_grad()
def ssim(reconstruction: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image, as Wang, Bovik, Sheikh and Simoncelli define it (IEEE TIP 2004, eq. 13).

    Means, variances and the covariance are weighted by a Gaussian of sigma 1.5 in windows of 11 x 11 pixels. The
    weights sum to 1 and nothing is added for the degrees of freedom (`ddof = 0`, the paper's population moments):
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`. Only windows
    that lie wholly in the image count, K1 = .01, K2 = .03, the dynamic range is 1, and the mean is taken over windows
    and channels.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1], at least 11 pixels high and wide.

    Returns:
        Tensor (B,), in [-1,1]; identical images score exactly 1.

    Raises:
        TypeError, ValueError: see `gia.metrics`.
    """
    reconstruction, reference = image_pair(reconstruction, reference, smallest=_WINDOW)
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

    How much more of the original the reconstruction shows than an image that the attacker had anyway (Hatamizadeh et
    al., "Do gradient inversion attacks make federated learning unsafe?", IEEE TMI 2023). 0: nothing leaked.

    Args:
        reconstruction, reference: as in `ssim`.
        prior: what was known without the gradient, e.g. the mean image: (B,C,H,W), or (C,H,W) or (1,C,H,W) for all.

    Returns:
        Tensor (B,), at least -1 / SSIM(prior, ref) - 1, without an upper limit.

    Raises:
        ValueError: SSIM(prior, ref) is not positive for an image: the ratio then has no meaning. Otherwise as `ssim`.
    """
    reconstruction, reference = image_pair(reconstruction, reference, smallest=_WINDOW)
    if isinstance(prior, Tensor) and prior.shape in (reference.shape[1:], (1, *reference.shape[1:])):
        prior = prior.expand(reference.shape)
    prior, _ = image_pair(prior, reference, name="prior", smallest=_WINDOW)
    known = ssim(prior, reference)
    if not bool((known > 0).all()):
        bad = (known <= 0).nonzero().flatten().tolist()
        raise ValueError(f"prior must have a positive SSIM with every original, not so for the images at {bad}")
    return (ssim(reconstruction, reference) - known) / known


@lru_cache(maxsize=32)
def _window_matrix(size: int) -> Tensor:
    """(size - 10, size): row i weights the window that starts at pixel i; float64."""
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offset / _SIGMA).square())
    weights /= weights.sum()
    matrix = torch.zeros(size - _WINDOW + 1, size, dtype=torch.float64)
    for start in range(size - _WINDOW + 1):
        matrix[start, start : start + _WINDOW] = weights
    return matrix
