"""Pictures: every image is shown as it is, labels are readable, and curves run through the numbers that were given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from gia import pictures

SIDE, GAP, MARGIN = 64, 4, 110  # an image of 64, 32 or 16 pixels is drawn with 64

#: round(255 * clamp(x, 0, 1)) for -0.5, 0, 0.5, 1 and 1.5; 127.5 is rounded to the even number.
EXPECTED = np.array([0, 0, 128, 255, 255], np.uint8).reshape(5, 1, 1, 1)


def page(path: Path) -> np.ndarray:
    """The pixels of a picture file, (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_grid_shows_every_image_of_every_row(tmp_path: Path) -> None:
    """If it fails, images are left out or blended, and a picture shows other images than the measured ones."""
    black, white = np.zeros((3, 3, 32, 32), np.uint8), np.full((3, 1, 16, 16), 255, np.uint8)
    pictures.grid(tmp_path / "grid.png", {"private": black, "found": white})
    shown = page(tmp_path / "grid.png")
    assert shown.shape == (2 * (SIDE + GAP), MARGIN + 3 * (SIDE + GAP), 3)
    assert (shown[:SIDE, MARGIN : MARGIN + SIDE] == 0).all()
    assert (shown[:SIDE, MARGIN + 2 * (SIDE + GAP) : MARGIN + 2 * (SIDE + GAP) + SIDE] == 0).all()
    assert (shown[SIDE + GAP :, MARGIN:] == 255).all()


def test_small_images_are_enlarged_by_a_whole_factor_to_about_the_side_that_is_asked_for(tmp_path: Path) -> None:
    """If it fails, a picture for a page is as small as one for a report, or pixels are blurred."""
    pictures.grid(tmp_path / "grid.png", {"found": np.zeros((1, 1, 24, 16), np.uint8)}, side=130)
    assert page(tmp_path / "grid.png").shape == (5 * 24 + GAP, MARGIN + 5 * 16 + GAP, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floats_in_the_unit_interval_are_drawn_as_their_8_bit_values(tmp_path: Path, dtype: torch.dtype) -> None:
    """If it fails, reconstructions that were never rounded look darker than they are, or wrap around at the border."""
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], dtype=dtype, requires_grad=True)
    images = values.view(5, 1, 1, 1).expand(5, 1, 64, 64)
    pictures.grid(str(tmp_path / "tensor.png"), {"found": images})
    pictures.grid(tmp_path / "array.png", {"found": images.detach().float().numpy()})
    pictures.grid(tmp_path / "bytes.png", {"found": np.broadcast_to(EXPECTED, (5, 1, 64, 64))})
    for name in ("tensor.png", "array.png"):
        assert (page(tmp_path / name) == page(tmp_path / "bytes.png")).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 8, 8), np.int64), r"rows\['found'\]: expected images .* got int64 \(1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"rows\['found'\]: expected images .* got float32 \(3, 8, 8\)"),
        (torch.zeros(1, 2, 8, 8), r"rows\['found'\]: expected images .* got float32 \(1, 2, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"rows\['found'\]: expected images .* got float32 \(0, 3, 8, 8\)"),
        (torch.full((1, 3, 8, 8), torch.nan), r"rows\['found'\]: expected finite values, got NaN or infinity"),
    ],
)
def test_the_grid_refuses_what_is_no_image(tmp_path: Path, images: Any, message: str) -> None:
    """If it fails, a diverged or wrongly shaped reconstruction is drawn as some image."""
    with pytest.raises(ValueError, match=message):
        pictures.grid(tmp_path / "grid.png", {"found": images})
    with pytest.raises(ValueError, match="rows: expected at least one, got none"):
        pictures.grid(tmp_path / "grid.png", {})
    assert not list(tmp_path.iterdir())


def test_a_long_label_does_not_run_into_its_images(tmp_path: Path) -> None:
    """If it fails, the words that say what an image is hide it."""
    black = np.zeros((1, 3, 8, 8), np.uint8)
    for label in ("short", "isolation and optimization, and then some more of both"):
        pictures.grid(tmp_path / "grid.png", {label: black})
        row = page(tmp_path / "grid.png")[:SIDE]
        end = row.shape[1] - GAP
        assert (row[:, end - SIDE : end] == 0).all(), "the image stands whole at the right end"
        assert (row[:, end - SIDE - 3 : end - SIDE] == 255).all(), "the label ends before it"


