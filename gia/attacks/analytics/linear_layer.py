"""The input of a linear layer in closed form, from the gradients of its weight and bias."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.analytics.layers import input_layer, signal_scale
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation, set_mode
from gia.federated.client import Loss
from gia.models import standardization


@attack(
    Card(
        leaf="ANA-architecture",
        needs=frozenset({"linear_input"}),
        iterative=False,
        source="Phong et al., 2018, Privacy-Preserving Deep Learning via Additively Homomorphic Encryption; "
        "arXiv 2503.11514, Fig. 2",
    )
)
def linear_layer(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    layer: str | None = None,
    agreement: float | None = None,
    loss: Loss = cross_entropy,
) -> list[Reconstruction]:
    """x = gW_i / gb_i for every neuron i of a linear layer that sees the image (arXiv 2503.11514, Fig. 2).

    Where one image activates neuron i the quotient is that image; where several do, it is their average weighted by
    each one's dL/dy_i. To tell them apart the private batch is not needed. Two neurons whose quotients agree saw one
    image only, unless every image of an average reaches both in one ratio, as in a net with two classes, or nearly so
    where images share a label. So the image must also explain the neurons' bias gradients all by itself, under some
    label.

    Args:
        model: the victim as sent; one of its `nn.Linear` layers with a bias must see the (standardized) image itself.
        observations, generators: one each per trial; nothing is drawn.
        layer: name of the linear layer; None takes the first that fits.
        agreement: largest difference of two quotients that count as one image, and relative difference of two bias
            gradients; None: 1e-9 in float64, 1e-3 in float32.
        loss: the client's training loss.

    Returns a reconstruction per observation: raw, unclamped images (N, C, H, W), one per set of agreeing neurons, the
    strongest bias gradient first; N is 1 for a single private image and may exceed the batch size otherwise. `exact`
    is the attack's own belief: a single private image, or at least two agreeing neurons whose bias gradients it
    explains. It is cautious: after several local steps the quotient is only an approximation, batch normalization by
    batch statistics ties the images together, an update of unknown `local` has an unknown scale, and there `exact` is
    False. Raises ValueError where no linear layer with a bias sees the image, or no bias gradient differs from zero.
    """
    check_trials(model, observations, generators)
    first = observations[0]
    name = input_layer(model, first, layer)
    mean, std = (value.to(first.gradients[f"{name}.weight"]).view(-1, 1, 1) for value in standardization(model))
    found = []
    for observation in observations:
        weight, bias = observation.gradients[f"{name}.weight"], observation.gradients[f"{name}.bias"]
        order = bias.abs().argsort(descending=True, stable=True)
        order = order[bias[order] != 0]
        if not len(order):
            raise ValueError(f"gradients: no neuron of {name!r} was active, its bias gradient is zero")
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
        found.append(Reconstruction(images=images, exact=exact, gradient_evaluations=evaluations))
    return found


def _agreeing(candidates: Tensor, limit: float) -> list[list[int]]:
    """The rows in sets: those that agree with the first of their set within `limit` in every entry."""
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
    """dL/dy of the linear layer `name`, (labels, images, neurons), had each image been shared alone with each label."""
    victim = set_mode(copy.deepcopy(model), False)
    outputs: list[Tensor] = []
    victim.get_submodule(name).register_forward_hook(lambda _, __, output: outputs.append(output))
    logits = victim(images)
    labels = [torch.full_like(logits[:, 0], label, dtype=torch.int64) for label in range(logits.shape[1])]
    # The loss is a mean over images, so its gradient times their number is each one's own.
    signals = [torch.autograd.grad(loss(logits, same), outputs, retain_graph=True)[0] * len(images) for same in labels]
    return torch.stack(signals)
