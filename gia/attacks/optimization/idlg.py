"""Improved Deep Leakage from Gradients: the label is read off the gradient, then DLG searches for the image alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.labels import restore
from gia.attacks.matching import Progress
from gia.attacks.objectives import Objective
from gia.attacks.optimization.dlg import dlg
from gia.attacks.optimization.pixels import Start
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, class_loss


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    loss: Loss | LossName,
    **settings: object,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "idlg")
    if observations[0].batch_size > 1:
        raise ValueError(f"batch_size: expected one image, whose label idlg restores, got {observations[0].batch_size}")
    labelled = _labelled(model, observations)
    return dlg.many(model, labelled, generators=generators, loss=loss, **settings)


def _labelled(model: nn.Module, observations: Sequence[Observation]) -> list[Observation]:
    """With their labels. One whose classifier shows none has no gradient either then, so that `dlg` loses it alone."""
    labelled: list[Observation] = []
    missed: list[NothingFound] = []
    for observation in observations:
        try:
            labelled.append(restore(model, observation, rule="sign"))
        except NothingFound as nothing:
            missed.append(nothing)
            zeros = {name: torch.zeros_like(gradient) for name, gradient in observation.gradients.items()}
            label = torch.zeros(1, dtype=torch.int64, device=next(iter(zeros.values())).device)
            labelled.append(replace(observation, gradients=zeros, labels=label))
    if len(missed) == len(observations):
        raise missed[0]
    return labelled


def _terms(
    model: nn.Module, observation: Observation, images: Sequence[Tensor], labels: Tensor | None, **settings: object
) -> list[float]:
    restored = restore(model, observation, rule="sign") if labels is None else observation
    assert dlg.terms is not None
    return dlg.terms(model, restored, images, labels, **settings)


@attack(
    Card(
        leaf="OP",
        needs=frozenset(),
        iterative=True,
        source="Zhao et al., 2020, iDLG: Improved Deep Leakage from Gradients",
    ),
    many=_many,
    terms=_terms,
)
def idlg(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    steps: int = 300,
    lr: float = 1.0,
    history: int = 100,
    converged: float | None = None,
    objective: Objective | None = None,
    restarts: int = 1,
    init: Start = "uniform",
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """Improved Deep Leakage from Gradients (Zhao et al., 2020, arXiv 2001.02610, Algorithm 1).

    `gia.attacks.labels.restore` with rule="sign" gives the label of the one image, and `dlg` searches for the image
    with that label. A label that leaked is not read; use `dlg` to attack with it.

    Args:
        model: the victim as sent.
        observation: of one image.
        generator: draws the starts.
        steps, lr, history, converged, objective, restarts, init, loss, callback: as in `dlg`.

    Returns one image (1, C, H, W) in [0, 1] and its restored label (1,). Departs from the paper as `dlg` does. Raises
    ValueError for more than one image, a label that cannot be restored, and a setting out of range.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> victim = {"num_classes": 4, "image_size": 8, "width": 4, "activation": "sigmoid", "init": "dlg"}
    >>> model = gia.models.build("lenet", generator=seed, **victim)
    >>> image, label = torch.rand(1, 3, 8, 8, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label)
    >>> result = gia.attacks.idlg(model, observation, generator=seed, steps=5)
    >>> result.labels.tolist(), bool(gia.metrics.psnr(result.images, image) > 20)
    ([2], True)
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        steps=steps,
        lr=lr,
        history=history,
        converged=converged,
        objective=objective,
        restarts=restarts,
        init=init,
        loss=loss,
        callback=callback,
    )[0]
