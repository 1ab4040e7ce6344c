"""Pictures of an experiment: every image, every curve, and labels that do not cover them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gia.harness import pictures


def test_the_grid_shows_every_image_of_every_row(tmp_path: Any) -> None:
    """Images would be left out or blended, and a picture would show other than what was measured."""
    black, white = np.zeros((3, 3, 32, 32), np.uint8), np.full((3, 1, 16, 16), 255, np.uint8)
    pictures.grid(tmp_path / "grid.png", {"private": black, "found": white})
    with Image.open(tmp_path / "grid.png") as image:
        page = np.asarray(image)
    side = 64
    assert page.shape == (2 * (side + 4), 110 + 3 * (side + 4), 3)
    assert (page[:side, 110 : 110 + side] == 0).all()
    assert (page[:side, 110 + 2 * (side + 4) : 110 + 2 * (side + 4) + side] == 0).all()
    assert (page[side + 4 :, 110:] == 255).all()


def test_the_grid_refuses_floats(tmp_path: Any) -> None:
    """Images in [0, 1] would be drawn black."""
    with pytest.raises(ValueError, match="uint8"):
        pictures.grid(tmp_path / "grid.png", {"private": np.zeros((1, 3, 8, 8), np.float32)})


def test_a_long_label_does_not_run_into_its_images(tmp_path: Any) -> None:
    """The picture would hide the first image behind the words that say what it is."""
    black = np.zeros((1, 3, 8, 8), np.uint8)
    for label in ("short", "isolation and optimization, and then some more of both"):
        pictures.grid(tmp_path / "grid.png", {label: black})
        with Image.open(tmp_path / "grid.png") as page:
            row = np.asarray(page.convert("L"))[: page.height - 4]
        image = row[:, row.shape[1] - 64 - 4 : row.shape[1] - 4]
        assert (image == 0).all(), "the image stands whole at the right end"
        assert (row[:, row.shape[1] - 64 - 4 - 3 : row.shape[1] - 64 - 4] == 255).all(), "the label ends before it"


def test_a_roc_curve_runs_through_the_shares_above_each_cut_with_the_limit_as_its_dot(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False alarms would be read as finds, or a detector as standing where its limit is not."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def watched(figure: Figure, *rest: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *rest, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    one, other = ([0, 1, 2, 3], [2, 3, 4, 5], 2.5), ([0, 1], [2, 3], 2.5)
    pictures.roc(tmp_path / "roc.png", {"imprints": {"largest": one}, "fished": {"largest": other}})
    with Image.open(tmp_path / "roc.png") as image:
        assert image.width > 1.5 * image.height, "two panels side by side"
    (figure,) = drawn
    left, right = figure.axes
    curve, dot = left.lines
    by_hand = [(0, 0), (0, 0), (0, 0.25), (0, 0.5), (0.25, 0.75), (0.5, 1), (0.75, 1), (1, 1)]
    assert curve.get_xydata().tolist() == [list(point) for point in by_hand]
    assert dot.get_xydata().tolist() == [[0.25, 0.75]]
    assert right.lines[1].get_xydata().tolist() == [[0, 0.5]]
    assert [text.get_text() for axes in (left, right) for text in axes.get_legend().get_texts()] == [
        "largest: 75% at 25.0%",
        "largest: 50% at 0.0%",
    ]
    assert (left.get_title(), right.get_title()) == ("imprints", "fished")
    assert "honest" in left.get_xlabel()
    assert "malicious" in left.get_ylabel()


def test_curves_are_drawn_with_the_papers_points_on_axes_of_their_own(tmp_path: Any) -> None:
    """Another metric on our axis would look like agreement or its lack."""
    values = np.array([[20.0, 18.0], [22.0, 19.0]])
    common = {"levels": ["1", "2"], "metric": "psnr", "title": "op.batch_size"}
    pictures.curves(tmp_path / "ours.png", values, **common)
    pictures.curves(tmp_path / "both.png", values, **common, reported={"1": 0.765}, blind=12.0)
    with Image.open(tmp_path / "ours.png") as ours, Image.open(tmp_path / "both.png") as both:
        assert both.width > ours.width
    with pytest.raises(ValueError, match="blocks, 3"):
        pictures.curves(tmp_path / "wrong.png", values, levels=["1", "2", "3"], metric="psnr", title="")
