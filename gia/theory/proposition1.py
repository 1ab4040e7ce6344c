"""Proposition 1: how alike the gradients of single samples are, and how many lie within epsilon of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gia.federated import Observation, share_gradient


def sample_gradients(model: nn.Module, images: Tensor, labels: Tensor, *, training: bool = False) -> Tensor:
    """(N, P): row n is what a client would share that holds sample n alone, with all P parameters in their order.

    `images`, `labels`, `training` and errors are those of `gia.share_gradient`. With `training=False` the gradient of a
    batch is the mean of its rows.
    """
    single = zip(torch.split(images, 1), torch.split(labels, 1), strict=True)
    return as_rows([share_gradient(model, image, label, training=training) for image, label in single])


def as_rows(observations: Sequence[Observation]) -> Tensor:
    """(N, P): the gradients that each of N observations shares as one vector, in the order of the parameters."""
    return torch.stack([torch.cat([g.flatten() for g in shared.gradients.values()]) for shared in observations])


def cosines(gradients: Tensor, others: Tensor | None = None) -> Tensor:
    """(N, M) cosines between the rows of (N, P) and those of (M, P), by default of itself; 0 for a zero row."""
    rows = normalize(gradients, dim=1)
    return rows @ (rows if others is None else normalize(others, dim=1)).T


def neighbours(gradients: Tensor, pool: Tensor, *, epsilon: float) -> Tensor:
    """For each row of (N, P) how many rows of the pool (M, P) lie within `epsilon` in the 2-norm, LongTensor (N,).

    This is the size of Proposition 1's neighbourhood (arXiv 2503.11514, Sec. III). It depends on the gradients' length:
    an attack that matches cosines sees that of normalized rows.

    Raises ValueError for other shapes or a negative `epsilon`.
    """
    if gradients.dim() != 2 or pool.dim() != 2 or gradients.shape[1] != pool.shape[1]:
        shapes = f"{tuple(gradients.shape)} and {tuple(pool.shape)}"
        raise ValueError(f"gradients and pool must have the shapes (N, P) and (M, P), but have {shapes}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, but is {epsilon!r}")
    distances = torch.cdist(gradients, pool, compute_mode="donot_use_mm_for_euclid_dist")
    return (distances <= epsilon).sum(1)
