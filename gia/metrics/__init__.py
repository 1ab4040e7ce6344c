"""How much of the private images a reconstruction shows: one function per metric, one number per image.

Every metric takes aligned batches (B,C,H,W) of the same shape, dtype (float32 or float64) and device and returns a
Tensor (B,) in that dtype. Reconstructions outside [0,1] are clamped; a reference outside [0,1] is refused. Arguments
are never changed, and no gradient flows through a metric. `METRICS` lists the metrics by name with their units.

All metrics raise TypeError for arguments that are not float32 or float64 tensors, and ValueError for unequal shapes,
images that are too small (`ssim` needs 11 pixels in height and width, `cw_ssim` 8, `lpips` 32), NaN or infinity, and
a reference outside [0,1]. The message names the argument.

>>> import torch, gia
>>> reference = gia.data.load("cifar10-samples").images[:2]
>>> gia.metrics.psnr(0.9 * reference, reference)
tensor([26.6934, 23.3265])
>>> [f"{name} in {metric.unit}" for name, metric in gia.metrics.METRICS.items()][:3]
['psnr in dB', 'ssim in 1', 'cw_ssim in 1']
"""

from gia.metrics.assignment import align, blind_guess, match
from gia.metrics.complex_wavelet import cw_ssim
from gia.metrics.conventions import PAPER, STANDARD, score
from gia.metrics.nearest import NEAREST_OF, lpips_nearest
from gia.metrics.perceptual import lpips
from gia.metrics.pixels import PSNR_CAP, exact, exact_share, psnr, recovered_share, rmse
from gia.metrics.semantics import jaccard
from gia.metrics.structure import rdlv, ssim
from gia.metrics.table import METRICS, Metric

__all__ = [
    "METRICS",
    "NEAREST_OF",
    "PAPER",
    "PSNR_CAP",
    "STANDARD",
    "Metric",
    "align",
    "blind_guess",
    "cw_ssim",
    "exact",
    "exact_share",
    "jaccard",
    "lpips",
    "lpips_nearest",
    "match",
    "psnr",
    "rdlv",
    "recovered_share",
    "rmse",
    "score",
    "ssim",
]
