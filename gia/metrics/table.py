"""The table of metrics by name: the function, the smallest image that it takes, the unit and the tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor

from gia.metrics.complex_wavelet import SMALLEST as SMALLEST_CW_SSIM
from gia.metrics.complex_wavelet import cw_ssim
from gia.metrics.perceptual import SMALLEST as SMALLEST_LPIPS
from gia.metrics.perceptual import lpips
from gia.metrics.pixels import exact_share, psnr, recovered_share, rmse
from gia.metrics.structure import WINDOW, ssim

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """What is known of a metric: how it is computed, in which unit, and how far a repeated run may differ.

    Attributes:
        function: (reconstruction, reference) -> (B,); both are aligned images (B,C,H,W), the reference in [0,1].
        minimum: the smallest height and width for which the metric is defined, in pixels.
        unit: the unit of the values, "1" for a number without unit.
        higher_is_better: whether a larger value means a better reconstruction.
        tolerance: largest absolute difference, for one seed, between two runs on one machine. 0 is for counts, which
            must agree on every machine.
        platform_spread: largest difference that was seen, for one seed, between machines or instruction sets.

    Raises:
        ValueError: `platform_spread` is negative, or `tolerance` is below it or not finite.

    >>> import gia
    >>> metric = gia.metrics.METRICS["psnr"]
    >>> metric.unit, metric.minimum, metric.higher_is_better
    ('dB', 1, True)
    >>> gia.metrics.Metric(gia.metrics.rmse, tolerance=1e-9, platform_spread=1e-6)
    Traceback (most recent call last):
        ...
    ValueError: tolerance: expected a finite number of at least platform_spread = 1e-06, got 1e-09
    """

    function: Callable[[Tensor, Tensor], Tensor]
    minimum: int = 1
    unit: str = "1"
    higher_is_better: bool = True
    tolerance: float = 1e-5
    platform_spread: float = 0.0

    def __post_init__(self) -> None:
        if not self.platform_spread >= 0:
            raise ValueError(f"platform_spread: expected at least 0, got {self.platform_spread:g}")
        if not self.platform_spread <= self.tolerance < math.inf:
            raise ValueError(
                f"tolerance: expected a finite number of at least platform_spread = {self.platform_spread:g}, "
                f"got {self.tolerance:g}"
            )


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        # The platform spread of psnr: float64 with sign updates agreed to 1e-6 dB between instruction sets.
        "psnr": Metric(psnr, unit="dB", platform_spread=1e-6),
        "ssim": Metric(ssim, minimum=WINDOW),
        "cw_ssim": Metric(cw_ssim, minimum=SMALLEST_CW_SSIM),
        "lpips": Metric(lpips, minimum=SMALLEST_LPIPS, higher_is_better=False),
        "lpips_vgg": Metric(partial(lpips, net="vgg"), minimum=SMALLEST_LPIPS, higher_is_better=False),
        "rmse": Metric(rmse, higher_is_better=False),
        "exact_share": Metric(exact_share),
        "recovered_share": Metric(recovered_share),
    }
)
"""The metrics that take one reconstruction and its original, by name. "lpips" uses AlexNet, "lpips_vgg" VGG16."""
