"""Image priors: what a natural image looks like, as a penalty on the candidates of each trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

#: (R, B, C, H, W) -> (R,) penalty per trial; smaller is more natural.
Prior = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TotalVariation:
    """weight * (mean |dx| + mean |dy|) of neighbouring pixels, anisotropic (Geiping et al., 2020, Eq. 4).

    The means run over the differences that exist, H*(W-1) and (H-1)*W per channel: the border is not charged.
    """

    weight: float

    def __call__(self, images: Tensor) -> Tensor:
        across = images[..., :, 1:] - images[..., :, :-1]
        down = images[..., 1:, :] - images[..., :-1, :]
        return self.weight * (_mean_size(across) + _mean_size(down))


def _mean_size(differences: Tensor) -> Tensor:
    # A side of one pixel has no differences: nothing is charged, where a mean would be NaN.
    return differences.abs().sum((1, 2, 3, 4)) / max(1, differences[0].numel())
