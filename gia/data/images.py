"""A labelled set of images with its source and licence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Images", "first_of_each_class"]


@dataclass(frozen=True, eq=False)
class Images:
    """Images with labels, source and licence.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1], N > 0.
        labels: (N,) int64 in 0 .. num_classes - 1.
        source: what these images are, as results must name them, for example "CIFAR-10 test images 0-19".
        licence: terms of use.
        num_classes: number of classes of the data set, which may exceed the number of labels that occur.

    Raises:
        ValueError: a shape, dtype or range other than the above.

    >>> import torch, gia
    >>> images = gia.data.Images(
    ...     images=torch.zeros(2, 1, 4, 4), labels=torch.tensor([0, 1]), source="black", licence="CC0", num_classes=2
    ... )
    >>> images
    Images(source='black', count=2, shape=(1, 4, 4), num_classes=2)
    >>> len(images)
    2
    """

    images: Tensor
    labels: Tensor
    source: str
    licence: str
    num_classes: int

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.float32 or len(self.images) == 0:
            raise ValueError(
                "images: expected float32 of shape (N, C, H, W) with N > 0, "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        low, high = float(self.images.min()), float(self.images.max())
        if not (low >= 0.0 and high <= 1.0):  # also false for NaN
            raise ValueError(f"images: expected values in [0, 1], got [{low}, {high}]")
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels: expected int64 of shape ({len(self.images)},), "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        first, last = int(self.labels.min()), int(self.labels.max())
        if not 0 <= first <= last < self.num_classes:
            raise ValueError(f"labels: expected values in 0 .. {self.num_classes - 1}, got {first} .. {last}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        count, *shape = self.images.shape
        return f"Images(source={self.source!r}, count={count}, shape={tuple(shape)}, num_classes={self.num_classes})"

    def take(self, indices: Tensor) -> Images:
        """A copy of some of the images that shares no memory with this set.

        Args:
            indices: LongTensor (M,), M > 0, of positions in this set, in any order.

        >>> import torch, gia
        >>> gia.data.load("digits").take(torch.tensor([3, 1])).labels
        tensor([3, 1])
        """
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def first_of_each_class(labels: Sequence[int], count: int | None) -> list[int]:
    """Indices of the first images of each label, in their order.

    Args:
        labels: one label per image.
        count: largest number of images of each label; None selects all images.

    >>> from gia.data.images import first_of_each_class
    >>> first_of_each_class([7, 7, 3, 7, 3], 1)
    [0, 2]
    """
    seen: Counter[int] = Counter()
    chosen = []
    for index, label in enumerate(labels):
        seen[label] += 1
        if count is None or seen[label] <= count:
            chosen.append(index)
    return chosen
