"""Images as rows of patches, which convolutions embed patches, and smooth images where equations leave some open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from gia.attacks.matching import matching_terms
from gia.attacks.objectives import Cosine
from gia.federated import Observation
from gia.federated.losses import Loss

#: Steps of the conjugate gradients that fill in what the equations leave open.
_FILLING = 200

#: Cosine distance of gradients, in units of the dtype's eps, up to which an image explains the observed gradient.
_EXPLAINED = 100


def embeds_patches(module: nn.Module, inputs: Tensor, standardized: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether a layer with these inputs is a convolution of square patches, side by side, of the standardized images.

    >>> import torch
    >>> from torch import nn
    >>> from gia.attacks.analytics.patches import embeds_patches
    >>> images = torch.rand(1, 3, 8, 8)
    >>> [embeds_patches(nn.Conv2d(3, 5, 4, stride), images, images) for stride in (4, 2)]
    [True, False]
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == module.stride
        and module.kernel_size[0] == module.kernel_size[1]
        and same(inputs, standardized)
    )


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in shape, and in value up to rounding in float32."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def cut(image: Tensor, patch: int) -> Tensor:
    """(C, H, W) -> (n, C * patch * patch), from left to right and from top to bottom."""
    channels, height, width = image.shape
    parts = image.view(channels, height // patch, patch, width // patch, patch)
    return parts.permute(1, 3, 0, 2, 4).reshape(-1, channels * patch * patch)


def assembled(patches: Tensor, shape: tuple[int, int, int], patch: int) -> Tensor:
    """The inverse of `cut`: an image (C, H, W) of this shape."""
    channels, height, width = shape
    parts = patches.view(height // patch, width // patch, channels, patch, patch)
    return parts.permute(2, 0, 3, 1, 4).reshape(channels, height, width)


def roughness(image: Tensor) -> Tensor:
    """Half the gradient of the sum of squared differences of neighbouring pixels.

    >>> import torch
    >>> from gia.attacks.analytics.patches import roughness
    >>> roughness(torch.tensor([[[0.0, 1.0]]])).tolist()
    [[[-1.0, 1.0]]]
    """
    result = torch.zeros_like(image)
    for axis in (-1, -2):
        pairs = image.shape[axis] - 1
        differences = image.narrow(axis, 1, pairs) - image.narrow(axis, 0, pairs)
        result.narrow(axis, 1, pairs).add_(differences)
        result.narrow(axis, 0, pairs).sub_(differences)
    return result


def smoothed(
    image: Tensor,
    patch: int,
    smoothness: float,
    *,
    weighted: Callable[[Tensor], Tensor],
    divided: Callable[[Tensor], Tensor],
) -> Tensor:
    """The image (C, H, W) after the change that makes it smooth where equations allow it, by conjugate gradients.

    The change of the patches minimizes the sum of change * weighted(change), plus `smoothness` times the sum of squared
    differences of neighbouring pixels of the changed image.

    Args:
        image: (C, H, W), which fits the equations best.
        patch: side of a patch in pixels.
        smoothness: weight of the differences.
        weighted: patches (n, C * patch * patch) -> half the gradient of the equations' misfit, of the same shape.
        divided: the inverse of `weighted` plus 4 times `smoothness`, or near it.
    """
    shape = (image.shape[0], image.shape[1], image.shape[2])

    def curved(change: Tensor) -> Tensor:
        return assembled(weighted(cut(change, patch)), shape, patch) + smoothness * roughness(change)

    change = torch.zeros_like(image)
    residual = -smoothness * roughness(image)
    direction = improved = assembled(divided(cut(residual, patch)), shape, patch)
    product = (residual * improved).sum()
    for _ in range(_FILLING):
        along = curved(direction)
        curvature = (direction * along).sum()
        if not (float(product) > 0 and float(curvature) > 0):  # at rounding, or of numbers that are no longer finite
            break
        step = product / curvature
        change, residual = change + step * direction, residual - step * along
        improved = assembled(divided(cut(residual, patch)), shape, patch)
        product, before = (residual * improved).sum(), product
        direction = improved + product / before * direction
    return image + change


def explained(model: nn.Module, observation: Observation, images: Tensor, loss: Loss) -> tuple[Tensor, int]:
    """For each image whether it explains the gradient of a single one with a known label, and gradients computed.

    False where the batch is larger, the label is not known, or the client trained locally.
    """
    exact = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if observation.batch_size != 1 or observation.labels is None or observation.local is not None:
        return exact, 0
    (distance,) = matching_terms(Cosine())(model, observation, [images], None, objective=None, loss=loss)
    exact[0] = abs(distance) <= _EXPLAINED * torch.finfo(images.dtype).eps
    return exact, 1
