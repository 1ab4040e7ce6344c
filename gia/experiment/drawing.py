"""The pictures of one row: the metric over the levels, the images of one block, and the effects over settings."""

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
    metric: str,
    title: str,
    details: Sequence[Mapping[str, Any]] = (),
    arrays: Mapping[str, np.ndarray],
    reported: Mapping[str, float] | None = None,
    reported_as: str = "the paper",
) -> list[Path]:
    """Write `<id>-levels.png`, and `<id>.png` where a block has images.

    Args:
        folder: where the files go.
        id: of the claim.
        values: (blocks, levels), what decides.
        levels: a name for each column.
        metric: the name of what decides, `title` of the picture.
        details: of all levels of all blocks; the median of their placebos is drawn as a line.
        arrays: "LEVEL/originals" and "LEVEL/reconstructions" of one block, uint8 (n, C, H, W).
        reported: level -> the paper's number, and `reported_as` what it is.

    Returns the files that were written.
    """
    paths = [folder / f"{id}-levels.png"]
    placebo = [detail["placebo"][metric] for detail in details if metric in detail.get("placebo", {})]
    pictures.curves(
        paths[0],
        values,
        levels=levels,
        metric=metric,
        title=title,
        blind=float(np.median(placebo)) if placebo else None,
        reported=reported,
        reported_as=reported_as,
    )
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


def draw_reach(
    folder: Path, id: str, draws: Sequence[Mapping[str, Any]], *, margin: float | None, unit: str
) -> list[Path]:
    """Write `<id>-reach.png`, the specification curve of a row, where any drawn setting has an effect.

    Args:
        folder: where the file goes.
        id: of the claim.
        draws: each with its "setting", its "label" and its "effect", which is None where the control failed.
        margin: of the claim, in `unit`.

    Returns the file that was written.
    """
    if all(draw["effect"] is None for draw in draws):
        return []
    path = folder / f"{id}-reach.png"
    pictures.specification(
        path,
        [draw["effect"] for draw in draws],
        [draw["setting"] for draw in draws],
        labels=[draw["label"] for draw in draws],
        margin=margin or 0.0,
        title=f"Reach of {id}: {len(draws)} drawn settings",
        ylabel=f"effect in {unit}",
    )
    return [path]
