"""The matching term of a search at given images, to compare images that it found with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gia.attacks.matching.problem import Matching, Mirror
from gia.attacks.objectives import Objective
from gia.federated import Observation
from gia.federated.losses import Loss, LossName
from gia.federated.victims import differentiable, differentiating


def matching_terms(default: Objective) -> Callable[..., list[float]]:
    """The function (model, observation, several images, labels, **settings) -> matching terms of an attack.

    It reads the settings `objective`, `loss` and `mirror`, and ignores all others. Its gradients are always computed by
    double backward's engine, so that equal images have equal terms. The victim is
    prepared once, which takes longer than a term does.

    Args:
        default: the objective where the setting is None.

    >>> import torch, gia
    >>> from gia.attacks.objectives import Cosine
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, generator=torch.Generator().manual_seed(0))
    >>> images, labels = torch.rand(1, 3, 4, 4), torch.tensor([2])
    >>> observation = gia.share_gradient(model, images, labels)
    >>> terms = matching_terms(Cosine())
    >>> settings = {"objective": None, "loss": torch.nn.functional.cross_entropy}
    >>> at = terms(model, observation, [images, images.sqrt()], labels, **settings)
    >>> abs(at[0]) < 1e-6 < at[1]
    True
    """

    def terms(
        model: nn.Module,
        observation: Observation,
        images: Sequence[Tensor],
        labels: Tensor | None,
        *,
        objective: Objective | None,
        loss: Loss | LossName,
        mirror: Sequence[Mirror] = (),
        **_: Any,
    ) -> list[float]:
        problem = Matching(model, [observation], objective=objective or default, loss=loss, engine="plain")
        shape = (problem.batch_size, *problem.image_shape)
        if wrong := [tuple(each.shape) for each in images if tuple(each.shape) != shape]:
            raise ValueError(f"images: expected {shape}, as the client's batch, got {wrong[0]}")
        if labels is None and problem.labels is None:
            raise ValueError("labels: expected labels, which the observation does not hold, got None")
        chosen = problem.labels
        if labels is not None:
            reference = problem.reference
            chosen = labels.to(reference if labels.is_floating_point() else reference.device)[None]
        assert chosen is not None
        if chosen.shape[1:2] != shape[:1]:
            raise ValueError(f"labels: expected {shape[0]}, one per image, got {chosen.shape[1]}")
        with differentiating():
            return [
                float(problem.values(differentiable(each.detach()).to(problem.reference)[None], chosen, mirror=mirror))
                for each in images
            ]

    return terms
