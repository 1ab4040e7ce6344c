"""The input of a linear layer in closed form, from the gradients of its weight and bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.layers import input_layer, signal_scale
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials, one_by_one
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, class_loss
from gia.federated.outputs import check_logits
from gia.federated.victims import victim_of
from gia.models import standardization


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    layer: str | None,
    agreement: float | None,
    loss: Loss | LossName,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "linear_layer")
    first = observations[0]
    name = input_layer(model, first, layer)
    mean, std = (value.to(first.gradients[f"{name}.weight"]).view(-1, 1, 1) for value in standardization(model))

    def attacked(observation: Observation, _: torch.Generator) -> Reconstruction:
        weight, bias = observation.gradients[f"{name}.weight"], observation.gradients[f"{name}.bias"]
        order = bias.abs().argsort(descending=True, stable=True)
        order = order[bias[order] != 0]
        if not len(order):
            raise NothingFound(f"gradients: expected an active neuron of {name!r}, got a bias gradient of zeros")
        quotients = weight[order] / bias[order, None]
        limit = agreement if agreement is not None else (1e-9 if weight.dtype == torch.float64 else 1e-3)
        agreeing = [[0]] if observation.batch_size == 1 else _agreeing(quotients, limit)
        images = quotients[[rows[0] for rows in agreeing]].view(-1, *observation.image_shape) * std + mean
        exact = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        evaluations = 0
        if scale := signal_scale(observation.local, observation.batch_size):
            if observation.batch_size == 1:
                exact[0] = True
            elif several := [i for i, rows in enumerate(agreeing) if len(rows) > 1]:
                signals = _signals(model, name, images[several], loss) * scale
                evaluations = len(signals)
                for i, alone in zip(several, signals.unbind(1), strict=True):
                    neurons = order[agreeing[i]]
                    close = (alone[:, neurons] - bias[neurons]).abs() <= limit * bias[neurons].abs()
                    exact[i] = close.all(1).any()
        return Reconstruction(images=images, exact=exact, gradient_evaluations=evaluations)

    return one_by_one(attacked, observations, generators)


@attack(
    Card(
        leaf="ANA-architecture",
        needs=frozenset({"linear_input"}),
        iterative=False,
        source="Phong et al., 2018, Privacy-Preserving Deep Learning via Additively Homomorphic Encryption; "
        "arXiv 2503.11514, Fig. 2",
    ),
    many=_many,
)
def linear_layer(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    layer: str | None = None,
    agreement: float | None = None,
    loss: Loss | LossName = cross_entropy,
) -> Reconstruction:
    """x = gW_i / gb_i for every neuron i of a linear layer that sees the image (Phong et al., 2018, Sec. 3).

    Where one image activates neuron i, the quotient is that image (arXiv 2503.11514, Fig. 2). Where several do, it is
    their average weighted by each image's dL/dy_i. Two neurons whose quotients agree saw one image only, except where
    all images of an average reach both neurons in the same ratio, as in a net with two classes, or nearly so where
    images share a label. So the attack also asks whether the image alone explains the neurons' bias gradients under
    some label.

    Args:
        model: the victim as sent; one of its `nn.Linear` layers with a bias must see the (standardized) image itself.
        observation: of a batch of any size.
        generator: not used, since nothing is drawn.
        layer: name of the linear layer; None takes the first that sees the image.
        agreement: largest difference of two quotients that count as one image, and largest relative difference of two
            bias gradients; None takes 1e-9 in float64 and 1e-3 in float32.
        loss: the client's training loss.

    Returns unclamped images (N, C, H, W), one per set of agreeing neurons, the strongest bias gradient first; N is 1
    for a single private image and may exceed the batch size otherwise. `exact` is the attack's own belief: a single
    private image, or at least two agreeing neurons whose bias gradients the image explains. It is False where that
    cannot be known: after several local steps, where the quotient is an approximation; for an update of unknown
    `local`, whose scale is unknown; and where batch statistics couple the images.

    Raises ValueError where no linear layer with a bias sees the image, and `NothingFound` where every entry of its bias
    gradient is zero.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, generator=seed)
    >>> image = torch.rand(1, 3, 4, 4, generator=seed)
    >>> observation = gia.share_gradient(model, image, torch.tensor([1]))
    >>> result = gia.attacks.linear_layer(model, observation, generator=seed)
    >>> result.exact.tolist(), bool(gia.metrics.psnr(result.images, image) > 60)
    ([True], True)
    """
    return _many(model, [observation], generators=[generator], layer=layer, agreement=agreement, loss=loss)[0]


def _agreeing(candidates: Tensor, limit: float) -> list[list[int]]:
    """Sets of rows that agree with the first row of their set within `limit` in every entry."""
    sets: list[list[int]] = []
    for i, row in enumerate(candidates):
        distance = (candidates[[rows[0] for rows in sets]] - row).abs().amax(1) if sets else row.new_empty(0)
        near = (distance <= limit).nonzero().flatten()
        if len(near):
            sets[int(near[0])].append(i)
        else:
            sets.append([i])
    return sets


def _signals(model: nn.Module, name: str, images: Tensor, loss: Loss) -> Tensor:
    """dL/dy of the linear layer `name`, (labels, images, neurons), if each image were shared alone with each label."""
    victim = victim_of(model, False, read_only=True)
    outputs: list[Tensor] = []
    victim.get_submodule(name).register_forward_hook(lambda _, __, output: outputs.append(output))
    logits = victim(images)
    check_logits(logits)
    labels = [torch.full_like(logits[:, 0], label, dtype=torch.int64) for label in range(logits.shape[1])]
    # The loss is a mean over images: its gradient times their number is the gradient of each image alone.
    signals = [torch.autograd.grad(loss(logits, same), outputs, retain_graph=True)[0] * len(images) for same in labels]
    return torch.stack(signals)
