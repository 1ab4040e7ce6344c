"""Pictures of an experiment: originals beside reconstructions, and the metric over the levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_SIDE = 64  # an image is enlarged by a whole factor to about this many pixels
_MARGIN = 110  # for the labels, or more where one of them needs it


def grid(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    """Write a PNG with one labelled row of images per entry.

    Args:
        path: file to write.
        rows: label -> uint8 (n, C, H, W) with C 1 or 3; none of them chosen by how it looks. Rows may differ in size.

    Raises ValueError without a row, or for another shape or dtype.
    """
    if not rows:
        raise ValueError("rows: expected at least one, got none")
    strips = {label: [_enlarged(image) for image in _checked(label, images)] for label, images in rows.items()}
    margin = max(_MARGIN, *(8 + math.ceil(ImageFont.load_default().getlength(label)) for label in strips))
    width = margin + max(sum(image.width + _GAP for image in strip) for strip in strips.values())
    heights = [max(image.height for image in strip) + _GAP for strip in strips.values()]
    page = Image.new("RGB", (width, sum(heights)), "white")
    draw, top = ImageDraw.Draw(page), 0
    for (label, strip), height in zip(strips.items(), heights, strict=True):
        draw.text((4, top + height // 2 - 6), label, fill="black")
        left = margin
        for image in strip:
            page.paste(image, (left, top))
            left += image.width + _GAP
        top += height
    page.save(path)


def curves(
    path: Path,
    values: np.ndarray,
    *,
    levels: Sequence[str],
    metric: str,
    title: str,
    blind: float | None = None,
    reported: Mapping[str, float] | None = None,
    reported_as: str = "the paper",
) -> None:
    """Write a PNG of a metric over the levels: blocks thin, their median thick; the paper's points on other axes.

    Args:
        values: (blocks, levels).
        blind: the blind guess in the same metric, drawn as a dashed line.
        reported: level -> the paper's number, in the metric that `reported_as` names; other levels are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if values.ndim != 2 or values.shape[1] != len(levels):
        raise ValueError(f"values: expected (blocks, {len(levels)}), got {values.shape}")
    places = np.arange(len(levels))
    points = [(place, reported[level]) for place, level in enumerate(levels) if reported and level in reported]
    figure = Figure(figsize=(9 if points else 5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if points else 1, squeeze=False)[0]
    axes[0].plot(places, values.T, color="0.75", linewidth=1)
    axes[0].plot(places, np.median(values, axis=0), color="C0", marker="o", linewidth=2, label="median of blocks")
    if blind is not None:
        axes[0].axhline(blind, color="C3", linestyle="--", linewidth=1, label="blind guess")
    axes[0].legend(frameon=False)
    axes[0].set(title=title, ylabel=metric)
    if points:
        axes[1].plot(*zip(*points, strict=True), color="C1", marker="s")
        axes[1].set(title=reported_as)
    for axis in axes:
        axis.set_xticks(places, levels)
    figure.savefig(path, dpi=110)


def roc(path: Path, kinds: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float]]]) -> None:
    """Write a PNG of receiver operating characteristics: a panel for each kind of positives, a curve per statistic.

    Args:
        kinds: title -> statistic -> (its values on negatives, on positives, its limit); above it is called positive.
            The limit is a dot on the curve, and the legend gives the shares that are above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(kinds), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for panel, (title, statistics) in zip(panels, kinds.items(), strict=True):
        for name, (negatives, positives, limit) in statistics.items():
            no, yes = np.asarray(negatives), np.asarray(positives)
            cuts = np.concatenate([[np.inf], np.unique(np.concatenate([no, yes]))[::-1], [-np.inf]])
            shares = [[float((values > cut).mean()) for cut in cuts] for values in (no, yes)]
            at = [float((values > limit).mean()) for values in (no, yes)]
            (line,) = panel.plot(*shares, label=f"{name}: {at[1]:.0%} at {at[0]:.1%}")
            panel.plot(*at, marker="o", color=line.get_color())
        panel.set(title=title, xlabel="share of honest models above", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.legend(loc="lower right", fontsize="small")
    panels[0].set(ylabel="share of malicious models above")
    figure.savefig(path, dpi=110)


def _checked(label: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"rows[{label!r}]: expected uint8 (n, 1 or 3, H, W), got {images.dtype} {images.shape}")
    return images


def _enlarged(image: np.ndarray) -> Image.Image:
    factor = max(1, round(_SIDE / max(image.shape[1:])))
    colour = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(colour.repeat(factor, 0).repeat(factor, 1)))
