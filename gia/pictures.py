"""Pictures of an experiment as PNG files: rows of images, a metric over levels, ROC curves, effects by setting.

`grid` needs Pillow alone. The others draw with matplotlib, which the extra `harness` installs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gia.errors import not_installed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["curves", "grid", "roc", "scatter", "specification"]

_GAP = 4
_MARGIN = 110  # for the labels; wider if a label needs it


def grid(path: str | Path, rows: Mapping[str, np.ndarray | Tensor], *, side: int = 64) -> None:
    """Write a PNG with one labelled row of images per entry.

    Small images are enlarged by a whole factor.

    Args:
        path: the file to write.
        rows: label -> images (n, C, H, W) with n at least 1 and C 1 or 3, as arrays or tensors on any device: uint8, or
            floats in [0, 1], which are clamped to that range. Rows may differ in number and size of images.
        side: about how many pixels the longer side of an enlarged image has.

    Raises:
        ValueError: no row, or a row of another shape or dtype or with values that are not finite.

    >>> import tempfile, torch, gia
    >>> from pathlib import Path
    >>> data = gia.data.load("digits")
    >>> noisy = data.images[:4] + 0.1 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gia.pictures.grid(Path(folder) / "digits.png", {"private": data.images[:4], "found": noisy})
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['digits.png']
    """
    if not rows:
        raise ValueError("rows: expected at least one, got none")
    strips = {label: [_enlarged(image, side) for image in _as_bytes(label, images)] for label, images in rows.items()}
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


def _as_bytes(label: str, images: Any) -> np.ndarray:
    """The images of one row as uint8 (n, C, H, W)."""
    if hasattr(images, "detach"):  # a tensor; numpy has no bfloat16
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    values: np.ndarray = np.asarray(images)
    floats = np.issubdtype(values.dtype, np.floating)
    if not (floats or values.dtype == np.uint8) or values.ndim != 4 or not len(values) or values.shape[1] not in (1, 3):
        raise ValueError(
            f"rows[{label!r}]: expected images (n, 1 or 3, H, W), uint8 or floats in [0, 1], "
            f"got {values.dtype} {values.shape}"
        )
    if floats and not np.isfinite(values).all():
        raise ValueError(f"rows[{label!r}]: expected finite values, got NaN or infinity")
    return (values.clip(0, 1) * 255).round().astype(np.uint8) if floats else values


def _enlarged(image: np.ndarray, side: int) -> Image.Image:
    factor = max(1, round(side / max(image.shape[1:])))
    colour = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(colour.repeat(factor, 0).repeat(factor, 1)))


def curves(
    path: str | Path,
    values: np.ndarray,
    *,
    levels: Sequence[str],
    metric: str,
    title: str,
    blind: float | None = None,
    reported: Mapping[str, float] | None = None,
    reported_as: str = "the paper",
) -> None:
    """Write a PNG of a metric over the levels: a thin line per block and a thick one through their medians.

    Args:
        path: the file to write.
        values: (blocks, levels), in the unit of `metric`.
        levels: the labels of the horizontal axis.
        metric: the label of the vertical axis.
        title: the heading of the picture.
        blind: the score of the best placebo in the same metric, drawn as a dashed line.
        reported: level -> a published number. It is drawn in a panel to the right, since its metric is another one.
            Levels without a number are skipped.
        reported_as: the heading of that panel, which names the metric.

    Raises:
        ValueError: `values` has another shape.
        ModuleNotFoundError: matplotlib is not installed.

    >>> import tempfile, numpy as np, gia
    >>> from pathlib import Path
    >>> psnr = np.array([[24.1, 21.3, 19.0], [22.8, 20.9, 18.7]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "psnr.png"
    ...     gia.pictures.curves(path, psnr, levels=["1", "2", "4"], metric="PSNR (dB)", title="batch size", blind=13.1)
    ...     path.exists()
    True
    """
    if values.ndim != 2 or values.shape[1] != len(levels):
        raise ValueError(f"values: expected shape (blocks, {len(levels)}), got {values.shape}")
    places = np.arange(len(levels))
    points = [(place, reported[level]) for place, level in enumerate(levels) if reported and level in reported]
    figure = _figure(9 if points else 5, 3.6)
    axes = figure.subplots(1, 2 if points else 1, squeeze=False)[0]
    axes[0].plot(places, values.T, color="0.75", linewidth=1)
    axes[0].plot(places, np.median(values, axis=0), color="C0", marker="o", linewidth=2, label="median of blocks")
    if blind is not None:
        axes[0].axhline(blind, color="C3", linestyle="--", linewidth=1, label="best placebo")
    axes[0].legend(frameon=False)
    axes[0].set(title=title, ylabel=metric)
    if points:
        axes[1].plot(*zip(*points, strict=True), color="C1", marker="s")
        axes[1].set(title=reported_as)
    for axis in axes:
        axis.set_xticks(places, levels)
    figure.savefig(path, dpi=110)


def roc(path: str | Path, kinds: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float]]]) -> None:
    """Write a PNG of ROC curves of detectors of malicious models: one panel per kind of model, one curve per statistic.

    A detector calls a model malicious if its statistic is above a limit. A dot marks the limit on the curve, and the
    legend gives the shares of malicious and of honest models above it.

    Args:
        path: the file to write.
        kinds: title of a panel -> name of a statistic -> (its values on honest models, its values on malicious models,
            its limit).

    Raises:
        ValueError: no panel.
        ModuleNotFoundError: matplotlib is not installed.

    >>> import tempfile, gia
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "roc.png"
    ...     gia.pictures.roc(path, {"imprint blocks": {"largest weight": ([0.1, 0.4, 0.2], [0.3, 0.9], 0.35)}})
    ...     path.exists()
    True
    """
    if not kinds:
        raise ValueError("kinds: expected at least one, got none")
    figure = _figure(4.5 * len(kinds), 4.2)
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


def scatter(
    path: str | Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, x: str, y: str
) -> None:
    """Write a PNG of two numbers against each other: a panel per title, and a colour and a marker per name.

    Args:
        path: the file to write.
        panels: title of a panel -> name -> its points (x, y), small; their medians are drawn large. A name without
            points is left out.
        x, y: the labels of the axes.

    Raises:
        ValueError: no panel.
        ModuleNotFoundError: matplotlib is not installed.

    >>> import tempfile, gia
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cost.png"
    ...     panels = {"digits": {"noise": [(1.0, 0.7), (2.0, 0.8)], "none": [(9.0, 0.9)]}}
    ...     gia.pictures.scatter(path, panels, x="leak in dB", y="accuracy")
    ...     path.exists()
    True
    """
    if not panels:
        raise ValueError("panels: expected at least one, got none")
    figure = _figure(4.8 * len(panels), 4.4)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(name for found in panels.values() for name in found))
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            if points := np.asarray(found.get(name, ()), dtype=float).reshape(-1, 2).tolist():
                style = {"color": f"C{place % 10}", "marker": "os^Dv<>Ph*"[place % 10], "linestyle": ""}
                axis.plot(*zip(*points, strict=True), **style, alpha=0.35, markersize=4)
                axis.plot(*np.median(points, axis=0), **style, markersize=9, label=name)
        axis.set(title=title, xlabel=x)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=y)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=110)


#: What a setting can show of a claim: each has the same colour and marker in every picture.
_LABELS = ("holds", "no effect", "reversed", "dead", "void")


def specification(
    path: str | Path,
    effects: Sequence[float | None],
    settings: Sequence[Mapping[str, Any]],
    *,
    labels: Sequence[str],
    margin: float,
    title: str,
    ylabel: str,
) -> None:
    """Write a PNG of the specification curve of an effect: the effects in rising order, and below them their settings.

    Args:
        path: the file to write.
        effects: one per setting; None, where there is none, stands at the right-hand end, on the zero line.
        settings: factor -> value of each.
        labels: what each setting shows, such as "holds"; each label gets a colour and a marker.
        margin: dashed lines at plus and minus this effect.
        title: the heading of the picture, and `ylabel` the label of the effects.

    Raises:
        ValueError: no setting, or not as many settings and labels as effects.
        ModuleNotFoundError: matplotlib is not installed.

    >>> import tempfile, gia
    >>> from pathlib import Path
    >>> settings = [{"net": "lenet", "width": 8}, {"net": "resnet", "width": 8}, {"net": "lenet", "width": 16}]
    >>> labels = ["holds", "no effect", "holds"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "reach.png"
    ...     gia.pictures.specification(
    ...         path, [2.1, 0.2, 1.4], settings, labels=labels, margin=0.5, title="batch size", ylabel="dB"
    ...     )
    ...     path.exists()
    True
    """
    if not effects or not len(effects) == len(settings) == len(labels):
        raise ValueError(
            f"effects: expected as many as settings and labels, at least one, got {len(effects)}, {len(settings)} and "
            f"{len(labels)}"
        )
    order = sorted(range(len(effects)), key=lambda i: (effects[i] is None, effects[i] or 0.0))
    drawn = {(factor, str(value)): value for setting in settings for factor, value in setting.items()}
    values = sorted(drawn, key=lambda pair: (pair[0], _number_first(drawn[pair])))
    figure = _figure(7.5, 3.4 + 0.17 * len(values))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.8, max(0.17 * len(values), 0.2)])
    known = [*_LABELS, *sorted(set(labels) - set(_LABELS))]
    for label in sorted(set(labels), key=known.index):
        number = known.index(label)
        chosen = [(place, effects[i] or 0.0) for place, i in enumerate(order) if labels[i] == label]
        text = f"{label} ({len(chosen)} of {len(labels)})"
        above.plot(*zip(*chosen, strict=True), "osvX*D"[number % 6], color=f"C{number % 10}", label=text)
    above.axhline(0, color="0.6", linewidth=0.8)
    above.axhline(margin, color="0.6", linestyle="--", linewidth=1, label=f"margin: {margin:g} either way")
    above.axhline(-margin, color="0.6", linestyle="--", linewidth=1)
    above.set(title=title, ylabel=ylabel)
    above.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False)
    factors = sorted({factor for factor, _ in values})
    for row, (factor, value) in enumerate(values):
        if factors.index(factor) % 2 == 0:
            below.axhspan(row - 0.5, row + 0.5, color="0.94", linewidth=0)
        places = [place for place, i in enumerate(order) if str(settings[i].get(factor)) == value]
        below.plot(places, [row] * len(places), "|", color="0.1", markersize=7)
    below.set_yticks(range(len(values)), [f"{factor} = {value}" for factor, value in values], fontsize="small")
    below.set(xlabel="drawn settings, by effect; each mark is the value that a setting has")
    below.set_ylim(-0.5, len(values) - 0.5)
    below.invert_yaxis()
    figure.savefig(path, dpi=110)


def _number_first(value: Any) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, and behind them everything else by its text."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, without pyplot and its global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise not_installed("matplotlib", "all pictures of gia but grids of images", "matplotlib>=3.8") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
