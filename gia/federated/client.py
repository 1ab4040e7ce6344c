"""The client: it holds the private batch and answers a model with what federated learning shares."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.errors import expected_one_of
from gia.federated.layers import BatchStatistics
from gia.federated.local_sgd import local_sgd
from gia.federated.losses import Loss, LossName, check_labels, loss_of, takes_targets
from gia.federated.observation import LocalTraining, Observation, shared_names
from gia.federated.victims import differentiable, differentiating, victim_of

__all__ = ["Client", "Defense", "RefusedModel", "Report", "StepDefense", "share_gradient", "share_update"]


class StepDefense(Protocol):
    """A defense that needs the private images: it takes the place of the gradient of each local step."""

    def gradient(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, generator: torch.Generator | None
    ) -> Mapping[str, Tensor]:
        """Name of each parameter with `requires_grad` -> its gradient, for the images of one step."""


#: What a client does to what it shares: (observation) or (observation, *, generator) -> observation, or a step defense.
Defense = Callable[..., Observation] | StepDefense
#: (model, images, labels) of one step -> gradient of each shared parameter.
Step = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
#: The optional fields of an observation that a client may leak.
REVEALABLE = ("labels", "local", "batch_norm")


class Report(Protocol):
    """The result of a client's check of a model: whether it is `ok`; `str` says why not."""

    @property
    def ok(self) -> bool:
        """Whether the client will train on the model."""


class DivergedError(ValueError):
    """Local training whose weights are no longer finite; nothing that it shares can be attacked.

    >>> from gia.federated.client import DivergedError
    >>> issubclass(DivergedError, ValueError)
    True
    """


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
        images, labels = _checked_batch(images, labels, loss)
        _check_reveal(reveal)
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


@differentiating()
def share_gradient(
    model: nn.Module,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    reveal: Collection[str] = (),
    loss: Loss | LossName = cross_entropy,
    training: bool = False,
    step: Step | None = None,
) -> Observation:
    """The gradient of the mean loss over one batch, as FedSGD shares it (McMahan et al., 2017).

    Args:
        model: maps images to logits, as a tensor, an object with `logits`, or the first entry of a tuple; not changed.
            Its parameters with `requires_grad` are shared. What draws random numbers in train mode is switched off.
        images: (N, C, H, W) in [0, 1]; moved to the model's device and dtype. NumPy arrays are taken too.
        labels: (N,) int64 class labels; for another loss than cross-entropy also targets (N, ...) in floats.
        reveal: which optional fields leak, of "labels" and "batch_norm".
        loss: "cross_entropy", "bce" (one logit, or one for each of several labels), "mse", or a function (outputs,
            targets) -> scalar, a mean over images.
        training: whether batch normalization uses the statistics of its batch (True) or its running ones.
        step: takes the place of the gradient: (model, images, labels) -> name of each shared parameter -> gradient.

    Returns:
        The observation, with a gradient for every shared parameter.

    Raises:
        ValueError: images outside [0, 1], labels of another shape or dtype or without a logit, an unknown name in
            `reveal`, or a model without a parameter to train, with lazy parameters, with another output, or with
            random numbers in evaluation mode; a `step` that returns other names or shapes.
        TypeError: `reveal` is a string.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> gia.share_gradient(model, torch.zeros(2, 3, 4, 4), torch.tensor([2, 0]), reveal=("labels",))
    Observation(4 tensors with 263 entries in float32, 2 images of 3x4x4, eval mode, known: labels)
    """
    loss = loss_of(loss)
    victim, images, labels = _prepare(model, images, labels, reveal, loss, training)
    with BatchStatistics(victim) as statistics:
        logits = victim(images)
    check_labels(labels, logits, loss)
    shared = {name: p for name, p in victim.named_parameters() if p.requires_grad}
    return Observation(
        gradients=_gradients(loss(logits, labels), shared)
        if step is None
        else _checked_step(step(victim, images, labels), shared),
        image_shape=_image_shape(images),
        batch_size=len(images),
        training=training,
        labels=labels if "labels" in reveal else None,
        batch_norm=statistics.seen if "batch_norm" in reveal else None,
        trainable=_trainable(model),
    )


