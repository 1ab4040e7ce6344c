"""The input of a linear layer in closed form, from the gradients of its weight and bias."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation, set_mode
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
) -> list[Reconstruction]:
    """x = gW_i / gb_i for every neuron i of a linear layer that sees the image (arXiv 2503.11514, Fig. 2).

    Where one image activates neuron i the quotient is that image; where several do, it is their average weighted by each
    one's dL/dy_i. The private batch is not needed to tell them apart: two neurons whose quotients agree saw one image
    only, since weighted averages of different neurons differ.

    Args:
        model: the victim as sent; one of its `nn.Linear` layers with a bias must see the (standardized) image itself.
        observations, generators: one each per trial; nothing is drawn.
        layer: name of the linear layer; None takes the first that fits.
        agreement: largest difference of two quotients that count as one image; None: 1e-9 in float64, 1e-3 in float32.

    Returns a reconstruction per observation: raw, unclamped images (N, C, H, W), one per set of agreeing neurons, the
    strongest bias gradient first; N is 1 for a single private image and may exceed the batch size otherwise. `exact`
    is the attack's own belief: a single private image, or at least two agreeing neurons. After several local steps the
    quotient is only an approximation, and `exact` is all False.
    Raises ValueError where no linear layer with a bias sees the image, or where no bias gradient differs from zero.
    """
    check_trials(model, observations, generators)
    first = observations[0]
    name = _input_layer(model, first, layer)
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
        kept, counts = (quotients[:1], None) if observation.batch_size == 1 else _distinct(quotients, limit)
        one_step = observation.local is None or (
            observation.local.epochs == 1 and observation.local.batch_size >= observation.batch_size
        )
        alone = torch.ones(len(kept), dtype=torch.bool, device=kept.device) if counts is None else counts > 1
        found.append(
            Reconstruction(
                images=kept.view(-1, *observation.image_shape) * std + mean,
                exact=alone if one_step else torch.zeros_like(alone),
            )
        )
    return found


def _distinct(candidates: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """The first of each set of rows that agree within `limit` in every entry, and the size of each set."""
    kept: list[int] = []
    counts: list[int] = []
    for i, row in enumerate(candidates):
        distance = (candidates[kept] - row).abs().amax(1) if kept else row.new_empty(0)
        near = (distance <= limit).nonzero().flatten()
        if len(near):
            counts[int(near[0])] += 1
        else:
            kept.append(i)
            counts.append(1)
    return candidates[kept], torch.tensor(counts, device=candidates.device)


def _input_layer(model: nn.Module, observation: Observation, wanted: str | None) -> str:
    """Name of a shared linear layer with a bias that is fed the image itself, tried on a made-up image."""
    victim = set_mode(copy.deepcopy(model), False)
    like = next(iter(observation.gradients.values()))
    size = int(torch.Size(observation.image_shape).numel())
    image = torch.linspace(0, 1, size, dtype=like.dtype, device=like.device).view(1, *observation.image_shape)
    mean, std = (value.to(like).view(-1, 1, 1) for value in standardization(model))
    expected = ((image - mean) / std).flatten()
    seen: list[str] = []

    def note(name: str, inputs: Tensor) -> None:
        if inputs.numel() == size and torch.allclose(inputs.flatten(), expected):
            seen.append(name)

    for name, module in victim.named_modules():
        if isinstance(module, nn.Linear) and {f"{name}.weight", f"{name}.bias"} <= set(observation.gradients):
            module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
    with torch.no_grad():
        victim(image)
    if not seen or (wanted is not None and wanted not in seen):
        which = "no linear layer" if wanted is None else f"no linear layer named {wanted!r}"
        raise ValueError(f"layer: {which} with shared weight and bias sees the image itself; those that do: {seen}")
    return seen[0] if wanted is None else wanted
