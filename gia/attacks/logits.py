"""The logits that a victim gives for images, with errors that name the cause."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gia.federated.outputs import check_logits, output_of


@torch.no_grad()
def logits_of(victim: nn.Module, images: Tensor, *, labelled: bool = True) -> Tensor:
    """Logits (N, K) for images (N, C, H, W). Raises ValueError if the victim fails or returns another shape.

    With `labelled` false any outputs (N, ...) are accepted: they are compared with targets and are no logits.
    """
    try:
        logits = output_of(victim(images), len(images))
    except (RuntimeError, AssertionError) as error:  # timm asserts the size of an image
        raise ValueError(
            f"image_shape: expected one that the model takes, got {tuple(images.shape[1:])}: {error}"
        ) from error
    if labelled:
        check_logits(logits)
    return logits
