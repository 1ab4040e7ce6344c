"""Shared by the analytic attacks: finding the linear layer that sees the image, and the scale of one image's signal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gia.attacks.logits import logits_of
from gia.federated import LocalTraining, Observation
from gia.federated.victims import victim_of
from gia.models import standardization


def signal_scale(local: LocalTraining | None, batch_size: int) -> float:
    """Factor on the signal of a single image in the observed gradient; 0, for unknown, after several local steps."""
    if local is None:
        return 1 / batch_size
    return local.lr / batch_size if local.epochs == 1 and local.batch_size >= batch_size else 0.0


def input_layer(model: nn.Module, observation: Observation, wanted: str | None) -> str:
    """Name of a shared linear layer with a bias whose input is the image itself, tried on a made-up image.

    Raises ValueError where there is none, or none of the name `wanted`.
    """
    victim = victim_of(model, False, read_only=True)
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
    logits_of(victim, image)
    if not seen or (wanted is not None and wanted not in seen):
        raise ValueError(
            f"layer: expected a linear layer with shared weight and bias that sees the image itself, one of {seen}, "
            f"got {wanted!r}"
        )
    return seen[0] if wanted is None else wanted
