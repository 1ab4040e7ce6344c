"""Alignment of the candidates of one batch: which images show the same content, and how far each is shifted.

Yin et al. (2021) align by RANSAC-flow, a trained network. Here each image is shifted by whole pixels.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def consensus(candidates: Tensor, labels: Tensor, *, radius: int) -> Tensor:
    """The mean of all candidates after alignment, as a target for each of them.

    Images of equal label are first put in the order of the first candidate, by the least sum of squared distances.
    Then each image is moved by its best shift (`shifts`) onto the plain mean, and the mean is taken again.

    Args:
        candidates: (R, S, B, C, H, W), S candidates of each of R observations.
        labels: (R, B) int64.
        radius: largest shift in pixels in each direction; 0 for none.

    Returns the mean for each image of each candidate, (R, S, B, C, H, W), in the frame of the plain mean. Along S these
    differ only in the order of images of equal label.

    >>> import torch
    >>> candidates = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1, 1).expand(1, 2, 1, 1, 4, 4)
    >>> consensus(candidates, torch.tensor([[3]]), radius=0).unique().tolist()
    [0.5]
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
    """The shift of at most `radius` pixels that moves each image (N, C, H, W) onto its reference.

    The best shift has the least sum of squared differences over the pixels at least `radius` from the border, which
    every shift fills from inside the image.

    Returns (N, 2) int64, pixels down and right. Raises ValueError where no pixel is that far from the border.

    >>> import torch
    >>> image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> shifts(image, shift(image, torch.tensor([[1, -2]])), radius=2).tolist()
    [[1, -2]]
    """
    height, width = images.shape[-2:]
    if 2 * radius >= min(height, width):
        raise ValueError(f"radius: expected less than half of {height} x {width} pixels, got {radius}")
    steps = range(-radius, radius + 1)
    inner = reference[..., radius : height - radius, radius : width - radius]
    distances = [
        (images[..., radius - down : height - radius - down, radius - right : width - radius - right] - inner)
        .square()
        .sum((1, 2, 3))
        for down in steps
        for right in steps
    ]
    best = torch.stack(distances, 1).argmin(1)
    return torch.stack([best // len(steps), best % len(steps)], 1) - radius


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Images (N, C, H, W) moved by (N, 2) pixels down and right; the border is repeated.

    >>> import torch
    >>> shift(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[0, 1]])).tolist()
    [[[[1.0, 1.0, 2.0]]]]
    """
    rows, columns = (
        (torch.arange(length, device=images.device) - offsets[:, axis, None]).clamp(0, length - 1)
        for axis, length in enumerate(images.shape[-2:])
    )
    return images.take_along_dim(rows[:, None, :, None], -2).take_along_dim(columns[:, None, None, :], -1)


def _order(candidates: Tensor, labels: Tensor) -> Tensor | None:
    """(R, S, B) int64: image `order[r, s, b]` of candidate s matches image b of the first. None for no change."""
    same = labels[:, :, None] == labels[:, None, :]  # with labels on the CPU this does not wait for an accelerator
    if candidates.shape[1] == 1 or not bool(same.triu(1).any()):
        return None
    flat = candidates.flatten(3)
    # (R, S, B, B) between the first candidate's images and each candidate's. Other labels get a prohibitive distance.
    distances = torch.cdist(flat[:, :1].expand_as(flat), flat).square().cpu()
    distances = distances.masked_fill(~same[:, None].cpu(), float(distances.max()) * labels.shape[1] + 1)
    order = [[linear_sum_assignment(costs.numpy())[1].tolist() for costs in trial] for trial in distances]
    return torch.tensor(order, device=candidates.device)


def _take(candidates: Tensor, order: Tensor) -> Tensor:
    return candidates.take_along_dim(order[..., None, None, None], 2)
