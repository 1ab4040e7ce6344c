"""The plot of a timing run: what the attack core costs along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def costs(path: Path, points: Sequence[Mapping[str, Any]], *, unit: str) -> None:
    """Write a PNG of costs: a panel for each axis that the points name, with medians and intervals.

    Args:
        path: file to write.
        points: each has axis, at (a number), median, low and high, as in `gia.harness.timing.goals.Timings.points`.
        unit: the unit of the costs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     costs(Path(folder, "a.png"), [{"axis": "B", "at": 4, "median": 1.0, "low": 0.9, "high": 1.1}], unit="s")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point["axis"] for point in points))
    figure = Figure(figsize=(4 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for panel, name in zip(panels, names, strict=True):
        along = sorted((point for point in points if point["axis"] == name), key=lambda point: point["at"])
        places, medians = [point["at"] for point in along], [point["median"] for point in along]
        reach = [
            [point["median"] - point["low"] for point in along],
            [point["high"] - point["median"] for point in along],
        ]
        panel.errorbar(places, medians, yerr=reach, marker="o", capsize=3)
        panel.set_xscale("log", base=2)
        panel.set_xticks(places, [str(place) for place in places])
        panel.set(xlabel=name)
        panel.grid(axis="y", color="0.9")
    panels[0].set(ylabel=unit, ylim=(0, 1.05 * max(point["high"] for point in points)))
    figure.savefig(path, dpi=110)
