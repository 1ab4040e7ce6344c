"""What a run keeps of a verdict: the numbers of every block, and the images of one."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.results import BlockResult, Control
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Verdict
from gia.harness.report.evidence import TILES, evidence
from tests.harness.planted import Level


def a_verdict(**detail: Any) -> Verdict:
    """Of a trend."""
    return Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 2, 1, 1, None, "", "", detail)


def a_table() -> Table:
    """Three blocks, of which the second is void, at two levels; blocks share an image."""
    results = [
        BlockResult(
            block=Block("op.size", index, {"width": 16}),
            levels={} if index == 1 else {"1": {"psnr": 20.0 + index}, "2": {"psnr": None}},
            controls={"1": Control(index != 1, f"seen {index}")},
            valid=index != 1,
            seconds=1.234,
            details={
                label: {
                    "placebo": {"psnr": 12.0},
                    "per_image": {"psnr": [20.04, None]},
                    "attacked": {"data": "digits", "images": [index, 7]},
                }
                for label in ("1", "2")
            },
        )
        for index in range(3)
    ]
    return Table(Experiment("op.size", {"1": Level(), "2": Level(size=2)}), results)


def test_every_block_and_every_metric_is_kept() -> None:
    """A reader could not recompute a verdict, or ask why a block is void."""
    found = evidence(a_verdict(), [a_table()])
    assert [(block["index"], block["valid"]) for block in found["blocks"]] == [(0, True), (1, False), (2, True)]
    assert found["blocks"][1]["controls"] == [{"level": "1", "passed": False, "reason": "seen 1"}]
    (table,) = found["tables"]
    assert table["metrics"] == {"psnr": [[20.0, None], [22.0, None]]}
    assert table["placebo"] == {"psnr": [[12.0, 12.0], [12.0, 12.0]]}
    assert found["attacked"] == {"digits": [0, 1, 2, 7]}
    assert found["tiles"] == []


def test_the_effects_are_those_of_the_comparison_that_decides() -> None:
    """Points of one comparison would be drawn with the interval of another."""
    effects = [[1.0, 5.0], [2.0, 6.0]]
    assert evidence(a_verdict(effects=effects, shown=1), [])["effects"] == [5.0, 6.0]
    assert evidence(a_verdict(effects=effects), [])["effects"] == [1.0, 2.0]
    assert evidence(a_verdict(), [])["effects"] == []


def test_originals_are_kept_once_and_reconstructions_at_each_level() -> None:
    """Half of a page would be the same images again; the dB would stand below another image."""
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
    back = {label: generator.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8) for label in ("1", "2")}
    arrays = {f"{label}/originals": originals for label in back}
    arrays |= {f"{label}/reconstructions": images for label, images in back.items()}
    first, second = evidence(a_verdict(), [a_table()], arrays=arrays)["tiles"]
    assert (len(first["originals"]), len(second["originals"])) == (TILES, 0)
    assert (first["psnr"], first["block"]) == ([20.0, None], 0)
    (png,) = [base64.b64decode(image) for image in second["reconstructions"][1:2]]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), back["2"][1].transpose(1, 2, 0))


def test_gray_images_stay_gray() -> None:
    """Pillow takes no image with a third axis of one."""
    gray = np.arange(20, dtype=np.uint8).reshape(1, 1, 4, 5)
    arrays = {"1/originals": gray, "1/reconstructions": gray}
    (tiles,) = evidence(a_verdict(), [a_table()], arrays=arrays)["tiles"]
    image = Image.open(io.BytesIO(base64.b64decode(tiles["originals"][0])))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), gray[0, 0])
