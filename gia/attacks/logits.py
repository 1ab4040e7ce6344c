"""The logits that a victim gives for images, with errors that name the cause."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def logits_of(victim: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) for images (N, C, H, W). Raises ValueError if the victim fails or returns another shape."""
    try:
        logits: Tensor = victim(images)
    except RuntimeError as error:
        raise ValueError(
            f"image_shape: expected one that the model takes, got {tuple(images.shape[1:])}: {error}"
        ) from error
    if logits.dim() != 2:
        raise ValueError(f"model: expected logits (N, classes), got {tuple(logits.shape)}")
    return logits
