"""What an attack returns, and the error where it finds nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


class NothingFound(ValueError):
    """An attack found no image: the gradient is zero, has no image where the attack reads it, or every start was lost.

    It is the attack's own failure, unlike a setting out of range or an observation of another form.

    >>> import torch, gia
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, generator=torch.Generator().manual_seed(0))
    >>> observation = gia.share_gradient(model, torch.rand(1, 3, 4, 4), torch.tensor([1]))
    >>> silent = {name: torch.zeros_like(gradient) for name, gradient in observation.gradients.items()}
    >>> observation = gia.Observation.from_tensors(model, silent, image_shape=(3, 4, 4), batch_size=1)
    >>> gia.attacks.linear_layer(model, observation, generator=torch.Generator())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gia.attacks.reconstruction.NothingFound: gradients: expected an active neuron of ...
    """


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The images that an attack believes the client holds.

    Args:
        images: (N, C, H, W), in [0, 1] from iterative attacks, unclamped from analytic ones. N may differ from the
            batch size, and the order carries no meaning: `gia.metrics.match` assigns images to private ones.
        labels: (N,) int64, assumed or restored by the attack; None if it has none.
        exact: (N,) bool, which images the attack believes to be exact; None if it does not say.
        objective: the least value of the attack's own objective. `images` are the point with this value, clamped to
            [0, 1]. None if the attack has no objective.
        gradient_evaluations: number of gradients of the victim's loss that were computed. Each local step counts once.
        converged: whether the search that found the images ended because it had converged; False if it ended at its
            cap, None if it was not asked to converge (`gia.attacks.matching.minimize`).
        lost: number of starts that were left out since their objective was not finite. If all were, there is no image.
            1 for an attack without starts that found nothing, while it found something in another observation.

    >>> import torch, gia
    >>> gia.Reconstruction(images=torch.zeros(2, 3, 8, 8), objective=0.25, gradient_evaluations=11)
    Reconstruction(images=(2, 3, 8, 8) float32, objective=0.25, gradient_evaluations=11)
    """

    images: Tensor
    labels: Tensor | None = None
    exact: Tensor | None = None
    objective: float | None = None
    gradient_evaluations: int = 0
    converged: bool | None = None
    lost: int = field(default=0, kw_only=True)

    def __repr__(self) -> str:
        kind = str(self.images.dtype).removeprefix("torch.")
        device = "" if self.images.device.type == "cpu" else f" on {self.images.device}"
        parts = [f"images={tuple(self.images.shape)} {kind}{device}"]
        if self.labels is not None:
            shown = ", ".join(map(str, self.labels[:8].tolist())) + (", ..." if len(self.labels) > 8 else "")
            parts.append(f"labels=[{shown}]")
        if self.exact is not None:
            parts.append(f"exact={int(self.exact.sum())} of {len(self.exact)}")
        if self.objective is not None:
            parts.append(f"objective={self.objective:.4g}")
        parts.append(f"gradient_evaluations={self.gradient_evaluations}")
        if self.converged is not None:
            parts.append(f"converged={self.converged}")
        if self.lost:
            parts.append(f"lost={self.lost}")
        return f"{type(self).__name__}({', '.join(parts)})"
