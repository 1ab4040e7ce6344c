"""Registration of the candidates of one batch: which images show the same thing, and how far one is shifted.

Yin et al. (2021) register by RANSAC-flow, a trained network. Here the rule is one shift per image, by whole pixels.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def consensus(candidates: Tensor, labels: Tensor, *, radius: int) -> Tensor:
    """What each candidate's images should look like to the others: the mean of all, after registration.

    Images of equal label are first put in the order of the first candidate's, by the least sum of squared distances.
    Then each image is moved by the best shift (`shifts`) onto the plain mean, and averaged.

    Args:
        candidates: (R, S, B, C, H, W), S of each observation.
        labels: (R, B) int64.
        radius: pixels that a shift may have in each direction; 0 for none.

    Returns (R, S, B, C, H, W): for each image of each candidate its mean, in the frame of the plain mean. Along S these
    differ only in the order of images of equal label.
    """
    order = _order(candidates, labels)
    ordered = candidates if order is None else _take(candidates, order)
    mean = ordered.mean(1, keepdim=True).expand_as(ordered)
    if radius:
        flat = ordered.flatten(0, 2)
        moved = shift(flat, shifts(flat, mean.flatten(0, 2), radius=radius)).view_as(ordered)
        mean = moved.mean(1, keepdim=True).expand_as(ordered)
    return mean if order is None else _take(mean, order.argsort(-1))


def shifts(images: Tensor, reference: Tensor, *, radius: int) -> Tensor:
    """The shift (N, 2), down and right, of at most `radius` pixels that moves each image onto its reference.

    It leaves the least sum of squared differences over the pixels at least `radius` from the border, which every shift
    fills from inside the image. Raises ValueError where there are none.
    """
    height, width = images.shape[-2:]
    if 2 * radius >= min(height, width):
        raise ValueError(f"radius: expected less than half of {height} x {width} pixels, got {radius}")
    steps = range(-radius, radius + 1)
    inner = reference[..., radius : height - radius, radius : width - radius]
    far = [
        (images[..., radius - down : height - radius - down, radius - right : width - radius - right] - inner)
        .square()
        .sum((1, 2, 3))
        for down in steps
        for right in steps
    ]
    best = torch.stack(far, 1).argmin(1)
    return torch.stack([best // len(steps), best % len(steps)], 1) - radius


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Images (N, C, H, W) moved by (N, 2) pixels down and right; the border is repeated."""
    rows, columns = (
        (torch.arange(side, device=images.device) - offsets[:, axis, None]).clamp(0, side - 1)
        for axis, side in enumerate(images.shape[-2:])
    )
    return images.take_along_dim(rows[:, None, :, None], -2).take_along_dim(columns[:, None, None, :], -1)


def _order(candidates: Tensor, labels: Tensor) -> Tensor | None:
    """(R, S, B) int64: image `order[r, s, b]` of candidate s stands for image b of the first. None keeps all."""
    same = labels[:, :, None] == labels[:, None, :]  # labels on the CPU leave an accelerator running
    if candidates.shape[1] == 1 or not bool(same.triu(1).any()):
        return None
    flat = candidates.flatten(3)
    # (R, S, B, B) of the first candidate's images and each one's; images of another label are out of reach.
    far = torch.cdist(flat[:, :1].expand_as(flat), flat).square().cpu()
    far = far.masked_fill(~same[:, None].cpu(), float(far.max()) * labels.shape[1] + 1)
    found = [[linear_sum_assignment(costs.numpy())[1].tolist() for costs in trial] for trial in far]
    return torch.tensor(found, device=candidates.device)


def _take(candidates: Tensor, order: Tensor) -> Tensor:
    return candidates.take_along_dim(order[..., None, None, None], 2)