def test_a_roc_curve_runs_through_the_shares_above_each_cut_with_the_limit_as_its_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, false alarms are read as finds, or a detector seems to stand where its limit is not."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def watched(figure: Figure, *rest: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *rest, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    one, other = ([0, 1, 2, 3], [2, 3, 4, 5], 2.5), ([0, 1], [2, 3], 2.5)
    pictures.roc(tmp_path / "roc.png", {"imprints": {"largest": one}, "fished": {"largest": other}})
    height, width, _ = page(tmp_path / "roc.png").shape
    assert width > 1.5 * height, "two panels next to each other"
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
    with pytest.raises(ValueError, match="kinds: expected at least one, got none"):
        pictures.roc(tmp_path / "none.png", {})


def test_a_scatter_has_each_point_and_their_median(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a defense stands where it was not measured, or changes its colour from panel to panel."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    digits = {"noise": [(1.0, 0.7), (3.0, 0.5), (2.0, 0.9)], "none": [(9.0, 0.8)]}
    pictures.scatter(tmp_path / "s.png", {"digits": digits, "faces": {"none": [(8.0, 0.4)]}}, x="leak", y="accuracy")
    left, right = drawn[0].axes
    points, median, *_ = left.lines
    assert points.get_xydata().tolist() == [list(point) for point in digits["noise"]]
    assert median.get_xydata().tolist() == [[2.0, 0.7]]
    assert left.lines[3].get_color() == right.lines[1].get_color() != median.get_color()
    assert (left.get_title(), left.get_xlabel(), left.get_ylabel()) == ("digits", "leak", "accuracy")
    with pytest.raises(ValueError, match="panels: expected at least one, got none"):
        pictures.scatter(tmp_path / "s.png", {}, x="leak", y="accuracy")


def test_curves_are_drawn_with_the_papers_points_in_a_panel_of_their_own(tmp_path: Path) -> None:
    """If it fails, two metrics share an axis, which looks like agreement or its lack."""
    values = np.array([[20.0, 18.0], [22.0, 19.0]])
    common: dict[str, Any] = {"levels": ["1", "2"], "metric": "psnr", "title": "op.batch_size"}
    pictures.curves(tmp_path / "ours.png", values, **common)
    pictures.curves(tmp_path / "both.png", values, **common, reported={"1": 0.765}, blind=12.0)
    assert page(tmp_path / "both.png").shape[1] > page(tmp_path / "ours.png").shape[1]
    with pytest.raises(ValueError, match=r"values: expected shape \(blocks, 3\), got \(2, 2\)"):
        pictures.curves(tmp_path / "wrong.png", values, levels=["1", "2", "3"], metric="psnr", title="")


def test_a_specification_curve_orders_effects_and_marks_what_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A void setting would vanish from the picture, or only a colour would distinguish what settings show."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    settings = [{"width": width, "net": "mlp"} for width in (8, 16, 100, 8)]
    labels = ["holds", "void", "dead", "holds"]
    pictures.specification(
        tmp_path / "reach.png", [2.0, None, 0.1, 1.0], settings, labels=labels, margin=0.5, title="", ylabel="dB"
    )
    above, below = figures[0].axes
    drawn = {str(line.get_label()): line for line in above.lines}
    found = {name: line.get_xydata().tolist() for name, line in drawn.items() if " of 4" in name}
    assert found == {"holds (2 of 4)": [[1, 1], [2, 2]], "dead (1 of 4)": [[0, 0.1]], "void (1 of 4)": [[3, 0]]}
    assert len({drawn[name].get_marker() for name in found}) == 3
    names = [label.get_text() for label in below.get_yticklabels()]
    assert names == ["net = mlp", "width = 8", "width = 16", "width = 100"]


def test_without_matplotlib_curves_name_the_command_that_installs_it_and_the_grid_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a user without the optional package reads a bare import error, or cannot look at images."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'matplotlib: expected .* python -m pip install "matplotlib>=3\.8"'):
        pictures.curves(tmp_path / "c.png", np.zeros((2, 1)), levels=["1"], metric="psnr", title="")
    pictures.grid(tmp_path / "grid.png", {"found": np.zeros((1, 1, 8, 8))})
    assert page(tmp_path / "grid.png").shape[0] == SIDE + GAP
