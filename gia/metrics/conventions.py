"""The two conventions in which reports give their numbers.

*standard*: images in [0,1], clamped, peak 1, one number per image, after matching within the attacked batch.

*paper*: what the released code of arXiv 2503.11514 computes, on standardized images z = (x - mean) / std that are not
clamped. PSNR has the peak 1/std of each channel and one error for all channels; what the code calls SSIM is
complex-wavelet SSIM; LPIPS uses AlexNet on 2z - 1. Before that, the images are assigned by AlexNet-LPIPS of z over all
images that are given at once. The names promise other quantities: never compare numbers of the two conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gia.errors import expected_one_of
from gia.metrics._checks import image_pair
from gia.metrics.complex_wavelet import wavelet_similarity
from gia.metrics.perceptual import SMALLEST, distances, pairwise
from gia.metrics.pixels import PSNR_CAP
from gia.metrics.table import METRICS

__all__ = ["PAPER", "STANDARD", "score"]


STANDARD: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        **{name: METRICS[name].function for name in ("psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg")},
        "exact": METRICS["exact_share"].function,
    }
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
    """The named metrics of each image, in one of the two conventions of `gia.metrics.conventions`.

    Args:
        reconstruction: images (B,C,H,W), float32 or float64. In the standard convention they must be aligned already
            (see `align`); in the paper's they are matched here, so pass all images of an experiment at once.
        reference: the originals (B,C,H,W), in [0,1].
        metrics: names of `STANDARD` ("psnr", "ssim", "cw_ssim", "lpips", "lpips_vgg", "exact") or of `PAPER` ("psnr",
            "cw_ssim", "lpips"). "lpips" uses AlexNet.
        convention: "standard" or "paper".
        mean, std: mean and standard deviation of the data set, one number per channel; only for the paper's convention,
            which needs both.

    Returns:
        For each name a Tensor (B,), in the order of `reference`. "psnr" is capped at `PSNR_CAP` in both conventions
        (the released code returns infinity for a whole batch when one of its images is exact).

    Raises:
        ValueError: an unknown convention or metric, `mean` and `std` missing, superfluous or of the wrong length, or
            images below 32 pixels in the paper's convention (its matching uses LPIPS). Otherwise see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("cifar10-samples").images[:2]
    >>> gia.metrics.score(0.9 * reference, reference, metrics=["psnr", "cw_ssim"])
    {'psnr': tensor([26.6934, 23.3265]), 'cw_ssim': tensor([0.9945, 0.9945])}
    >>> paper = {"convention": "paper", "mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
    >>> gia.metrics.score(0.9 * reference, reference, metrics=["psnr", "cw_ssim"], **paper)
    {'psnr': tensor([26.6822, 23.3238]), 'cw_ssim': tensor([0.9945, 0.9945])}
    """
    if convention not in ("standard", "paper"):
        raise ValueError(expected_one_of("convention", convention, ("standard", "paper")))
    known: Mapping[str, object] = STANDARD if convention == "standard" else PAPER
    if isinstance(metrics, str):
        raise ValueError(f"metrics: expected a sequence of names, got the single name {metrics!r}")
    for name in metrics:
        if name not in known:
            raise ValueError(f"{expected_one_of('metrics', name, known)} (in the {convention} convention)")
    if convention == "standard":
        for argument, value in (("mean", mean), ("std", std)):
            if value is not None:
                raise ValueError(f"{argument}: expected None in the standard convention, got {value}")
        return {name: STANDARD[name](reconstruction, reference) for name in metrics}
    reconstruction, reference = image_pair(reconstruction, reference, smallest=SMALLEST)
    center, spread = _channels(mean, "mean", reference), _channels(std, "std", reference)
    if not bool((spread > 0).all()):
        raise ValueError(f"std: expected positive numbers, got {spread.tolist()}")
    z, target = ((images - center[:, None, None]) / spread[:, None, None] for images in (reconstruction, reference))
    _, columns = linear_sum_assignment(pairwise(z, target, net="alex").T.cpu().numpy())
    z = z[torch.from_numpy(columns).to(z.device)]
    return {name: PAPER[name](z, target, spread) for name in metrics}


def _channels(values: Sequence[float] | Tensor | None, name: str, reference: Tensor) -> Tensor:
    if values is None:
        raise ValueError(f"{name}: expected one number per channel in the paper's convention, got None")
    tensor = torch.as_tensor(values, dtype=reference.dtype, device=reference.device)
    if tensor.shape != reference.shape[1:2] or not bool(tensor.isfinite().all()):
        raise ValueError(f"{name}: expected {reference.shape[1]} finite numbers, one per channel, got {values}")
    return tensor
