"""The client: it holds the private batch and answers a model with what federated learning shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.federated.observation import LocalTraining, Observation, shared_names

Loss = Callable[[Tensor, Tensor], Tensor]
Defense = Callable[[Observation], Observation]
REVEALABLE = ("labels", "local", "batch_norm")


class Report(Protocol):
    """What a client's check of a model says: `ok`, and why not."""

    @property
    def ok(self) -> bool:
        """Whether the client will train on the model."""


class RefusedModel(ValueError):
    """A client's validation found the model that it received unacceptable; `report` says why."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"the client refuses this model: {report}")
        self.report = report


class Client:
    """A client with one private batch: all that an attack may hold of it is `answer`.

    Args:
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        local: local training; None shares the gradient of one full batch.
        reveal: optional fields of the observation that leak: "labels", "local", "batch_norm".
        defenses: applied to the observation in order, Observation -> Observation.
        validate: run on each model before training on it; its report's `ok` decides, else `RefusedModel`.
        generator: draws a new order of the images for every epoch of local training; None takes them as they come.
            Neither it nor the order is part of an answer.
        loss, training: as in `share_gradient`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        local: LocalTraining | None = None,
        reveal: Collection[str] = (),
        defenses: Sequence[Defense] = (),
        validate: Callable[[nn.Module], Report] | None = None,
        generator: torch.Generator | None = None,
        loss: Loss = cross_entropy,
        training: bool = False,
    ) -> None:
        check_batch(images, labels)
        _check_reveal(reveal)
        self._images, self._labels = images.detach().clone(), labels.detach().clone()
        self._local, self._reveal, self._defenses = local, tuple(reveal), tuple(defenses)
        self._validate, self._loss, self._training = validate, loss, training
        self._generator = generator
        self._queries = 0

    @property
    def queries(self) -> int:
        """How many models this client has answered."""
        return self._queries

    def answer(self, model: nn.Module) -> Observation:
        """What this client sends back for `model`: the same batch each time. The model is not changed."""
        if self._validate is not None and not (report := self._validate(model)).ok:
            raise RefusedModel(report)
        if self._local is None:
            observation = share_gradient(
                model, self._images, self._labels, reveal=self._reveal, loss=self._loss, training=self._training
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
            )
        for defense in self._defenses:
            observation = defense(observation)
        self._queries += 1
        return observation

    def _order(self, epochs: int) -> Tensor | None:
        if self._generator is None:
            return None
        count = len(self._images)
        return torch.stack([torch.randperm(count, generator=self._generator) for _ in range(epochs)])


@torch.enable_grad()
def share_gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    reveal: Collection[str] = (),
    loss: Loss = cross_entropy,
    training: bool = False,
) -> Observation:
    """The gradient of the mean loss over one batch, as FedSGD shares it.

    Args:
        model: maps images to logits; unchanged afterwards. Shared are its parameters with `requires_grad`.
        images: (N, C, H, W) in [0, 1]; moved to the model's device and dtype.
        labels: (N,) int64.
        reveal: which optional fields leak, of "labels" and "batch_norm".
        loss: (logits, labels) -> scalar.
        training: batch normalization by batch statistics (True) or running ones.

    Raises ValueError for images outside [0, 1], labels out of range, or an unknown name in `reveal`.
    """
    victim, images, labels = _prepare(model, images, labels, reveal, training)
    with BatchStatistics(victim) as statistics:
        logits = victim(images)
    check_labels(labels, logits)
    shared = {name: p for name, p in victim.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        loss(logits, labels), list(shared.values()), allow_unused=True, materialize_grads=True
    )
    return Observation(
        gradients=dict(zip(shared, gradients, strict=True)),
        image_shape=_image_shape(images),
        batch_size=len(images),
        training=training,
        labels=labels if "labels" in reveal else None,
        batch_norm=statistics.seen if "batch_norm" in reveal else None,
        trainable=_trainable(model),
    )


