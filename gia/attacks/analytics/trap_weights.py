"""Trap weights: the images that reach a neuron alone, where a malicious server has made neurons fire rarely."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.linear_layer import linear_layer
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack
from gia.federated import Observation
from gia.federated.client import Loss


@attack(
    Card(
        leaf="ANA-parameters",
        needs=frozenset({"linear_input", "malicious_server"}),
        iterative=False,
        source="Boenisch et al., 2023, When the Curious Abandon Honesty: Federated Learning Is Not Private",
    )
)
def trap_weights(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    layer: str | None = None,
    agreement: float | None = None,
    loss: Loss = cross_entropy,
) -> list[Reconstruction]:
    """x = gW_i / gb_i on a model made by `gia.federated.server.trap_weights` (Boenisch et al., 2023).

    The inversion is that of `linear_layer`, with its arguments, results and errors; what the trap adds is in the model.
    """
    return linear_layer.many(model, observations, generators=generators, layer=layer, agreement=agreement, loss=loss)
