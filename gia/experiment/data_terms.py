"""How far an attack's simulated gradient is from the observed one at given images, and an attack that finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia import attacks
from gia.attacks.analytics.fishing import _unsaturated
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine, Objective, SquaredDifferences
from gia.federated import Observation
from gia.federated.server import classifier


class NothingFound(ValueError):
    """An attack found no image in what it observed."""


def data_term(
    attack: str | Callable[..., attacks.Reconstruction],
    model: nn.Module,
    observation: Observation,
    images: Tensor,
    labels: Tensor | None = None,
    **settings: Any,
) -> float:
    """The matching term of an attack at images (B, C, H, W) and labels (B,), without its priors."""
    function = attacks.find(attack)
    objective = settings.get("objective") or _default(function)
    if function is attacks.fishing:
        name = classifier(model)
        objective = Cosine(layers=[key for key in observation.gradients if not key.startswith(f"{name}.")])
        model, label = _unsaturated(model, name, settings["target"])
        labels = torch.tensor([label])
        observation = replace(
            observation, batch_size=1, labels=labels, training=False, local=None, batch_norm=None
        )
    labels = observation.labels if labels is None else labels
    assert labels is not None
    problem = Matching(model, [observation], objective=objective, loss=settings.get("loss", cross_entropy), engine="plain")
    at = images.to(problem.reference)[None]
    with torch.enable_grad():
        return float(problem.values(at, labels.to(at.device)[None], mirror=settings.get("mirror", ())))


def _default(function: Callable[..., attacks.Reconstruction]) -> Objective:
    if function is attacks.gradinversion:
        return SquaredDifferences(1e-4)
    squared = function in (attacks.dlg, attacks.idlg, attacks.ggl)
    return SquaredDifferences() if squared else Cosine()