@torch.enable_grad()
def share_update(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    local: LocalTraining,
    reveal: Collection[str] = (),
    order: Tensor | None = None,
    loss: Loss = cross_entropy,
    training: bool = False,
) -> Observation:
    """The weights before minus the weights after local SGD, undivided, as FedAvg shares it.

    One full-batch step gives `lr` times `share_gradient`. The arguments are those of `share_gradient`, and:

    Args:
        local: epochs, batch size, step size, momentum; it leaks if `reveal` holds "local".
        order: (epochs, N) int64, the permutation of the images in each epoch; None takes them as they come.
            It never enters the observation.

    "batch_norm" reveals the statistics of the first local step.
    """
    victim, images, labels = _prepare(model, images, labels, reveal, training)
    count = len(images)
    if order is None:
        order = torch.arange(count).expand(local.epochs, count)
    if (
        order.dtype != torch.int64
        or order.shape != (local.epochs, count)
        or not bool((order.sort(1).values.cpu() == torch.arange(count)).all())
    ):
        raise ValueError(
            f"order: expected {local.epochs} permutations of {count} images in int64, "
            f"got {tuple(order.shape)} of {order.dtype}"
        )
    shared = {name: p for name, p in victim.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in shared.items()}
    optimizer = torch.optim.SGD(shared.values(), lr=local.lr, momentum=local.momentum)
    first: dict[str, tuple[Tensor, Tensor]] | None = None
    for epoch in order.to(images.device):
        for chosen in epoch.split(local.batch_size):
            with BatchStatistics(victim) as statistics:
                logits = victim(images[chosen])
            first = statistics.seen if first is None else first
            check_labels(labels, logits)
            optimizer.zero_grad()
            loss(logits, labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Observation(
        gradients={name: before[name] - p.detach() for name, p in shared.items()},
        image_shape=_image_shape(images),
        batch_size=count,
        training=training,
        labels=labels if "labels" in reveal else None,
        local=local if "local" in reveal else None,
        batch_norm=first if "batch_norm" in reveal else None,
        trainable=_trainable(model),
    )


def set_mode(model: nn.Module, training: bool) -> nn.Module:
    """Put `model` in training or evaluation mode, but with dropout off and RReLU at its mean slope in both.

    Random masks and slopes would move the global random state, and no attacker could repeat them.
    """
    model.train(training)
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU)):
            module.eval()
    return model


class BatchStatistics:
    """Records the mean and biased variance of what enters each batch normalization while it is open."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }

    def __enter__(self) -> BatchStatistics:
        self._handles = [
            layer.register_forward_pre_hook(lambda _, inputs, name=name: self._record(name, inputs[0]))
            for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, name: str, inputs: Tensor) -> None:
        variance, mean = torch.var_mean(inputs.detach(), [0, *range(2, inputs.dim())], correction=0)
        self.seen[name] = (mean, variance)


def _prepare(
    model: nn.Module, images: Tensor, labels: Tensor, reveal: Collection[str], training: bool
) -> tuple[nn.Module, Tensor, Tensor]:
    check_batch(images, labels)
    _check_reveal(reveal)
    if not shared_names(model):
        raise ValueError("model: no parameter requires a gradient, so there is nothing to share")
    parameter = next(model.parameters())
    victim = set_mode(copy.deepcopy(model), training)  # a copy: batch statistics must not move the caller's buffers
    return victim, images.detach().to(parameter), labels.to(parameter.device)


def _image_shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def _trainable(model: nn.Module) -> tuple[str, ...] | None:
    names = shared_names(model)
    return tuple(names) if len(names) < len(list(model.named_parameters())) else None


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless these are images in [0, 1] with a label each."""
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected floats (N, C, H, W), got {tuple(images.shape)} of {images.dtype}")
    if len(images) == 0:
        raise ValueError("images: expected at least one, got an empty batch")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"images: expected values in [0, 1], got [{low:.3g}, {high:.3g}]; normalize in the model")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels: expected ({len(images)},) of int64, got {tuple(labels.shape)} of {labels.dtype}")


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise ValueError for a label that the victim has no logit for."""
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[-1]:
        raise ValueError(
            f"labels: expected 0 to {logits.shape[-1] - 1} for {logits.shape[-1]} logits, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )


def _check_reveal(reveal: Collection[str]) -> None:
    if isinstance(reveal, str):
        raise TypeError(f"reveal: expected a collection of names such as ({reveal!r},), got a string")
    if unknown := [name for name in reveal if name not in REVEALABLE]:
        raise ValueError(f"reveal: expected names of {REVEALABLE}, got {unknown[0]!r}")
