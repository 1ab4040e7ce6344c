"""Improved Deep Leakage from Gradients: the label read off the gradient, then DLG's search for the image alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.labels import restore
from gia.attacks.matching import Progress
from gia.attacks.objectives import Objective
from gia.attacks.optimization.dlg import dlg
from gia.attacks.optimization.pixels import Start
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.client import Loss


@attack(
    Card(
        leaf="OP",
        needs=frozenset(),
        iterative=True,
        source="Zhao et al., 2020, iDLG: Improved Deep Leakage from Gradients",
    )
)
def idlg(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int = 300,
    lr: float = 1.0,
    history: int = 100,
    objective: Objective | None = None,
    restarts: int = 1,
    init: Start = "uniform",
    loss: Loss = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> list[Reconstruction]:
    """Improved Deep Leakage from Gradients (Zhao et al., 2020, arXiv 2001.02610).

    `gia.attacks.labels.restore` with rule="sign" gives the label of the one image, and `dlg`, whose settings these are,
    searches for it with that label. A label that leaked is not read: to attack with it, take `dlg`.

    Returns a reconstruction per observation with image (1, C, H, W) in [0, 1] and the restored label (1,). Raises
    ValueError for observations of more than one image or whose label cannot be restored. Departs as `dlg` does.
    """
    check_trials(model, observations, generators)
    if observations[0].batch_size > 1:
        raise ValueError(f"observations: idlg restores the label of one image, got {observations[0].batch_size}")
    return dlg.many(
        model,
        [restore(model, observation, rule="sign") for observation in observations],
        generators=generators,
        steps=steps,
        lr=lr,
        history=history,
        objective=objective,
        restarts=restarts,
        init=init,
        loss=loss,
        callback=callback,
    )
