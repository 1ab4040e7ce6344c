"""A labelled set of images, with where it comes from and on what terms."""

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
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64 in 0 .. num_classes - 1.
        source: what these images are, as results must name them, e.g. "CIFAR-10 test images 0-19".
        licence: terms of use.
        num_classes: number of classes of the data set, which may exceed the number of labels that occur.

    Raises:
        ValueError: a shape, dtype or range other than the above.
    """

    images: Tensor
    labels: Tensor
    source: str
    licence: str
    num_classes: int

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.float32 or len(self.images) == 0:
            raise ValueError(
                "images must be float32 of shape (N, C, H, W) with N > 0, "
                f"not {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        low, high = float(self.images.min()), float(self.images.max())
        if not (low >= 0.0 and high <= 1.0):  # also false for NaN
            raise ValueError(f"images must lie in [0, 1], not in [{low}, {high}]")
        if self.labels.shape != (len(self.images),) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), "
                f"not {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        first, last = int(self.labels.min()), int(self.labels.max())
        if not 0 <= first <= last < self.num_classes:
            raise ValueError(f"labels must lie in 0 .. {self.num_classes - 1}, not in {first} .. {last}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> Images:
        """The images at `indices`, LongTensor (M,), as a copy that shares no memory."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def first_of_each_class(labels: Sequence[int], count: int | None) -> list[int]:
    """Indices, in order, of the first `count` images of each label; of all images if `count` is None."""
    seen: Counter[int] = Counter()
    kept = []
    for index, label in enumerate(labels):
        seen[label] += 1
        if count is None or seen[label] <= count:
            kept.append(index)
    return kept
