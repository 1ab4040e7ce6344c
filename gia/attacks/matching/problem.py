"""The matching problem of several trials: victims and targets checked and set up once, evaluated at every step."""

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
from gia.federated import Observation, set_mode
from gia.federated.client import Loss

#: What a client does to what it shares, such as a defence of `gia.defenses`.
Mirror = Callable[[Observation], Observation]


class Evaluation(NamedTuple):
    """One evaluation of R trials: the objective (R,), its gradient to the images, and to soft labels."""

    values: Tensor
    images: Tensor
    labels: Tensor | None


class Matching:
    """D(g*, g(x, y)) for R trials on one victim, each with its own target, and the gradient with respect to x.

    Args:
        model: as sent to the clients. A copy is attacked; the model itself is left alone.
        observations: one per trial, alike in form (`gia.attacks.trials.check_trials`).
        objective: how gradients are compared.
        loss: the client's training loss, (logits, labels) -> scalar.
        memory: bytes that a step over many trials may hold; None sets no limit. Trials are then taken in parts.
        engine: "plain" or "taps", for tests only; None chooses (`gia.attacks.matching.engines`).

    Attributes:
        image_shape, batch_size, classes: of every trial.
        labels: (R, B) int64, None if the observations hold none.
        reference: a parameter, for dtype and device.
        evaluations: gradients of the victim's loss computed so far, per trial; a simulated local step is one.

    Raises ValueError for labels that the model has no logit for, images that it does not take, or an observed gradient
    that is zero in every entry: nothing can be matched to it, and whatever a search returns is no evidence.
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
            raise ValueError(f"gradients: every entry is zero in observation {empty[0]}, so there is nothing to match")
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
        found = Evaluation(*self._engine(images, labels, chosen))
        for trial in chosen:
            self.evaluations[trial] += self._gradients_each
        return found

    def values(
        self, images: Tensor, labels: Tensor, *, trials: slice = slice(None), mirror: Sequence[Mirror] = ()
    ) -> Tensor:
        """The objective (R,) alone, in half the time: no gradient to the images is formed.

        What is simulated passes through each of `mirror`, in order, before it is compared, as the client's own did.
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
    """Number of logits, by a forward pass in evaluation mode, which also proves that the model takes such images."""
    probe = set_mode(copy.deepcopy(model), False)
    return logits_of(probe, reference.new_zeros(1, *image_shape)).shape[1]
