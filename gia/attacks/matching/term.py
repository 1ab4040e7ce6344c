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


def matching_term(default: Objective) -> Callable[..., float]:
    """The function (model, observation, images, labels, **settings) -> matching term of an attack.

    It reads the settings `objective`, `loss` and `mirror`, and ignores all others. Its gradients are always computed by
    double backward's engine, so that equal images have equal terms.

    Args:
        default: the objective where the setting is None.

    >>> import torch, gia
    >>> from gia.attacks.objectives import Cosine
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, generator=torch.Generator().manual_seed(0))
    >>> images, labels = torch.rand(1, 3, 4, 4), torch.tensor([2])
    >>> observation = gia.share_gradient(model, images, labels)
    >>> term = matching_term(Cosine())
    >>> abs(term(model, observation, images, labels, objective=None, loss=torch.nn.functional.cross_entropy)) < 1e-6
    True
    """

    def term(
        model: nn.Module,
        observation: Observation,
        images: Tensor,
        labels: Tensor | None,
        *,
        objective: Objective | None,
        loss: Loss | LossName,
        mirror: Sequence[Mirror] = (),
        **_: Any,
    ) -> float:
        problem = Matching(model, [observation], objective=objective or default, loss=loss, engine="plain")
        shape = (problem.batch_size, *problem.image_shape)
        if tuple(images.shape) != shape:
            raise ValueError(f"images: expected {shape}, as the client's batch, got {tuple(images.shape)}")
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
            return float(
                problem.values(differentiable(images.detach()).to(problem.reference)[None], chosen, mirror=mirror)
            )

    return term
