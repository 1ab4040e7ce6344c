"""The matching problem of several trials: set up and checked once, evaluated at every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from gia.attacks.logits import logits_of
from gia.attacks.matching.engines import Engine
from gia.attacks.objectives import Objective
from gia.attacks.reconstruction import NothingFound
from gia.federated import Observation, set_mode
from gia.federated.client import Loss

#: A client's defense, which changes what it shares: Observation -> Observation.
Mirror = Callable[[Observation], Observation]


class Evaluation(NamedTuple):
    """One evaluation of R trials: the objective (R,), and its gradients with respect to images and soft labels."""

    values: Tensor
    images: Tensor
    labels: Tensor | None


class Matching:
    """D(g*, g(x, y)) for R trials on one victim, each with its own target g*, and the gradient with respect to x.

    Args:
        model: as sent to the clients. A copy is attacked; the model itself does not change.
        observations: one per trial, alike in form (`gia.attacks.trials.check_trials`).
        objective: how gradients are compared.
        loss: the client's training loss, (logits, labels) -> scalar.
        memory: bytes that a step may hold at its peak; more trials than fit are evaluated in parts. None sets no limit.
        engine: "plain" or "taps", for tests only; None chooses (`gia.attacks.matching.engines`).

    Attributes:
        image_shape, batch_size, classes: of every trial.
        labels: (R, B) int64, None if the observations hold none.
        reference: a parameter, for dtype and device.
        evaluations: gradients of the victim's loss computed so far, per trial; a simulated local step counts as one.

    Raises ValueError for labels without a logit and images that the model does not take, and `NothingFound` for an
    observed gradient that is zero in every entry, to which nothing can be matched.

    >>> import torch, gia
    >>> from gia.attacks.objectives import Cosine
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 4, 4, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> problem = Matching(model, [observation], objective=Cosine(), loss=torch.nn.functional.cross_entropy)
    >>> at_the_image = problem(image[None], problem.labels)
    >>> at_the_image.values.abs().max().item() < 1e-5, problem.evaluations
    (True, [1])
    """

    def __init__(
        self,
        model: nn.Module,
        observations: Sequence[Observation],
        *,
        objective: Objective,
        loss: Loss,
        memory: int | None = None,
        engine: Literal["plain", "taps"] | None = None,
    ) -> None:
        first = observations[0]
        targets = [observation.gradients for observation in observations]
        if empty := [i for i, target in enumerate(targets) if not any(bool(g.any()) for g in target.values())]:
            raise NothingFound(f"gradients: expected an entry other than 0, got zeros in trial {empty[0]}")
        victim = set_mode(copy.deepcopy(model), first.training)
        for name, parameter in victim.named_parameters():
            parameter.requires_grad_(name in first.gradients)
            parameter.grad = None
        self.image_shape, self.batch_size = first.image_shape, first.batch_size
        self.reference = next(iter(first.gradients.values()))
        self.classes = _classes(model, self.image_shape, self.reference)
        self.labels: Tensor | None = None
        if first.labels is not None:
            self.labels = torch.stack([o.labels for o in observations if o.labels is not None])
            self.labels = self.labels.to(self.reference.device)
            if int(self.labels.max()) >= self.classes:
                raise ValueError(
                    f"labels: expected 0 to {self.classes - 1} for {self.classes} logits, got {int(self.labels.max())}"
                )
        self.evaluations = [0] * len(observations)
        self._observations = observations
        steps = math.ceil(first.batch_size / first.local.batch_size) if first.local else 1
        self._gradients_each = steps * first.local.epochs if first.local else 1
        self._engine = Engine(
            victim, targets, objective=objective, loss=loss, local=first.local, memory=memory, forced=engine
        )

    def __len__(self) -> int:
        return len(self.evaluations)

    def __call__(self, images: Tensor, labels: Tensor, *, trials: slice = slice(None)) -> Evaluation:
        """Evaluate the chosen trials at images (R, B, C, H, W) and labels (R, B) int64 or (R, B, K) probabilities."""
        chosen = range(len(self))[trials]
        evaluation = Evaluation(*self._engine(images, labels, chosen))
        for trial in chosen:
            self.evaluations[trial] += self._gradients_each
        return evaluation

    def values(
        self, images: Tensor, labels: Tensor, *, trials: slice = slice(None), mirror: Sequence[Mirror] = ()
    ) -> Tensor:
        """The objective (R,) alone, in half the time: no gradient with respect to the images is formed.

        The simulated gradient passes through each function of `mirror`, in order, before the comparison.
        """
        chosen = range(len(self))[trials]
        for trial in chosen:
            self.evaluations[trial] += self._gradients_each

        def mirrored(trial: int, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            shared = replace(self._observations[trial], gradients=gradients)
            for change in mirror:
                shared = change(shared)
                if not isinstance(shared, Observation):
                    raise TypeError(
                        f"mirror: expected callables that return an Observation, got {type(shared).__name__}"
                    )
            return shared.gradients

        return self._engine.values(images, labels, chosen, mirrored if mirror else None)


def _classes(model: nn.Module, image_shape: tuple[int, int, int], reference: Tensor) -> int:
    """Number of logits, by a forward pass in evaluation mode, which also shows that the model takes such images."""
    victim = set_mode(copy.deepcopy(model), False)
    return logits_of(victim, reference.new_zeros(1, *image_shape)).shape[1]
