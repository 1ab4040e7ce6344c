"""Checks of the images that metrics take, with errors that name the argument."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["image_batch", "image_pair", "reference_batch", "same_kind"]

_DTYPES = (torch.float32, torch.float64)


def image_batch(images: Tensor, name: str, *, smallest: int = 1) -> Tensor:
    """`images` without its graph, if it is a finite float batch (B,C,H,W) with H and W of at least `smallest`."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a Tensor (B,C,H,W), got {type(images).__name__}")
    if images.dtype not in _DTYPES:
        raise TypeError(f"{name}: expected float32 or float64 with values in [0,1], got {images.dtype}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{name}: expected shape (B,C,H,W) with C, H, W > 0, got {tuple(images.shape)}")
    if min(images.shape[2:]) < smallest:
        size = tuple(images.shape[2:])
        raise ValueError(f"{name}: expected at least {smallest} pixels in height and width, got {size}")
    finite = images.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"{name}: expected finite values, got NaN or infinity in the images at {bad}")
    return images.detach()


def reference_batch(images: Tensor, name: str, *, smallest: int = 1) -> Tensor:
    """As `image_batch`, but with at least one image and all values in [0,1]."""
    images = image_batch(images, name, smallest=smallest)
    if len(images) == 0:
        raise ValueError(f"{name}: expected at least one image, got shape {tuple(images.shape)}")
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise ValueError(f"{name}: expected values in [0,1], got [{float(low):.6g}, {float(high):.6g}]")
    return images


def image_pair(
    images: Tensor, reference: Tensor, *, name: str = "reconstruction", smallest: int = 1
) -> tuple[Tensor, Tensor]:
    """Two aligned batches of one shape, dtype and device; only `reference` must lie in [0,1]."""
    reference = reference_batch(reference, "reference", smallest=smallest)
    images = image_batch(images, name, smallest=smallest)
    if images.shape != reference.shape:
        raise ValueError(
            f"{name}: expected the shape of reference, {tuple(reference.shape)}, got {tuple(images.shape)}"
        )
    same_kind(images, reference, name)
    return images, reference


def same_kind(images: Tensor, reference: Tensor, name: str) -> None:
    """Refuse two batches that differ in dtype or device."""
    if images.dtype != reference.dtype:
        raise TypeError(f"{name}: expected the dtype of reference, {reference.dtype}, got {images.dtype}")
    if images.device != reference.device:
        raise ValueError(f"{name}: expected the device of reference, {reference.device}, got {images.device}")
