"""Proposition 1: how similar the gradients of single samples are, and how many lie within epsilon of one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gia.federated import Observation, share_gradient


def sample_gradients(model: nn.Module, images: Tensor, labels: Tensor, *, training: bool = False) -> Tensor:
    """The gradient of each sample of a batch. With `training=False` the gradient of the batch is the mean of the rows.

    Args:
        model, images, labels, training: as in `gia.share_gradient`, with N images.

    Returns:
        Tensor (N, P): row n is the gradient that a client with sample n alone would share, over all P parameters in
        the order of the model.

    Raises:
        ValueError, TypeError: as `gia.share_gradient`.

    >>> import torch, gia
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> digits = gia.data.load("digits").take(torch.tensor([0, 1, 2]))
    >>> rows = gia.theory.sample_gradients(model, digits.images, digits.labels)
    >>> rows.shape
    torch.Size([3, 650])
    """
    single = zip(torch.split(images, 1), torch.split(labels, 1), strict=True)
    return as_rows([share_gradient(model, image, label, training=training) for image, label in single])


def as_rows(observations: Sequence[Observation]) -> Tensor:
    """The gradient of each observation as one vector.

    Args:
        observations: N observations of one model.

    Returns:
        Tensor (N, P), in the order of the parameters.

    >>> import torch, gia
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> digits = gia.data.load("digits").take(torch.tensor([0, 1]))
    >>> observation = gia.share_gradient(model, digits.images, digits.labels)
    >>> gia.theory.as_rows([observation, observation]).shape
    torch.Size([2, 650])
    """
    return torch.stack([torch.cat([g.flatten() for g in shared.gradients.values()]) for shared in observations])


def cosines(gradients: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosines between gradients.

    Args:
        gradients: (N, P).
        others: (M, P); None is `gradients` itself.

    Returns:
        Tensor (N, M), in [-1, 1]; 0 for a row of zeros.

    >>> import torch, gia
    >>> gia.theory.cosines(torch.tensor([[1.0, 0.0], [3.0, 3.0], [0.0, -2.0]]))
    tensor([[ 1.0000,  0.7071,  0.0000],
            [ 0.7071,  1.0000, -0.7071],
            [ 0.0000, -0.7071,  1.0000]])
    """
    rows = normalize(gradients, dim=1)
    return rows @ (rows if others is None else normalize(others, dim=1)).T


def neighbours(gradients: Tensor, pool: Tensor, *, epsilon: float) -> Tensor:
    """For each gradient the number of gradients in a pool that lie within epsilon in the 2-norm.

    This is the size of the neighbourhood in Proposition 1 (arXiv 2503.11514, Sec. III). It depends on the length of the
    gradients: for an attack that matches cosines, pass normalized rows.

    Args:
        gradients: (N, P).
        pool: (M, P).
        epsilon: largest distance, >= 0.

    Returns:
        LongTensor (N,).

    Raises:
        ValueError: other shapes, or a negative `epsilon`.

    >>> import torch, gia
    >>> pool = torch.tensor([[0.0], [1.0], [1.0], [3.0]])
    >>> gia.theory.neighbours(pool[[0, 3]], pool, epsilon=1.0)
    tensor([3, 1])
    """
    if gradients.dim() != 2 or pool.dim() != 2 or gradients.shape[1] != pool.shape[1]:
        shapes = f"{tuple(gradients.shape)} and {tuple(pool.shape)}"
        raise ValueError(f"gradients, pool: expected shapes (N, P) and (M, P), got {shapes}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon: expected at least 0, got {epsilon!r}")
    distances = torch.cdist(gradients, pool, compute_mode="donot_use_mm_for_euclid_dist")
    return (distances <= epsilon).sum(1)
