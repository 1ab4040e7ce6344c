"""The client: it holds the private batch, answers a model with what federated learning shares, and defends itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.federated.losses import Loss, LossName, loss_of
from gia.federated.observation import LocalTraining, Observation
from gia.federated.private_batch import check_reveal, checked_batch
from gia.federated.sharing import share_gradient, share_update

__all__ = ["Client", "Defense", "RefusedModel", "Report", "StepDefense"]


class StepDefense(Protocol):
    """A defense that needs the private images: it takes the place of the gradient of each local step."""

    def gradient(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, generator: torch.Generator | None
    ) -> Mapping[str, Tensor]:
        """Name of each parameter with `requires_grad` -> its gradient, for the images of one step."""


#: What a client does to what it shares: (observation) or (observation, *, generator) -> observation, or a step defense.
Defense = Callable[..., Observation] | StepDefense


class Report(Protocol):
    """The result of a client's check of a model: whether it is `ok`; `str` says why not."""

    @property
    def ok(self) -> bool:
        """Whether the client will train on the model."""


class RefusedModel(ValueError):
    """The client's validation does not accept the model that it received.

    Attributes:
        report: what the validation returned.

    >>> import torch
    >>> from gia.federated import RefusedModel, ValidationReport
    >>> RefusedModel(ValidationReport(findings=())).report.ok
    True
    """

    def __init__(self, report: Report) -> None:
        super().__init__(f"model: expected one that the client's validation accepts, got the report: {report}")
        self.report = report


class Client:
    """A client with one private batch. An attack that holds a client can call `answer` and read `queries`, no more.

    Args:
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64 class labels; for another loss than cross-entropy also targets (N, ...) in floats.
        local: local training; None shares the gradient of one full batch.
        reveal: optional fields of the observation that leak: "labels", "local", "batch_norm".
        defenses: functions Observation -> Observation, applied in order before the client answers, such as
            `gia.defenses.clip`. At most one may be a step defense, an object with a method `gradient` such as
            `gia.defenses.dp_sgd`: it gives the gradient of each local step, and the others follow.
        defense_generator: is given to each defense that takes an argument `generator`, unless `functools.partial` has
            given it another one. The defenses share its stream.
        validate: called with each model before the client trains on it. If the report is not `ok`, `answer` raises
            `RefusedModel`. `gia.validate_model` and `gia.federated.LastAccepted` are such functions.
        generator: draws a new order of the images for every epoch of local training; None keeps the order of `images`.
            Neither the generator nor the order is part of an answer.
        loss: "cross_entropy", "bce" (one logit, or one for each of several labels), "mse", or a function (outputs,
            targets) -> scalar, a mean over images.
        training: whether batch normalization uses the statistics of its batch (True) or its running ones.

    Raises:
        ValueError: images outside [0, 1], labels of another shape or dtype, an unknown name in `reveal`, or more than
            one step defense.
        TypeError: `reveal` is a string, or a defense that is neither callable nor a step defense.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> client = gia.federated.Client(torch.zeros(2, 3, 4, 4), torch.tensor([2, 0]), reveal=("labels",))
    >>> client.answer(model).labels
    tensor([0, 2])
    >>> client
    Client(2 images of 3x4x4 in float32, eval mode, shares a gradient, reveals: labels, 1 query answered)
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray,
        *,
        local: LocalTraining | None = None,
        reveal: Collection[str] = (),
        defenses: Sequence[Defense] = (),
        defense_generator: torch.Generator | None = None,
        validate: Callable[[nn.Module], Report] | None = None,
        generator: torch.Generator | None = None,
        loss: Loss | LossName = cross_entropy,
        training: bool = False,
    ) -> None:
        loss = loss_of(loss)
        images, labels = checked_batch(images, labels, loss)
        check_reveal(reveal)
        self._images, self._labels = images.detach().clone(), labels.detach().clone()
        self._local, self._reveal = local, tuple(reveal)
        self._step, self._defenses = _divided(defenses)
        self._defense_generator = defense_generator
        self._validate, self._loss, self._training = validate, loss, training
        self._generator = generator
        self._queries = 0

    def __repr__(self) -> str:
        count, *shape = self._images.shape
        dtype = str(self._images.dtype).removeprefix("torch.")
        parts = [
            f"{count} images of {'x'.join(map(str, shape))} in {dtype}",
            f"{'train' if self._training else 'eval'} mode",
            "shares a gradient" if self._local is None else f"shares the update of {self._local}",
            f"reveals: {', '.join(self._reveal) or 'nothing more'}",
        ]
        if defenses := len(self._defenses) + (self._step is not None):
            parts.append(f"{defenses} defense{'s' if defenses > 1 else ''}")
        if self._validate is not None:
            parts.append("validates models")
        answered = f"{self._queries} quer{'y' if self._queries == 1 else 'ies'} answered"
        return f"Client({', '.join([*parts, answered])})"

    @property
    def queries(self) -> int:
        """Number of models that this client has answered."""
        return self._queries

    def answer(self, model: nn.Module) -> Observation:
        """What this client sends back for `model`, which is not changed. Every answer is about the same batch.

        Raises:
            RefusedModel: the client's validation does not accept the model.
            ValueError: a label for which the model has no logit, or a model without a parameter to train.
        """
        if self._validate is not None and not (report := self._validate(model)).ok:
            raise RefusedModel(report)
        step = None
        if self._step is not None:
            step = functools.partial(self._step.gradient, loss=self._loss, generator=self._defense_generator)
        if self._local is None:
            observation = share_gradient(
                model,
                self._images,
                self._labels,
                reveal=self._reveal,
                loss=self._loss,
                training=self._training,
                step=step,
            )
        else:
            observation = share_update(
                model,
                self._images,
                self._labels,
                local=self._local,
                reveal=self._reveal,
                order=self._order(self._local.epochs),
                loss=self._loss,
                training=self._training,
                step=step,
            )
        for defense in self._defenses:
            given = {"generator": self._defense_generator} if _asks_for_generator(defense) else {}
            observation = defense(observation, **given)
        self._queries += 1
        return observation

    def _order(self, epochs: int) -> Tensor | None:
        if self._generator is None:
            return None
        count = len(self._images)
        return torch.stack([torch.randperm(count, generator=self._generator) for _ in range(epochs)])


def _divided(defenses: Sequence[Defense]) -> tuple[StepDefense | None, list[Callable[..., Observation]]]:
    """The step defense, if there is one, and the others in their order."""
    steps: list[StepDefense] = []
    others: list[Callable[..., Observation]] = []
    for defense in defenses:
        if _is_step(defense):
            steps.append(defense)
        elif callable(defense):
            others.append(defense)
        else:
            raise TypeError(
                f"defenses: expected callables on an observation or objects with a method gradient, got {defense!r}"
            )
    if len(steps) > 1:
        raise ValueError(
            f"defenses: expected at most one that takes the place of the gradient, got {', '.join(map(repr, steps))}"
        )
    return (steps[0] if steps else None), others


def _is_step(defense: Defense) -> TypeGuard[StepDefense]:
    return callable(getattr(defense, "gradient", None))


def _asks_for_generator(defense: Callable[..., Observation]) -> bool:
    """Whether a defense has an argument `generator` that nobody has given yet."""
    if isinstance(defense, functools.partial) and "generator" in defense.keywords:
        return False
    try:
        return "generator" in inspect.signature(defense).parameters
    except ValueError:  # a function of a C library, which has no signature
        return False