@differentiating()
def share_update(
    model: nn.Module,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    local: LocalTraining,
    reveal: Collection[str] = (),
    order: Tensor | None = None,
    loss: Loss | LossName = cross_entropy,
    training: bool = False,
    step: Step | None = None,
) -> Observation:
    """The weights before minus the weights after local SGD, undivided, as FedAvg shares it (McMahan et al., 2017).

    One step on the full batch gives `lr` times `share_gradient`.

    Args:
        model, images, labels, loss, training, step: as in `share_gradient`; the step is taken again for each gradient.
        local: epochs, batch size, step size and momentum.
        reveal: which optional fields leak, of "labels", "local" and "batch_norm". The last reveals the statistics of
            the first local step.
        order: (epochs, N) int64, the permutation of the images in each epoch; None takes them in the order of `images`.
            It is never part of the observation.

    Returns:
        The observation, with the update of every shared parameter as its gradient.

    Raises:
        ValueError: as in `share_gradient`, or an `order` that is not one permutation per epoch.
        TypeError: `reveal` is a string.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> local = gia.LocalTraining(epochs=2, batch_size=1, lr=0.1)
    >>> gia.share_update(model, torch.zeros(2, 3, 4, 4), torch.tensor([2, 0]), local=local, reveal=("local",))
    Observation(4 tensors with 263 entries in float32, 2 images of 3x4x4, eval mode, known: local)
    """
    loss = loss_of(loss)
    victim, images, labels = _prepare(model, images, labels, reveal, loss, training)
    order = _checked_order(order, local.epochs, len(images)).to(images.device)
    shared = {name: p for name, p in victim.named_parameters() if p.requires_grad}
    statistics: list[BatchStatistics] = []

    def gradient(weights: Mapping[str, Tensor], epoch: int, places: slice) -> dict[str, Tensor]:
        # The module's own parameters, not a functional call, so that every module can be trained.
        with torch.no_grad():
            for name, parameter in shared.items():
                parameter.copy_(weights[name])
        chosen = order[epoch, places]
        with BatchStatistics(victim) as recorded:
            logits = victim(images[chosen])
        if not statistics:
            statistics.append(recorded)
        check_labels(labels[chosen], logits, loss)
        if step is not None:
            return _checked_step(step(victim, images[chosen], labels[chosen]), shared)
        return _gradients(loss(logits, labels[chosen]), shared)

    before = {name: p.detach().clone() for name, p in shared.items()}
    update = local_sgd(before, gradient, images=len(images), local=local, fused=True)
    if broken := [name for name, change in update.items() if not bool(change.isfinite().all())]:
        raise DivergedError(
            f"local: expected steps after which all weights are finite, got NaN or infinity in {broken[0]!r}; "
            f"a smaller lr than {local.lr:g} may help"
        )
    return Observation(
        gradients=update,
        image_shape=_image_shape(images),
        batch_size=len(images),
        training=training,
        labels=labels if "labels" in reveal else None,
        local=local if "local" in reveal else None,
        batch_norm=statistics[0].seen if "batch_norm" in reveal else None,
        trainable=_trainable(model),
    )


def _is_step(defense: Defense) -> TypeGuard[StepDefense]:
    return callable(getattr(defense, "gradient", None))


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


def _asks_for_generator(defense: Callable[..., Observation]) -> bool:
    """Whether a defense has an argument `generator` that nobody has given yet."""
    if isinstance(defense, functools.partial) and "generator" in defense.keywords:
        return False
    try:
        return "generator" in inspect.signature(defense).parameters
    except ValueError:  # a function of a C library, which has no signature
        return False


