"""The two conventions in which reports give their numbers.

*standard*: images in [0,1], clamped, peak 1, one number per image, after matching within the attacked batch.

*paper*: what the released code of arXiv 2503.11514 computes. All of it happens on standardized images
z = (x - mean) / std, unclamped: PSNR with the peak 1/std of each channel over one error for all channels,
complex-wavelet SSIM (its "SSIM"), LPIPS with AlexNet on 2z - 1, after an assignment by AlexNet-LPIPS of z over all
images that are given at once. These are not the quantities that their names promise: never compare a number of one
convention with a number of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gia.metrics._checks import image_pair
from gia.metrics.complex_wavelet import cw_ssim, wavelet_similarity
from gia.metrics.perceptual import SMALLEST, distances, lpips, pairwise
from gia.metrics.pixels import PSNR_CAP, exact, psnr
from gia.metrics.structure import ssim

__all__ = ["PAPER", "STANDARD", "score"]


def _lpips_vgg(reconstruction: Tensor, reference: Tensor) -> Tensor:
    return lpips(reconstruction, reference, net="vgg")


def _exact(reconstruction: Tensor, reference: Tensor) -> Tensor:
    return exact(reconstruction, reference).to(reference.dtype)


STANDARD: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"psnr": psnr, "ssim": ssim, "cw_ssim": cw_ssim, "lpips": lpips, "lpips_vgg": _lpips_vgg, "exact": _exact}
)
"""The metrics of the standard convention by name."""


def _paper_psnr(z: Tensor, reference: Tensor, std: Tensor) -> Tensor:
    error = (z - reference).square().mean(dim=(1, 2, 3))
    decibels = 10 * (std**-2 / error[:, None].clamp_min(torch.finfo(z.dtype).tiny)).log10()
    return decibels.clamp_max(PSNR_CAP).mean(dim=1)


def _paper_cw_ssim(z: Tensor, reference: Tensor, std: Tensor) -> Tensor:
    return wavelet_similarity(z, reference)


def _paper_lpips(z: Tensor, reference: Tensor, std: Tensor) -> Tensor:
    return distances(2 * z - 1, 2 * reference - 1, net="alex")


PAPER: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = MappingProxyType(
    {"psnr": _paper_psnr, "cw_ssim": _paper_cw_ssim, "lpips": _paper_lpips}
)
"""The metrics of the paper's convention by name; they take standardized images and the standard deviations (C,)."""


@torch.no_grad()
def score(
    reconstruction: Tensor,
    reference: Tensor,
    *,
    metrics: Sequence[str] = ("psnr", "cw_ssim", "lpips"),
    convention: str = "standard",
    mean: Sequence[float] | Tensor | None = None,
    std: Sequence[float] | Tensor | None = None,
) -> dict[str, Tensor]:
    """The named metrics of each image in one of the two conventions of this module.

    Args:
        reconstruction: images (B,C,H,W), float32 or float64. In the standard convention they are aligned already (see
            `align`); in the paper's they are matched here, so pass all images of an experiment at once.
        reference: the originals (B,C,H,W), in [0,1].
        metrics: names of `STANDARD` ("psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg", "exact") or of `PAPER` ("psnr",
            "cw_ssim", "lpips"). "lpips" is AlexNet's.
        convention: "standard" or "paper".
        mean, std: of the data set, one number per channel; needed by the paper's convention and by no other.

    Returns:
        For each name a Tensor (B,), in the order of `reference`. "psnr" is capped at `PSNR_CAP` in both conventions
        (the released code returns infinity for a whole batch when one of its images is exact).

    Raises:
        ValueError: an unknown convention or metric, `mean` and `std` missing, superfluous or of the wrong length, or
            images below 32 pixels in the paper's convention (its matching is by LPIPS). Otherwise see `gia.metrics`.
    """
    if convention not in ("standard", "paper"):
        raise ValueError(f"convention must be 'standard' or 'paper', not {convention!r}")
    known: Mapping[str, object] = STANDARD if convention == "standard" else PAPER
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a sequence of names, not the one name {metrics!r}")
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ValueError(f"metrics must be among {sorted(known)} in the {convention} convention, not {unknown}")
    if convention == "standard":
        if mean is not None or std is not None:
            raise ValueError("mean and std belong to the paper's convention; the standard one takes images in [0,1]")
        return {name: STANDARD[name](reconstruction, reference) for name in metrics}
    reconstruction, reference = image_pair(reconstruction, reference, smallest=SMALLEST)
    center, spread = _channels(mean, "mean", reference), _channels(std, "std", reference)
    if not bool((spread > 0).all()):
        raise ValueError(f"std must be positive, not {spread.tolist()}")
    z, target = ((images - center[:, None, None]) / spread[:, None, None] for images in (reconstruction, reference))
    _, columns = linear_sum_assignment(pairwise(z, target, net="alex").T.cpu().numpy())
    z = z[torch.from_numpy(columns).to(z.device)]
    return {name: PAPER[name](z, target, spread) for name in metrics}


def _channels(values: Sequence[float] | Tensor | None, name: str, reference: Tensor) -> Tensor:
    if values is None:
        raise ValueError(f"{name} must be given in the paper's convention, one number per channel")
    tensor = torch.as_tensor(values, dtype=reference.dtype, device=reference.device)
    if tensor.shape != reference.shape[1:2] or not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be {reference.shape[1]} finite numbers, one per channel, not {values}")
    return tensor
