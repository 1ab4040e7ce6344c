"""The plain engine: the matching loss by double backward, one trial at a time. Faster engines are tested against it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gia.attacks.objectives import Agreement, Objective
from gia.federated import LocalTraining
from gia.federated.local_sgd import local_sgd
from gia.federated.losses import Loss


def matching_gradient(
    victim: nn.Module,
    targets: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    objective: Objective,
    loss: Loss,
    local: LocalTraining | None,
    balance: bool = False,
    at_once: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The objective at one batch and its gradient with respect to the images, and to the labels if they are soft.

    Args:
        victim: in the client's mode; its shared parameters require a gradient.
        targets: shared parameter name -> observed gradient.
        images: (B, C, H, W).
        labels: (B,) int64, or (B, K) class probabilities.
        local: simulate this local training instead of one gradient.
        balance: whether the simulated gradient is `balanced` before it is compared.
        at_once: images whose graph is held at once, where the gradient of a batch is the mean of those of its images
            and nothing local is simulated; None for all. The gradient is then summed first, without a graph; the
            objective's derivative V with respect to it is known then, so that each part of the batch adds
            <V, its gradient>, whose derivative is that of the objective.
    """
    if at_once is not None:
        return _in_parts(victim, targets, images, labels, objective, loss, balance, at_once)
    images = images.detach().requires_grad_()
    soft = labels.is_floating_point()
    labels = labels.detach().requires_grad_(soft)
    gradients = simulated(victim, targets, images, labels, loss=loss, local=local, create_graph=True)
    value = _compared(gradients, targets, objective, balance)
    # Only gradients to the images (and soft labels) are asked for: second derivatives to the weights are never formed.
    wanted = [images, labels] if soft else [images]
    derivatives = torch.autograd.grad(value, wanted, allow_unused=soft, materialize_grads=soft)
    return value.detach(), derivatives[0], derivatives[1] if soft else None


def _in_parts(
    victim: nn.Module,
    targets: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    objective: Objective,
    loss: Loss,
    balance: bool,
    at_once: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`matching_gradient` with the graph of a few images at a time."""
    whole = simulated(victim, targets, images, labels, loss=loss, local=None, at_once=at_once)
    whole = {name: gradient.requires_grad_() for name, gradient in whole.items()}
    value = _compared(whole, targets, objective, balance)
    slopes = torch.autograd.grad(value, list(whole.values()), allow_unused=True, materialize_grads=True)
    soft = labels.is_floating_point()
    to_images, to_labels = [], []
    images, labels = images.detach(), labels.detach()
    for few, their in zip(torch.split(images, at_once), torch.split(labels, at_once), strict=True):
        wanted = [few.requires_grad_(), their.requires_grad_()] if soft else [few.requires_grad_()]
        gradients = simulated(victim, targets, few, their, loss=loss, local=None, create_graph=True)
        pairs = zip(gradients.values(), slopes, strict=True)
        along = torch.stack([(gradient * slope).sum() for gradient, slope in pairs]).sum()
        derivatives = torch.autograd.grad(along, wanted, allow_unused=soft, materialize_grads=soft)
        to_images.append(derivatives[0] * len(few) / len(images))
        to_labels += [derivatives[1] * len(few) / len(images)] if soft else []
    return value.detach(), torch.cat(to_images), torch.cat(to_labels) if soft else None


def _compared(
    gradients: Mapping[str, Tensor], targets: Mapping[str, Tensor], objective: Objective, balance: bool
) -> Tensor:
    if balance:
        gradients = balanced(gradients)
    return objective(Agreement(list(gradients), list(gradients.values()), [targets[name] for name in gradients]))


def balanced(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients times the power of two that makes their largest entry about 1, so that squares do not underflow."""
    largest = max(float(gradient.detach().abs().max()) for gradient in gradients.values())
    factor = unit_factor(largest, next(iter(gradients.values())).dtype)
    return {name: gradient * factor for name, gradient in gradients.items()}


def unit_factor(size: float, dtype: torch.dtype) -> float:
    """The power of two, as large as the dtype holds, that brings a size to between 1/2 and 1.

    >>> unit_factor(3.0, torch.float32)
    0.25
    """
    if not math.isfinite(size):
        return 1.0
    return 2.0 ** min(-math.frexp(size)[1], math.frexp(torch.finfo(dtype).max)[1] - 2)


def simulated(
    victim: nn.Module,
    names: Collection[str],
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    local: LocalTraining | None,
    create_graph: bool = False,
    at_once: int | None = None,
) -> dict[str, Tensor]:
    """The gradient, or the update of local training, that a client with these images would share.

    With `at_once`, the gradient is the mean over parts of this many images, one after the other and without a graph.
    """
    parameters = {name: p for name, p in victim.named_parameters() if name in names}
    if local is not None:
        return _simulated_update(victim, parameters, images, labels, loss, local, create_graph)
    weights = list(parameters.values())
    if at_once is None:
        value = loss(victim(images), labels)
        gradients = torch.autograd.grad(value, weights, create_graph=create_graph, materialize_grads=True)
        return dict(zip(parameters, gradients, strict=True))
    mean = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
    for few, their in zip(torch.split(images, at_once), torch.split(labels, at_once), strict=True):
        value = loss(victim(few), their) * len(few) / len(images)
        gradients = torch.autograd.grad(value, weights, materialize_grads=True)
        mean = {name: mean[name] + part for name, part in zip(parameters, gradients, strict=True)}
    return mean


def _simulated_update(
    victim: nn.Module,
    start: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    local: LocalTraining,
    create_graph: bool,
) -> dict[str, Tensor]:
    """Weights before minus after local SGD on the candidates (Geiping et al., 2020, Sec. 6; the paper's Sec. III-A).

    The client's order of data is unknown to an attacker: the candidates are taken as they stand in every epoch, so
    candidate i plays the image that the client had in place i.
    """
    order = torch.arange(len(images), device=images.device)

    def gradient(weights: Mapping[str, Tensor], _: int, places: slice) -> dict[str, Tensor]:
        chosen = order[places]
        value = loss(functional_call(victim, dict(weights), (images[chosen],)), labels[chosen])
        slopes = torch.autograd.grad(value, list(weights.values()), create_graph=create_graph, materialize_grads=True)
        return dict(zip(weights, slopes, strict=True))

    return local_sgd(start, gradient, images=len(images), local=local, fused=False)
