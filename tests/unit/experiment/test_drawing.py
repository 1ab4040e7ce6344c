"""The pictures of a row: which files are written, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gia import pictures
from gia.experiment import draw

LEVELS = ("1", "4")
VALUES = np.array([[20.0, 12.0], [22.0, 11.0], [21.0, 13.0]])


def images(value: int) -> np.ndarray:
    """Two gray images."""
    return np.full((2, 1, 8, 8), value, dtype=np.uint8)


def drawn(folder: Path, arrays: dict[str, np.ndarray], **options: Any) -> list[Path]:
    """The pictures of a row with three blocks and two levels."""
    return draw(folder, "op.b1", VALUES, levels=LEVELS, metric="psnr", title="batch size", arrays=arrays, **options)


def test_a_row_has_a_picture_of_its_levels_and_one_of_a_block_s_images(tmp_path: Path) -> None:
    """A report would link to a picture that is not there."""
    arrays = {
        "1/originals": images(0),
        "1/reconstructions": images(60),
        "4/originals": images(0),
        "4/reconstructions": images(255),
    }
    paths = drawn(tmp_path, arrays, reported={"1": 19.0}, reported_as="the paper")
    assert paths == [tmp_path / "op.b1-levels.png", tmp_path / "op.b1.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["op.b1-levels.png", "op.b1.png"]
    with Image.open(paths[0]) as levels, Image.open(paths[1]) as grid:
        assert min(levels.size) > 200
        colours = [colour for _, colour in grid.convert("RGB").getcolors(10**6)]
        assert {(0, 0, 0), (60, 60, 60), (255, 255, 255)} <= set(colours)


def test_private_images_are_shown_once_where_levels_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture would repeat one row for each level, or hide that levels attack different images."""
    shown: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(pictures, "grid", lambda path, rows: shown.append(rows))
    same = {f"{level}/originals": images(0) for level in LEVELS}
    found = {f"{level}/reconstructions": images(9) for level in LEVELS}
    drawn(tmp_path, {**same, **found})
    drawn(tmp_path, {**same, "4/originals": images(1), **found})
    assert [list(rows) for rows in shown] == [["private", "1", "4"], ["private", "1", "private 4", "4"]]
    assert (shown[1]["private 4"] == 1).all()


def test_a_row_without_images_has_the_picture_of_its_levels_alone(tmp_path: Path) -> None:
    """A row that only compares gradients would fail when its report is written."""
    assert drawn(tmp_path, {}) == [tmp_path / "op.b1-levels.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["op.b1-levels.png"]


def test_the_median_of_the_placebos_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that is no better than a placebo would look like one that works."""
    curves: list[dict[str, Any]] = []
    monkeypatch.setattr(pictures, "curves", lambda path, values, **options: curves.append(options))
    drawn(tmp_path, {}, details=[{"placebo": {"psnr": value}} for value in (8.0, 9.0, 14.0)])
    drawn(tmp_path, {}, details=[{"placebo": {"rmse": 1.0}}, {}])
    assert [options["blind"] for options in curves] == [9.0, None]
    assert curves[0]["levels"] == LEVELS
