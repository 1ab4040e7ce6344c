"""Checks that every metric makes of its images, with errors that name the argument."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["image_batch", "image_pair", "reference_batch", "same_kind"]

_DTYPES = (torch.float32, torch.float64)


def image_batch(images: Tensor, name: str, *, smallest: int = 1) -> Tensor:
    """`images` without its graph, if it is a finite float batch (B,C,H,W) with sides of at least `smallest` pixels."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a Tensor (B,C,H,W), not {type(images).__name__}")
    if images.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float32 or float64 with values in [0,1], not {images.dtype}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{name} must have shape (B,C,H,W) with C, H, W > 0, not {tuple(images.shape)}")
    if min(images.shape[2:]) < smallest:
        raise ValueError(f"{name} must be at least {smallest} pixels high and wide, not {tuple(images.shape[2:])}")
    finite = images.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"{name} must be finite; NaN or infinity in the images at {bad}")
    return images.detach()


def reference_batch(images: Tensor, name: str, *, smallest: int = 1) -> Tensor:
    """As `image_batch`, for images that must be there and lie in [0,1]."""
    images = image_batch(images, name, smallest=smallest)
    if len(images) == 0:
        raise ValueError(f"{name} must hold at least one image, not shape {tuple(images.shape)}")
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise ValueError(f"{name} must lie in [0,1], not [{float(low):.6g}, {float(high):.6g}]")
    return images


def image_pair(
    images: Tensor, reference: Tensor, *, name: str = "reconstruction", smallest: int = 1
) -> tuple[Tensor, Tensor]:
    """Two aligned batches of one shape, dtype and device; only `reference` must lie in [0,1]."""
    reference = reference_batch(reference, "reference", smallest=smallest)
    images = image_batch(images, name, smallest=smallest)
    if images.shape != reference.shape:
        raise ValueError(
            f"{name} must have the shape of reference, {tuple(reference.shape)}, not {tuple(images.shape)}"
        )
    same_kind(images, reference, name)
    return images, reference


def same_kind(images: Tensor, reference: Tensor, name: str) -> None:
    """Refuse two batches that differ in dtype or device."""
    if images.dtype != reference.dtype:
        raise TypeError(f"{name} must have the dtype of reference, {reference.dtype}, not {images.dtype}")
    if images.device != reference.device:
        raise ValueError(f"{name} must be on the device of reference, {reference.device}, not {images.device}")