def _checked_step(found: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a step defense in the order of the parameters."""
    if {name: g.shape for name, g in found.items()} != {name: p.shape for name, p in shared.items()}:
        raise ValueError(f"defenses: expected a gradient for each of {list(shared)} in its shape, got {list(found)}")
    return {name: found[name].detach().to(parameter) for name, parameter in shared.items()}


def _gradients(value: Tensor, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not value.requires_grad:
        raise ValueError(
            f"model: expected a loss that depends on a parameter with requires_grad, got one that depends on none of "
            f"{list(shared)[:4]}: the forward pass does not use them"
        )
    gradients = torch.autograd.grad(value, list(shared.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(shared, gradients, strict=True))


def _checked_order(order: Tensor | None, epochs: int, count: int) -> Tensor:
    if order is None:
        return torch.arange(count, device="cpu").expand(epochs, count)
    if (
        order.dtype != torch.int64
        or order.shape != (epochs, count)
        or not bool((order.sort(1).values.cpu() == torch.arange(count, device="cpu")).all())
    ):
        raise ValueError(
            f"order: expected {epochs} permutations of {count} images in int64, "
            f"got {tuple(order.shape)} of {order.dtype}"
        )
    return order


def _prepare(
    model: nn.Module,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    reveal: Collection[str],
    loss: Loss,
    training: bool,
) -> tuple[nn.Module, Tensor, Tensor]:
    images, labels = _checked_batch(images, labels, loss)
    _check_reveal(reveal)
    # A copy, since a forward pass in training mode moves running statistics.
    victim = victim_of(model, training)
    if not shared_names(model):
        raise ValueError("model: expected at least one parameter with requires_grad, got none")
    parameter = next(model.parameters())
    images, labels = differentiable(images.detach()), differentiable(labels.detach())
    return victim, images.to(parameter), labels.to(parameter if labels.is_floating_point() else parameter.device)


def _image_shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def _trainable(model: nn.Module) -> tuple[str, ...] | None:
    names = shared_names(model)
    return tuple(names) if len(names) < len(list(model.named_parameters())) else None


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless these are images (N, C, H, W) in [0, 1] and one int64 label per image.

    >>> import torch
    >>> from gia.federated.client import check_batch
    >>> check_batch(torch.ones(1, 3, 4, 4) * 255, torch.tensor([0]))
    Traceback (most recent call last):
    ValueError: images: expected values in [0, 1], got [255, 255]; normalize in the model
    """
    _checked_batch(images, labels, cross_entropy)


def _checked_batch(images: Any, labels: Any, loss: Loss) -> tuple[Tensor, Tensor]:
    """The batch as tensors, after a check of its shapes, dtypes and range; the loss decides what labels may be."""
    images, labels = _tensor("images", images), _tensor("labels", labels)
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected floats (N, C, H, W), got {tuple(images.shape)} of {images.dtype}")
    if len(images) == 0:
        raise ValueError("images: expected at least one image, got none")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"images: expected values in [0, 1], got [{low:.3g}, {high:.3g}]; normalize in the model")
    if labels.is_floating_point() and loss is not cross_entropy:
        if labels.shape[:1] != images.shape[:1] or not bool(labels.isfinite().all()):
            raise ValueError(f"labels: expected ({len(images)}, ...) finite targets, got {tuple(labels.shape)}")
    elif (
        labels.dtype != torch.int64
        or labels.shape[:1] != images.shape[:1]
        or (labels.dim() != 1 and not takes_targets(loss))
    ):
        raise ValueError(f"labels: expected ({len(images)},) of int64, got {tuple(labels.shape)} of {labels.dtype}")
    return images, labels


def _tensor(argument: str, value: object) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: expected a tensor or a NumPy array, got {type(value).__name__}")
    return value


def _check_reveal(reveal: Collection[str]) -> None:
    if isinstance(reveal, str):
        raise TypeError(f"reveal: expected a collection of names such as ({reveal!r},), got a string")
    if unknown := [name for name in reveal if name not in REVEALABLE]:
        raise ValueError(expected_one_of("reveal", unknown[0], REVEALABLE))
