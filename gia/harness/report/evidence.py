"""What a verdict was decided on, as plain JSON: values and controls of every block, and the images of one block."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from gia.harness.blocks.results import Arrays, BlockResult
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Verdict
from gia.harness.report.layout import Figure

#: Images of each level that are kept.
TILES = 4

Evidence = dict[str, Any]


def evidence(
    verdict: Verdict,
    tables: Sequence[Table],
    *,
    curve: Mapping[str, Any] | None = None,
    arrays: Arrays | None = None,
    figures: Sequence[Figure] = (),
) -> Evidence:
    """The numbers behind a verdict.

    Args:
        tables: the blocks, as the verdict was decided on them.
        curve: "levels" and "values" (blocks, levels) of what decides where that is no metric, and the paper's numbers:
            "reported" (level -> number) and "reported_as".
        arrays: "LEVEL/originals" and "LEVEL/reconstructions" of the first valid block of the first table, uint8
            (n, C, H, W).
        figures: further drawings of the row.

    Returns:
        "effects", one per valid block where the kind compares levels; "blocks", each with setting, controls and whether
        it is valid; "tables", each with every metric (valid blocks x levels) and that of the best placebo; "attacked",
        data set -> the distinct images; "tiles" of one block, as PNG in base64, with their PSNR; "figures".

    >>> verdict = Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 8, 0, 1, None, "", "", {"effects": [[2.0]]})
    >>> evidence(verdict, [])["effects"]
    [2.0]
    """
    found: Evidence = {"effects": _effects(verdict), "curve": dict(curve or {})}
    results = {id(result): result for table in tables for result in table.results}.values()
    found["blocks"] = [_block(result) for result in results]
    found["tables"] = [_numbers(table) for table in tables]
    found["attacked"] = _attacked(results)
    first = next((table.valid[0] for table in tables[:1] if table.valid), None)
    found["figures"] = [dict(each) for each in figures]
    found["tiles"] = [] if first is None or not arrays else _tiles(first, tables[0].levels, arrays)
    return found


def _effects(verdict: Verdict) -> list[float]:
    """The effects of the blocks, of the comparison that decides."""
    shown = verdict.detail.get("shown", 0)
    return [float(each[shown]) for each in verdict.detail.get("effects", [])]


def _attacked(results: Iterable[BlockResult]) -> dict[str, list[Any]]:
    """Data set -> the distinct images that were attacked, where the blocks name them."""
    found: dict[str, set[Any]] = {}
    for result in results:
        for details in result.details.values():
            if "attacked" in details:
                found.setdefault(details["attacked"]["data"], set()).update(details["attacked"]["images"])
    return {data: sorted(images) for data, images in found.items()}


def _block(result: BlockResult) -> dict[str, Any]:
    controls = [
        {"level": level, "passed": control.passed, "reason": control.reason}
        for level, control in result.controls.items()
    ]
    about = {"index": result.block.index, "experiment": result.block.claim, "setting": dict(result.block.setting)}
    return {**about, "valid": result.valid, "seconds": round(result.seconds, 2), "controls": controls}


def _numbers(table: Table) -> dict[str, Any]:
    def column(name: str, of: str) -> list[list[float | None]]:
        return [
            [
                (result.levels[label] if of == "levels" else result.details.get(label, {}).get(of, {})).get(name)
                for label in table.levels
            ]
            for result in table.valid
        ]

    def names(of: str) -> list[str]:
        every = (
            result.levels.get(label, {}) if of == "levels" else result.details.get(label, {}).get(of, {})
            for result in table.valid
            for label in table.levels
        )
        return list(dict.fromkeys(name for each in every for name in each))

    return {
        "experiment": table.experiment.id,
        "levels": table.levels,
        "metrics": {name: column(name, "levels") for name in names("levels")},
        "placebo": {name: column(name, "placebo") for name in names("placebo")},
    }


def _tiles(result: BlockResult, levels: Sequence[str], arrays: Arrays) -> list[dict[str, Any]]:
    """Per level the first originals, unless a level before has the same, and what came back for them."""
    found: list[dict[str, Any]] = []
    before: list[np.ndarray] = []
    for level in levels:
        originals, back = arrays.get(f"{level}/originals"), arrays.get(f"{level}/reconstructions")
        if originals is None or back is None:
            continue
        known = any(np.array_equal(originals, other) for other in before)
        before.append(originals)
        scores = result.details.get(level, {}).get("per_image", {}).get("psnr", [])
        found.append(
            {
                "level": level,
                "block": result.block.index,
                "originals": [] if known else [_png(image) for image in originals[:TILES]],
                "reconstructions": [_png(image) for image in back[:TILES]],
                "psnr": [None if score is None else round(float(score), 1) for score in scores[:TILES]],
            }
        )
    return found


def _png(image: np.ndarray) -> str:
    """One image (C, H, W) in its own size, since a page can enlarge it."""
    values = np.ascontiguousarray(image.transpose(1, 2, 0))
    picture, file = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values), io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
