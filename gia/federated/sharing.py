"""What federated learning shares of one private batch: its gradient, or the update of local training on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.federated.layers import BatchStatistics
from gia.federated.local_sgd import local_sgd
from gia.federated.losses import Loss, LossName, check_labels, loss_of
from gia.federated.observation import LocalTraining, Observation, shared_names
from gia.federated.private_batch import check_reveal, checked_batch
from gia.federated.victims import differentiable, differentiating, victim_of

__all__ = ["DivergedError", "Step", "share_gradient", "share_update"]

#: (model, images, labels) of one step -> gradient of each shared parameter.
Step = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]


class DivergedError(ValueError):
    """Local training whose weights are no longer finite; nothing that it shares can be attacked.

    >>> from gia.federated.sharing import DivergedError
    >>> issubclass(DivergedError, ValueError)
    True
    """


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


def _prepare(
    model: nn.Module,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    reveal: Collection[str],
    loss: Loss,
    training: bool,
) -> tuple[nn.Module, Tensor, Tensor]:
    images, labels = checked_batch(images, labels, loss)
    check_reveal(reveal)
    # A copy, since a forward pass in training mode moves running statistics.
    victim = victim_of(model, training)
    if not shared_names(model):
        raise ValueError("model: expected at least one parameter with requires_grad, got none")
    parameter = next(model.parameters())
    images, labels = differentiable(images.detach()), differentiable(labels.detach())
    return victim, images.to(parameter), labels.to(parameter if labels.is_floating_point() else parameter.device)


def _gradients(value: Tensor, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not value.requires_grad:
        raise ValueError(
            f"model: expected a loss that depends on a parameter with requires_grad, got one that depends on none of "
            f"{list(shared)[:4]}: the forward pass does not use them"
        )
    gradients = torch.autograd.grad(value, list(shared.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(shared, gradients, strict=True))


def _checked_step(found: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a step defense in the order of the parameters."""
    if {name: g.shape for name, g in found.items()} != {name: p.shape for name, p in shared.items()}:
        raise ValueError(f"defenses: expected a gradient for each of {list(shared)} in its shape, got {list(found)}")
    return {name: found[name].detach().to(parameter) for name, parameter in shared.items()}


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


def _image_shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def _trainable(model: nn.Module) -> tuple[str, ...] | None:
    names = shared_names(model)
    return tuple(names) if len(names) < len(list(model.named_parameters())) else None
