"""Drawing private batches by their label pattern: all labels different, some equal, or all equal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from gia.data.images import Images
from gia.errors import expected_one_of

__all__ = ["Pattern", "sample"]

Pattern = Literal["any", "distinct", "equal"] | int
"""A label pattern of a batch; see `sample`."""

_T = TypeVar("_T")
_TRIES = 50


def sample(
    images: Images,
    count: int,
    *,
    pattern: Pattern = "any",
    batch_size: int | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Draw different images such that each batch of them has a label pattern. The order within a batch is random.

    Args:
        images: the set to draw from.
        count: number of images, a positive multiple of `batch_size`.
        pattern: "any" (no condition), "distinct" (no label twice in a batch), "equal" (one label per batch) or an int k
            in 1 .. batch_size: exactly k images have one label, and the others have different labels (k = 1 is
            "distinct", k = batch_size is "equal").
        batch_size: number of consecutive images that form a batch; None is `count`.
        generator: source of the random draws, on the CPU.

    Returns:
        Indices into `images`, LongTensor (count,), on the CPU.

    Raises:
        ValueError: an argument out of range, or a pattern that the images do not allow. For 1 < k < batch_size the draw
            is repeated up to 50 times, so a set that only just allows the pattern may be refused.

    >>> import torch, gia
    >>> digits = gia.data.load("digits")
    >>> indices = gia.data.sample(digits, 4, pattern=3, generator=torch.Generator().manual_seed(0))
    >>> digits.labels[indices]
    tensor([4, 0, 0, 0])
    """
    batch_size = count if batch_size is None else batch_size
    if count < 1 or batch_size < 1 or count % batch_size:
        raise ValueError(f"count: expected a positive multiple of batch_size = {batch_size}, got {count}")
    if isinstance(pattern, str) and pattern not in ("any", "distinct", "equal"):
        raise ValueError(expected_one_of("pattern", pattern, ("any", "distinct", "equal")))
    if isinstance(pattern, bool) or not isinstance(pattern, str | int):
        raise ValueError(f"pattern: expected 'any', 'distinct', 'equal' or an int, got {pattern!r}")
    if isinstance(pattern, int) and not 1 <= pattern <= batch_size:
        raise ValueError(f"pattern: expected 1 .. batch_size = {batch_size}, got {pattern}")
    order = _shuffled(range(len(images)), generator)
    if pattern == "any" and count <= len(order):
        return torch.tensor(order[:count])

    pools: dict[int, list[int]] = defaultdict(list)
    labels = images.labels.tolist()
    for index in order:
        pools[labels[index]].append(index)
    batches: list[list[int]] | None = None
    if pattern in ("distinct", 1):
        batches = _distinct(pools, order, labels, count // batch_size, batch_size)
    elif pattern in ("equal", batch_size):
        batches = _equal(pools, count // batch_size, batch_size, generator)
    elif isinstance(pattern, int):
        for attempt in range(_TRIES):
            fullest = attempt >= _TRIES // 2
            batches = _partly_equal(pools, count // batch_size, batch_size, pattern, fullest, generator)
            if batches is not None:
                break
    if batches is None:
        wanted = f"enough images for {pattern!r} in {count // batch_size} batches of {batch_size}"
        raise ValueError(f"images: expected {wanted}, got {_inventory(images)}")
    return torch.tensor([index for batch in batches for index in _shuffled(batch, generator)])


def _distinct(
    pools: dict[int, list[int]], order: list[int], labels: list[int], batches: int, batch_size: int
) -> list[list[int]] | None:
    # A batch takes a label at most once, so a label gives at most `batches` images. Sorted by label and dealt out in
    # turn, they fall into different batches.
    usable = {index for pool in pools.values() for index in pool[:batches]}
    chosen = [index for index in order if index in usable][: batches * batch_size]
    if len(chosen) < batches * batch_size:
        return None
    rank = {label: i for i, label in enumerate(dict.fromkeys(labels[index] for index in chosen))}
    chosen.sort(key=lambda index: rank[labels[index]])
    return [chosen[i::batches] for i in range(batches)]


def _equal(
    pools: dict[int, list[int]], batches: int, batch_size: int, generator: torch.Generator
) -> list[list[int]] | None:
    chunks = [pool[i : i + batch_size] for pool in pools.values() for i in range(0, len(pool), batch_size)]
    full = [chunk for chunk in chunks if len(chunk) == batch_size]
    return _shuffled(full, generator)[:batches] if len(full) >= batches else None


def _partly_equal(
    pools: dict[int, list[int]], batches: int, batch_size: int, equal: int, fullest: bool, generator: torch.Generator
) -> list[list[int]] | None:
    unused = {label: list(pool) for label, pool in pools.items()}
    groups = _equal(unused, batches, equal, generator)
    if groups is None:
        return None
    label_of = {index: label for label, pool in pools.items() for index in pool}
    for group in groups:
        unused[label_of[group[0]]] = [index for index in unused[label_of[group[0]]] if index not in group]
    drawn: list[list[int]] = []
    for group in groups:
        others = [label for label in unused if unused[label] and label != label_of[group[0]]]
        others = _shuffled(others, generator)
        if fullest:  # the labels with most images first, so that a set with few images lasts longer
            others.sort(key=lambda label: -len(unused[label]))
        if len(others) < batch_size - equal:
            return None
        drawn.append(group + [unused[label].pop() for label in others[: batch_size - equal]])
    return drawn


def _shuffled(items: Sequence[_T], generator: torch.Generator) -> list[_T]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def _inventory(images: Images) -> str:
    counts = Counter(Counter(images.labels.tolist()).values())
    labels = ", ".join(f"{n} labels with {count}" for count, n in sorted(counts.items(), reverse=True))
    return f"{len(images)} of {images.source}: {labels} each"
