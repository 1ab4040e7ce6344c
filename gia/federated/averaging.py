"""A whole federated training: rounds of federated averaging over clients, and clients whose labels differ."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gia.data.images import Images
from gia.federated.client import Client, RefusedModel
from gia.federated.training import accuracy

__all__ = ["Averaging", "federated_averaging", "split_by_label"]


@dataclass(frozen=True, eq=False)
class Averaging:
    """A model after federated averaging.

    Attributes:
        model: the server's model after the last round, in evaluation mode.
        accuracies: held-out accuracy before the first round and after each one.
        refusals: how many answers were missing because a client's validation refused the model.

    >>> import torch
    >>> from gia.federated import Averaging
    >>> Averaging(torch.nn.Linear(2, 3), (0.1, 0.6), refusals=0)
    Averaging(1 round, accuracy 0.600, 0 refusals)
    """

    model: nn.Module
    accuracies: tuple[float, ...]
    refusals: int

    def __repr__(self) -> str:
        rounds = len(self.accuracies) - 1
        return (
            f"Averaging({rounds} round{'' if rounds == 1 else 's'}, accuracy {self.accuracies[-1]:.3f}, "
            f"{self.refusals} refusal{'' if self.refusals == 1 else 's'})"
        )


def federated_averaging(
    model: nn.Module, clients: Sequence[Client], *, rounds: int, held_out: Images, lr: float = 1.0
) -> Averaging:
    """Rounds in which each client answers the model, and the server applies the mean answer (McMahan et al., 2017).

    Answers count with their numbers of images. A client that refuses a model is left out of the mean of that round.
    Buffers are not shared, so running statistics of batch normalization stay as they are.

    Args:
        model: the start; it is not changed.
        clients: at least one. What they share is what an attacker sees, defenses included.
        rounds: at least 1.
        held_out: images on which accuracy is measured.
        lr: of the server: w = w - lr * mean answer. Answers of local training are weight differences, for which 1 is
            plain averaging; for gradients it is the step size.

    Raises ValueError for fewer than one client or round.

    >>> import torch, gia
    >>> images = gia.data.load("digits").take(torch.arange(60))
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=10, image_size=8, channels=1, width=16, generator=g)
    >>> local = gia.LocalTraining(epochs=5, batch_size=10, lr=0.1, momentum=0.9)
    >>> parts = gia.federated.split_by_label(images.labels, 2, concentration=1.0, generator=g)
    >>> clients = [gia.federated.Client(images.images[p], images.labels[p], local=local) for p in parts]
    >>> found = gia.federated.federated_averaging(model, clients, rounds=3, held_out=images)
    >>> found.accuracies[-1] > found.accuracies[0]
    True
    """
    if not clients:
        raise ValueError("clients: expected at least one, got none")
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    model = copy.deepcopy(model).eval()
    accuracies, refusals = [accuracy(model, held_out)], 0
    for _ in range(rounds):
        answers = []
        for client in clients:
            try:
                answers.append(client.answer(model))
            except RefusedModel:
                refusals += 1
        total = sum(answer.batch_size for answer in answers)
        with torch.no_grad():
            parameters = dict(model.named_parameters())
            for answer in answers:
                for name, gradient in answer.gradients.items():
                    parameters[name].sub_(gradient, alpha=lr * answer.batch_size / total)
        accuracies.append(accuracy(model, held_out))
    return Averaging(model, tuple(accuracies), refusals)


def split_by_label(
    labels: Tensor, clients: int, *, concentration: float, generator: torch.Generator, least: int = 1
) -> list[Tensor]:
    """Indices of each client's images, where clients have different labels (Hsu et al., arXiv 1909.06335).

    Each label's images are shared out in proportions from a symmetric Dirichlet distribution. Then clients with too few
    images get some of the largest client's.

    Args:
        labels: (N,) int64.
        clients: how many.
        concentration: of the distribution: small values give each label to few clients, large ones to all equally.
        generator: draws.
        least: images that each client has at least.

    Raises ValueError for a number out of range, and for fewer than clients * least images.

    >>> import torch
    >>> from gia.federated import split_by_label
    >>> g = torch.Generator().manual_seed(0)
    >>> parts = split_by_label(torch.arange(100) % 4, 3, concentration=0.5, generator=g, least=10)
    >>> sorted(torch.cat(parts).tolist()) == list(range(100)), min(map(len, parts)) >= 10
    (True, True)
    """
    if clients < 1 or least < 0 or not concentration > 0:
        raise ValueError(
            f"clients, least, concentration: expected at least 1 and 0 and a number above 0, "
            f"got {clients}, {least} and {concentration}"
        )
    if len(labels) < clients * least:
        raise ValueError(f"least: expected at most {len(labels) // clients} for {len(labels)} images, got {least}")
    labels = labels.cpu()
    owner = torch.empty(len(labels), dtype=torch.int64, device="cpu")
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        # A Dirichlet draw is a vector of independent gamma draws over its sum.
        shape = torch.full((clients,), float(concentration), device="cpu").double()
        weights = torch._standard_gamma(shape, generator=generator)
        ends = (weights.cumsum(0) / weights.sum() * len(members)).round().long()
        owner[members] = torch.bucketize(torch.arange(len(members), device="cpu"), ends, right=True).clamp(
            max=clients - 1
        )
    for client in range(clients):
        while (missing := least - int((owner == client).sum())) > 0:
            largest = int(torch.bincount(owner, minlength=clients).argmax())
            spare = int((owner == largest).sum()) - least
            owner[(owner == largest).nonzero()[: min(missing, spare), 0]] = client
    return [(owner == client).nonzero()[:, 0] for client in range(clients)]
