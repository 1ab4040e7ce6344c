"""The matching loss through local training, for many trials at once: `vmap` over trials of what `plain` computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from gia.attacks.matching.gradients import Target
from gia.attacks.objectives import Agreement, Objective
from gia.federated import LocalTraining
from gia.federated.local_sgd import local_sgd
from gia.federated.losses import Loss


class Simulations:
    """Matching losses of many trials on one victim, each through its own simulated local training.

    Args:
        victim: in the client's mode; not changed.
        names: of the matched parameters.
        objective, loss: as in `Matching`.
        local: the client's training.
    """

    def __init__(
        self, victim: nn.Module, names: Sequence[str], *, objective: Objective, loss: Loss, local: LocalTraining
    ) -> None:
        self._victim, self._objective, self._loss, self._local = victim, objective, loss, local
        parameters = dict(victim.named_parameters())
        self._start = {name: parameters[name].detach() for name in names}

    def __call__(
        self, targets: Sequence[Target], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The objective (R,) and its gradients to images (R, B, C, H, W) and to soft labels.

        Args:
            targets: one per name, for each trial or for all.
            labels: (R, B) int64, or (R, B, K) class probabilities.

        Raises RuntimeError where the victim has an operation that `vmap` cannot run, such as batch statistics.
        """
        wanted = (0, 1) if labels.is_floating_point() else (0,)
        gradients, values = self._mapped(grad_and_value(self._value, wanted), targets, images, labels)
        to_images, *to_labels = (gradient.detach() for gradient in gradients)
        return values.detach(), to_images, to_labels[0] if to_labels else None

    @torch.no_grad()
    def values(self, targets: Sequence[Target], images: Tensor, labels: Tensor) -> Tensor:
        """The objective (R,) alone."""
        values: Tensor = self._mapped(self._value, targets, images, labels)
        return values

    def _mapped(self, function: Callable[..., Any], targets: Sequence[Target], images: Tensor, labels: Tensor) -> Any:
        shared = len(targets[0].value) != len(images)
        observed = {
            name: target.value[0] if shared else target.value for name, target in zip(self._start, targets, strict=True)
        }
        return vmap(function, in_dims=(0, 0, None if shared else 0))(images.detach(), labels.detach(), observed)

    def _value(self, images: Tensor, labels: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """The objective of one trial, as `matching_gradient` computes it."""

        def gradient(weights: Mapping[str, Tensor], _: int, places: slice) -> Mapping[str, Tensor]:
            def of_step(weights: dict[str, Tensor]) -> Tensor:
                return self._loss(functional_call(self._victim, weights, (images[places],)), labels[places])

            slopes: dict[str, Tensor] = grad(of_step)(dict(weights))
            return slopes

        update = local_sgd(self._start, gradient, images=len(images), local=self._local, fused=False)
        return self._objective(Agreement(list(update), list(update.values()), [target[name] for name in update]))
