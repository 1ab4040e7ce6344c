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
from gia.federated.losses import Loss, LossName


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    layer: str | None,
    agreement: float | None,
    loss: Loss | LossName,
) -> list[Reconstruction]:
    return linear_layer.many(model, observations, generators=generators, layer=layer, agreement=agreement, loss=loss)


@attack(
    Card(
        leaf="ANA-parameters",
        needs=frozenset({"linear_input", "malicious_server"}),
        iterative=False,
        source="Boenisch et al., 2023, When the Curious Abandon Honesty: Federated Learning Is Not Private",
    ),
    many=_many,
)
def trap_weights(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    layer: str | None = None,
    agreement: float | None = None,
    loss: Loss | LossName = cross_entropy,
) -> Reconstruction:
    """x = gW_i / gb_i on a model made by `gia.federated.server.trap_weights` (Boenisch et al., 2023, Sec. 5).

    The inversion is that of `linear_layer`. The trap is in the model's weights.

    Args:
        model: the victim as sent, with trap weights in a linear layer that sees the image.
        observation: of a batch of any size.
        generator: not used, since nothing is drawn.
        layer, agreement, loss: as in `linear_layer`.

    Returns what `linear_layer` returns. Raises what it raises.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, generator=seed)
    >>> sent = gia.federated.server.trap_weights(model, generator=seed)
    >>> images = torch.rand(2, 3, 4, 4, generator=seed)
    >>> observation = gia.share_gradient(sent, images, torch.tensor([0, 1]))
    >>> result = gia.attacks.trap_weights(sent, observation, generator=seed)
    >>> bool(gia.metrics.psnr(result.images[result.exact][:1], images[:1]) > 0)
    True
    """
    return _many(model, [observation], generators=[generator], layer=layer, agreement=agreement, loss=loss)[0]
