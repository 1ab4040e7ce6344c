"""Pairs of a gradient and the images behind it, made from the victim and the attacker's own images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gia.attacks.generation.inverter import Inverter
from gia.federated import LocalTraining
from gia.federated.local_sgd import local_sgd
from gia.federated.losses import Loss
from gia.federated.observation import shared_names
from gia.federated.victims import victim_of

#: Largest number of gradient entries, and of examples, that are computed at once.
_AT_ONCE, _EXAMPLES = 2**22, 128

_State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Gradients as an inverter's buckets, of single images that can be averaged into batches, or of whole batches.

    Attributes:
        images: (N, C, H, W), `labels` (N,) theirs.
        buckets: (N, features), one row per image; or (M, features), one row per batch.
        members: (M, B) int64, the images of each batch; None where rows belong to images.
        batch_size: images of a pair.
    """

    images: Tensor
    labels: Tensor
    buckets: Tensor
    members: Tensor | None
    batch_size: int

    def drawn(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """About N pairs in a new order: rows (P, R), whose mean is the pair's gradient, and its images (P, B).

        Each image occurs in about B pairs.
        """
        if self.members is not None:
            order = torch.randperm(len(self.members), generator=generator).to(self.members.device)
            return order[:, None], self.members[order]
        count = len(self.images) // self.batch_size * self.batch_size
        shuffles = [torch.randperm(len(self.images), generator=generator)[:count] for _ in range(self.batch_size)]
        members = torch.cat(shuffles).view(-1, self.batch_size).to(self.images.device)
        return members, members


def gradients_of_images(
    model: nn.Module, inverter: Inverter, images: Tensor, labels: Tensor, *, loss: Loss, training: bool
) -> Pairs:
    """A gradient for each image; a batch's gradient is their mean. It also sets the scales of a new inverter."""
    victim = _Victim(model, loss, training, images)
    each = torch.arange(len(images), device=images.device)[:, None]
    buckets = victim.buckets(inverter, victim.gradient, images, labels, each)
    return Pairs(images, labels, buckets, None, inverter.batch_size)


def gradients_of_batches(
    model: nn.Module,
    inverter: Inverter,
    images: Tensor,
    labels: Tensor,
    *,
    local: LocalTraining | None,
    loss: Loss,
    training: bool,
    generator: torch.Generator,
) -> Pairs:
    """The gradient of each of about N random batches, or the update of `local` training on it in a random order."""
    victim, count = _Victim(model, loss, training, images), inverter.batch_size
    whole = len(images) // count * count
    shuffles = [torch.randperm(len(images), generator=generator)[:whole] for _ in range(count)]
    members = torch.cat(shuffles).view(-1, count)
    share: Callable[[Tensor, Tensor], _State] = victim.gradient
    chosen = members
    if local is not None:
        noise = torch.rand(len(members), local.epochs, count, generator=generator, dtype=torch.float64)
        chosen = members[:, None].expand_as(noise).gather(2, noise.argsort(2))
        share = victim.update(local)
    members, chosen = members.to(images.device), chosen.to(images.device)
    return Pairs(images, labels, victim.buckets(inverter, share, images, labels, chosen), members, count)


class _Victim:
    """The victim as a function of its shared parameters, one gradient for each of many batches at once."""

    def __init__(self, model: nn.Module, loss: Loss, training: bool, images: Tensor) -> None:
        net = victim_of(model, training).requires_grad_(True)
        names = shared_names(model)
        state = {name: p.detach() for name, p in net.named_parameters()}
        self.shared = {name: state[name] for name in names}
        self.size = sum(p.numel() for p in self.shared.values())
        frozen = {name: p for name, p in state.items() if name not in self.shared}
        for layer in list(net.modules()):
            for name, part in layer.named_children():
                if isinstance(part, nn.RReLU):  # vmap does not support it, even with the mean slope
                    setattr(layer, name, nn.LeakyReLU((part.lower + part.upper) / 2))
        if training:
            for layer in net.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # batch statistics must not be stored
                    layer.track_running_stats = False
                    layer.running_mean = layer.running_var = layer.num_batches_tracked = None

        with torch.no_grad():
            net(images[:2])  # the first pass looks for random numbers, which no transform of functions allows

        def mean_loss(parameters: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return loss(functional_call(net, {**parameters, **frozen}, images), labels)

        self._derivative: Callable[[Mapping[str, Tensor], Tensor, Tensor], _State] = grad(mean_loss)

    def gradient(self, images: Tensor, labels: Tensor) -> _State:
        """The gradient of the mean loss of one batch."""
        return self._derivative(self.shared, images, labels)

    def update(self, local: LocalTraining) -> Callable[[Tensor, Tensor], _State]:
        """A function (images (epochs, B, C, H, W), labels (epochs, B)) -> weights before minus after local SGD."""

        def train(images: Tensor, labels: Tensor) -> _State:
            def gradient(weights: Mapping[str, Tensor], epoch: int, step: slice) -> _State:
                return self._derivative(weights, images[epoch, step], labels[epoch, step])

            return local_sgd(self.shared, gradient, images=labels.shape[1], local=local, fused=False)

        return train

    def buckets(
        self,
        inverter: Inverter,
        share: Callable[[Tensor, Tensor], _State],
        images: Tensor,
        labels: Tensor,
        chosen: Tensor,
    ) -> Tensor:
        """The inverter's buckets (M, features) of what is shared; `chosen` (M, ...) are the images of each row."""
        many = vmap(share)
        size = max(1, min(_EXAMPLES, _AT_ONCE // self.size))
        buckets = []
        for part in torch.split(chosen, size):
            gradients = list(many(images[part], labels[part]).values())
            if not bool(inverter.scales.any()):  # the first part of the first pairs sets them
                sizes = torch.stack([g.flatten(1).square().sum(1).mean().sqrt() for g in gradients])
                largest = sizes.max().clamp_min(torch.finfo(sizes.dtype).tiny)
                # A gradient of rounding errors, such as that of a bias before batch statistics, must not be scaled up.
                rounding = 100 * torch.finfo(sizes.dtype).eps * largest
                inverter.scales.copy_(torch.where(sizes > rounding, sizes, largest))
            buckets.append(inverter.buckets(gradients))
        return torch.cat(buckets)
