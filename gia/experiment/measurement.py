"""What a measurement and a control find in a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Measurement:
    """One level of one block.

    Attributes:
        values: metric -> mean over the block's images; None where the metric is not defined at this size. With a `fit`
            also "held_out_accuracy" of the victim as it is attacked. "leak" is always there: the PSNR above that of the
            best placebo, averaged over images and then floored at 0.
        counts: "gradient_evaluations" of the attack alone, and "unmatched", the private images without a
            reconstruction.
        details: plain JSON that decides nothing: "placebo" ("psnr" and "rmse" of the best placebo of each image, what
            an attacker can return without the gradient), "per_image" (metric -> one value per private image; leaks are
            differences there, also below 0), "seconds" of the attack
            alone, "gradient_norm" (smallest 2-norm among the shared gradients) and "objective" (mean of the attack's
            own objective at its results), the last two where they are finite, and "lost" (starts of the attack whose
            objective was not finite, which are left out), where there are any.
        arrays: "originals" and "reconstructions" of the first images, uint8 (n, C, H, W), for pictures.
    """

    values: Mapping[str, float | None]
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """Whether a block can say anything; `reason` says what was seen either way, `values` in numbers."""

    passed: bool
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)
