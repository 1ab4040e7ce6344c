"""How much of the private images a reconstruction shows: one function per metric, one number per image.

Every metric takes aligned batches (B,C,H,W) of the same shape, dtype (float32 or float64) and device and returns a
Tensor (B,) in that dtype. Reconstructions outside [0,1] are clamped; a reference outside [0,1] is refused. Arguments
are never changed, and no gradient flows through a metric.

Raised by all, naming the argument: TypeError for what is not a float32 or float64 tensor; ValueError for another shape,
an image too small for the metric (sides of 11 pixels for `ssim`, 8 for `cw_ssim`, 32 for `lpips`), NaN or infinity, and
a reference outside [0,1].
"""

from gia.metrics.assignment import align, blind_guess, match
from gia.metrics.complex_wavelet import cw_ssim
from gia.metrics.conventions import PAPER, STANDARD, score
from gia.metrics.perceptual import lpips
from gia.metrics.pixels import PSNR_CAP, exact, psnr
from gia.metrics.semantics import jaccard
from gia.metrics.structure import rdlv, ssim

__all__ = [
    "PAPER",
    "PSNR_CAP",
    "STANDARD",
    "align",
    "blind_guess",
    "cw_ssim",
    "exact",
    "jaccard",
    "lpips",
    "match",
    "psnr",
    "rdlv",
    "score",
    "ssim",
]
