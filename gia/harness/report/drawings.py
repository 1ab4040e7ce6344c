"""What the page shows of a row in pictures: charts, strips of images, and what its test drew."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gia.harness.report import charts
from gia.harness.report.material import file_of
from gia.harness.report.rows import Row


def row_charts(
    claim: Mapping[str, Any], now: Row | None, found: Mapping[str, Any], number: str
) -> list[dict[str, Any]]:
    """The drawings of a row, each with its heading, its text for those who cannot see it, and its macro.

    Args:
        number: this run's effect and its interval, as the page shows them.
    """
    if now is None or not found:
        return []
    drawn: list[dict[str, Any]] = []

    def add(macro: str, chart: charts.Chart | None, heading: str, alt: str, line: str = "") -> None:
        if chart is not None:
            drawn.append({"macro": macro, "chart": chart, "heading": heading, "alt": f"{heading}: {alt}", "line": line})

    kept = charts.strip(
        found["effects"],
        interval=now["interval"],
        effect=now["effect"],
        margin=claim["margin"],
        kind=claim["kind"],
    )
    add("strip", kept, f"Effect of each block, in {claim['unit']}", f"median and interval {number}, {now['outcome']}")
    curve, metric = found.get("curve", {}), claim["metric"]
    tables = found.get("tables", [])
    if curve.get("values"):
        names, values = curve["levels"], curve["values"]
        chart = charts.levels(names, values)
        add("levels", chart, f"{metric} at each level", _medians(chart))
    for place, table in enumerate(tables, start=1):
        several = f", {table['experiment']} {place}" if len(tables) > 1 else ""
        if not curve.get("values") and metric in table["metrics"]:
            chart = charts.levels(table["levels"], table["metrics"][metric])
            add("levels", chart, f"{metric} at each level{several}", _medians(chart))
        placebo = table["placebo"].get("psnr")
        if placebo and "psnr" in table["metrics"]:
            chart = charts.levels(table["levels"], table["metrics"]["psnr"], placebo=placebo)
            add(
                "levels",
                chart,
                f"PSNR in dB, and the best placebo's{several}",
                f"{_medians(chart)}; placebo {_placebo_medians(table)}",
                line="placebo",
            )
    if reported := curve.get("reported"):
        chart = charts.bars(reported)
        heading = curve.get("reported_as") or "the paper's numbers"
        add("levels", chart, heading[0].upper() + heading[1:], _medians(chart), line="paper")
    return drawn


def _medians(chart: charts.Chart | None) -> str:
    """What a curve shows, in words."""
    if chart is None:
        return ""
    texts = {each["x"]: each["text"] for each in chart["medians"]}
    return ", ".join(f"{place['text']}: {texts.get(place['x'], 'n/a')}" for place in chart["x"])


def _placebo_medians(table: Mapping[str, Any]) -> str:
    return _medians(charts.levels(table["levels"], table["placebo"]["psnr"]))


def tiles(levels: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Strips of images: originals, and below them what came back at each level, with dB."""
    strips: list[dict[str, Any]] = []
    for level in levels if most else ():
        if level["originals"]:
            again = f" at {level['level']}" if strips else ""
            images = [
                {"src": image, "alt": f"original {number}{again}, block {level['block']}", "caption": ""}
                for number, image in enumerate(level["originals"][:most], start=1)
            ]
            strips.append({"name": f"originals{again}", "images": images})
        scores = [*level["psnr"], *[None] * len(level["reconstructions"])]
        images = [
            {
                "src": image,
                "alt": f"reconstruction {number} at {level['level']}"
                + (f", {score:.1f} dB" if score is not None else ""),
                "caption": "" if score is None else f"{score:.1f} dB".replace("-", charts.MINUS),
            }
            for number, (image, score) in enumerate(zip(level["reconstructions"][:most], scores, strict=False), start=1)
        ]
        strips.append({"name": level["level"], "images": images})
    return strips


def pictures(row: Row, folder: Path, *, drawn: bool) -> list[dict[str, str]]:
    """What a test drew, except what the page draws by itself."""
    own = {f"{file_of(row['id'])}-levels.png", f"{file_of(row['id'])}.png"} if drawn and row.get("tables") else set()
    shown = []
    for name in row.get("pictures", []):
        path = folder / name
        if path.name in own or not path.is_file():
            continue
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        shown.append({"src": f"data:{kind};base64,{content}", "alt": f"{row['id']}: {row.get('measured', path.stem)}"})
    return shown


def marked(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each `gia.harness.report.layout.Figure` with where its marks lie."""
    return [{**each, "chart": charts.figure(each["series"], log=each["log"])} for each in figures]
