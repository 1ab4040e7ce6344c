"""What a client may hold and leak: checks of its images, of their labels, and of the fields that it reveals."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gia.errors import expected_one_of
from gia.federated.losses import Loss, takes_targets

__all__ = ["REVEALABLE", "check_batch", "check_reveal", "checked_batch"]

#: The optional fields of an observation that a client may leak.
REVEALABLE = ("labels", "local", "batch_norm")


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless these are images (N, C, H, W) in [0, 1] and one int64 label per image.

    >>> import torch
    >>> from gia.federated.private_batch import check_batch
    >>> check_batch(torch.ones(1, 3, 4, 4) * 255, torch.tensor([0]))
    Traceback (most recent call last):
    ValueError: images: expected values in [0, 1], got [255, 255]; normalize in the model
    """
    checked_batch(images, labels, cross_entropy)


def checked_batch(images: Any, labels: Any, loss: Loss) -> tuple[Tensor, Tensor]:
    """The batch as tensors, after a check of its shapes, dtypes and range; the loss decides what labels may be."""
    images, labels = _tensor("images", images), _tensor("labels", labels)
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected floats (N, C, H, W), got {tuple(images.shape)} of {images.dtype}")
    if len(images) == 0:
        raise ValueError("images: expected at least one image, got none")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.min()), float(images.max())
        raise ValueError(f"images: expected values in [0, 1], got [{low:.3g}, {high:.3g}]; normalize in the model")
    if labels.is_floating_point() and loss is not cross_entropy:
        if labels.shape[:1] != images.shape[:1] or not bool(labels.isfinite().all()):
            raise ValueError(f"labels: expected ({len(images)}, ...) finite targets, got {tuple(labels.shape)}")
    elif (
        labels.dtype != torch.int64
        or labels.shape[:1] != images.shape[:1]
        or (labels.dim() != 1 and not takes_targets(loss))
    ):
        raise ValueError(f"labels: expected ({len(images)},) of int64, got {tuple(labels.shape)} of {labels.dtype}")
    return images, labels


def check_reveal(reveal: Collection[str]) -> None:
    """Raise ValueError for a name that is not in `REVEALABLE`, and TypeError for a string in place of a collection."""
    if isinstance(reveal, str):
        raise TypeError(f"reveal: expected a collection of names such as ({reveal!r},), got a string")
    if unknown := [name for name in reveal if name not in REVEALABLE]:
        raise ValueError(expected_one_of("reveal", unknown[0], REVEALABLE))


def _tensor(argument: str, value: object) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: expected a tensor or a NumPy array, got {type(value).__name__}")
    return value
