"""The pictures of one row: the metric over the levels, and the images of one block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gia import pictures


def draw(
    folder: Path,
    id: str,
    values: np.ndarray,
    *,
    levels: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    **labels: Any,
) -> list[Path]:
    """Write `<id>-levels.png`, and `<id>.png` where a block has images.

    Args:
        folder: where the files go.
        id: of the claim.
        values: (blocks, levels), what decides.
        levels: a name for each column.
        arrays: "LEVEL/originals" and "LEVEL/reconstructions" of one block, uint8 (n, C, H, W).
        labels: of `gia.pictures.curves`: metric, title, blind, reported, reported_as.

    Returns the files that were written.
    """
    paths = [folder / f"{id}-levels.png"]
    pictures.curves(paths[0], values, levels=levels, **labels)
    rows: dict[str, np.ndarray] = {}
    for label in (name.removesuffix("/originals") for name in arrays if name.endswith("/originals")):
        originals = arrays[f"{label}/originals"]
        if not any(np.array_equal(originals, shown) for shown in rows.values()):
            rows[f"private {label}" if rows else "private"] = originals
        rows[label] = arrays[f"{label}/reconstructions"]
    if rows:
        paths.append(folder / f"{id}.png")
        pictures.grid(paths[1], rows)
    return paths
