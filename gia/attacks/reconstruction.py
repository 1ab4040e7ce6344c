"""What an attack returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The images that an attack believes the client holds.

    Attributes:
        images: (N, C, H, W); in [0, 1] from iterative attacks, raw from analytic ones. N may differ from the batch
            size, and the order says nothing: `gia.metrics.match` aligns.
        labels: (N,) int64 that the attack assumed or found, None if it has none.
        exact: (N,) bool, which images the attack believes to be exact; None if it cannot tell.
        objective: the least value of the attack's own objective, at the point that these images are the clamp of; None
            if it has none.
        gradient_evaluations: how often a gradient of the victim's loss was computed, local steps counted singly.
    """

    images: Tensor
    labels: Tensor | None = None
    exact: Tensor | None = None
    objective: float | None = None
    gradient_evaluations: int = 0
