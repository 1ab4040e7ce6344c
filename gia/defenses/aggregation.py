"""Secure aggregation: the server sees the sum over clients, and no client's own answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from gia.federated.observation import Observation

__all__ = ["secure_aggregation"]


def secure_aggregation(observations: Sequence[Observation]) -> Observation:
    """What the server learns from clients whose answers are added up under encryption (Bonawitz et al., CCS 2017).

    Each client's answer counts with its number of images, as in federated averaging (McMahan et al., 2017). A sum of
    gradients of the mean loss is then the gradient over all images: the attacker faces one batch of all of them. This
    simulates what is seen, not the cryptography. In a `gia.experiment.Protocol` K clients behind one sum are a
    `batch.size` that is K times larger.

    Args:
        observations: at least one answer to the same model, of the same image shape, mode and parameters.

    Returns:
        One observation. Labels are known where all clients leak theirs. Local training and batch statistics are those
        of single clients, which no simulation of one client with all images repeats, so they are not in it.

    Raises:
        ValueError: no observation, or some that do not fit together.

    >>> import torch, gia
    >>> def answer(gradient, *labels):
    ...     given = {"batch_size": len(labels), "labels": torch.tensor(labels)}
    ...     return gia.Observation({"w": torch.tensor([gradient])}, image_shape=(1, 2, 2), **given)
    >>> seen = gia.defenses.secure_aggregation([answer(1.0, 3), answer(4.0, 0, 5)])
    >>> seen.gradients["w"], seen.batch_size, seen.labels
    (tensor([3.]), 3, tensor([0, 3, 5]))
    """
    if not observations:
        raise ValueError("observations: expected at least one, got none")
    first = observations[0]
    for name in ("image_shape", "training", "trainable"):
        if len(different := {getattr(each, name) for each in observations}) > 1:
            raise ValueError(f"observations: expected the same {name}, got {sorted(map(str, different))}")
    shapes = [{name: g.shape for name, g in each.gradients.items()} for each in observations]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("observations: expected gradients of the same parameters, got other names or shapes")
    total = sum(each.batch_size for each in observations)
    gradients = {
        name: torch.stack([each.gradients[name] * (each.batch_size / total) for each in observations]).sum(0)
        for name in first.gradients
    }
    labels = [each.labels for each in observations]
    known = [each for each in labels if each is not None]
    return replace(
        first,
        gradients=gradients,
        batch_size=total,
        labels=torch.cat(known) if len(known) == len(labels) else None,
        local=None,
        batch_norm=None,
    )
