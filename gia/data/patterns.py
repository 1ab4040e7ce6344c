"""Private batches drawn by label pattern: all different, some equal, all equal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from gia.data.images import Images

__all__ = ["Pattern", "sample"]

Pattern = Literal["any", "distinct", "equal"] | int

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
    """Indices of `count` different images; each consecutive `batch_size` of them (default: all) has the label pattern.

    `pattern` is "any" (no condition), "distinct" (no label twice in a batch), "equal" (one label per batch) or an int
    k >= 1: exactly k images of one label, the rest of other labels, no two alike (1 is "distinct", batch_size is
    "equal"). The order within a batch is random.

    Returns:
        LongTensor (count,), on the CPU.

    Raises:
        ValueError: the data cannot give the pattern, or `batch_size` does not divide `count`. For 1 < k < batch_size
            the draw is repeated up to 50 times: a set that barely holds the pattern may be refused.
    """
    batch_size = count if batch_size is None else batch_size
    if count < 1 or batch_size < 1 or count % batch_size:
        raise ValueError(f"count must be a positive multiple of batch_size, not {count} with batch_size {batch_size}")
    if isinstance(pattern, bool) or not (pattern in ("any", "distinct", "equal") or isinstance(pattern, int)):
        raise ValueError(f"pattern must be 'any', 'distinct', 'equal' or an int, not {pattern!r}")
    if isinstance(pattern, int) and not 1 <= pattern <= batch_size:
        raise ValueError(f"pattern must lie in 1 .. batch_size = {batch_size}, not {pattern}")
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
        raise ValueError(f"pattern {pattern!r} in {count // batch_size} batches of {batch_size}: {_holdings(images)}")
    return torch.tensor([index for batch in batches for index in _shuffled(batch, generator)])


def _distinct(
    pools: dict[int, list[int]], order: list[int], labels: list[int], batches: int, batch_size: int
) -> list[list[int]] | None:
    # A label serves each batch once. Dealt out label by label, its images (at most `batches`) fall in different ones.
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
    left = {label: list(pool) for label, pool in pools.items()}
    mains = _equal(left, batches, equal, generator)
    if mains is None:
        return None
    owner = {index: label for label, pool in pools.items() for index in pool}
    for main in mains:
        left[owner[main[0]]] = [index for index in left[owner[main[0]]] if index not in main]
    drawn: list[list[int]] = []
    for main in mains:
        others = [label for label in left if left[label] and label != owner[main[0]]]
        others = _shuffled(others, generator)
        if fullest:  # for a set that barely suffices: no label is left over at the end
            others.sort(key=lambda label: -len(left[label]))
        if len(others) < batch_size - equal:
            return None
        drawn.append(main + [left[label].pop() for label in others[: batch_size - equal]])
    return drawn


def _shuffled(items: Sequence[_T], generator: torch.Generator) -> list[_T]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def _holdings(images: Images) -> str:
    sizes = Counter(Counter(images.labels.tolist()).values())
    held = ", ".join(f"{n} labels with {size}" for size, n in sorted(sizes.items(), reverse=True))
    return f"{images.source} holds {len(images)} images: {held} each"
