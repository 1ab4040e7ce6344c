"""How what comes back from an attack is scored: the names of the scores, the judge, and the control of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gia.errors import expected_one_of
from gia.experiment.measurement import Control
from gia.metrics import METRICS

#: (protocol, block, *, cache) -> Control, at module level, so that worker processes can look it up.
ControlCheck = Callable[..., Control]

#: What the gradient adds to a placebo, as a mean over images that is not below 0: "leak" in PSNR, "exact_leak" in exact
#: images, "agreement_leak" in labels that the protocol's judge sees.
LEAKS = frozenset({"leak", "exact_leak", "agreement_leak"})

#: Scores that need more than a reconstruction and its original: "psnr_other" is PSNR to another image of the same
#: label; "psnr_lost" how much more PSNR the same attack has where a fished image is the whole batch; "label_agreement"
#: 1 where the protocol's judge sees the original's label; "lpips_nearest" LPIPS to the nearest real image of others;
#: and `LEAKS`.
CONTEXTUAL = frozenset({"psnr_other", "psnr_lost", "label_agreement", "lpips_nearest"}) | LEAKS

#: Metric -> the weight file that it reads.
WEIGHTS = {"lpips": "lpips-alex", "lpips_vgg": "lpips-vgg", "lpips_nearest": "lpips-vgg"}


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How what comes back is scored, and how a block shows that it can say anything.

    Args:
        metrics: names in `gia.metrics.METRICS` and `CONTEXTUAL`; the deciding metric among them.
        judge: a module-level callable (images, *, generator, cache) -> classifier, for the scores "label_agreement" and
            "agreement_leak". It is made from the images that are neither attacked nor the control's, or from those of
            `Attacker.seed`.
        control: a module-level callable (protocol, block, *, cache) -> Control.
        control_images: images on which the control runs; none of them is private. None takes one batch, or as many
            batches as make two images.
    """

    metrics: tuple[str, ...] = ("psnr", "ssim", "cw_ssim", "lpips", "rmse")
    judge: Callable[..., nn.Module] | None = None
    control: ControlCheck | None = None
    control_images: int | None = None

    def __post_init__(self) -> None:
        known = sorted({*METRICS, *CONTEXTUAL})
        if unknown := sorted(set(self.metrics) - set(known)):
            raise ValueError(expected_one_of("metrics", unknown[0], known))
        judged = sorted({"label_agreement", "agreement_leak"} & set(self.metrics))
        if judged and self.judge is None:
            raise ValueError(f"judge: expected a callable that makes a classifier for {judged[0]!r}, got None")
