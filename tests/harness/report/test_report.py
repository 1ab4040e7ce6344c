"""Rows of verdicts in words: what the terminal, Markdown and JSON say, and never say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gia.harness import pictures
from gia.harness.report import rows as report


def a_row(
    id: str = "op.batch_size", outcome: str = "supported", expected: str = "supported", **changes: Any
) -> report.Row:
    """A row as `report.row` makes it."""
    return {
        "id": id,
        "outcome": outcome,
        "expected": expected,
        "reason": "the paper's claim",
        "statement": "Larger batches reconstruct worse.",
        "kind": "trend",
        "metric": "psnr",
        "effect": 1.93,
        "unit": "dB per doubling",
        "interval": [1.21, 2.62],
        "margin": 0.5,
        "blocks": 8,
        "void": 0,
        "cached": 0,
        "look": 1,
        "p": 0.001,
        "p_name": "Page",
        "source": "Fig. 3a",
        "paper": "SSIM .765 to .513",
        "measured": "PSNR 24.1 22.0 20.1 18.2 dB",
        "scale": "reduced",
        "seconds": 12.0,
        "tables": [],
        "pictures": [],
        "torch": "2.14.1",
        **changes,
    }


def a_run(*rows: report.Row, **changes: Any) -> report.Run:
    """A run with these rows."""
    return report.Run(scale="reduced", environment={"scale": "reduced", "torch": "2.14.1"}, rows=rows, **changes)


@pytest.mark.parametrize(
    ("outcome", "expected", "words"),
    [
        ("supported", "supported", "supported"),
        ("refuted", "refuted", "refuted (expected)"),
        ("inconclusive", "inconclusive", "inconclusive (expected)"),
        ("refuted", "supported", "refuted (expected: supported)"),
        ("supported", "refuted", "supported (expected: refuted)"),
    ],
)
def test_an_outcome_reads_with_what_was_expected_of_it(outcome: str, expected: str, words: str) -> None:
    """A refutation that the register expects would look like a failure, or one that it does not like a success."""
    row = a_row(outcome=outcome, expected=expected)
    assert report.outcome(row) == words
    assert words in report.terminal(a_run(row))
    assert words in report.markdown(a_run(row))
    assert report.as_expected(row) == (outcome == expected)


def test_the_terminal_table_shows_effect_interval_margin_blocks_and_both_numbers() -> None:
    """A reader could not judge the verdict, or would take our numbers for the paper's."""
    text = report.terminal(a_run(a_row(void=2, cached=3, look=2)))
    for part in ("+1.93", "[+1.21, +2.62]", "dB per doubling", "margin 0.5", "8 blocks, 2 void, 3 cached, second look"):
        assert part in text
    assert "paper: SSIM .765 to .513  [Fig. 3a]" in text
    assert "here, reduced: PSNR 24.1 22.0 20.1 18.2 dB" in text


def test_metrics_that_do_not_decide_void_blocks_and_second_looks_are_shown() -> None:
    """A metric could be chosen afterwards; nobody would know why blocks are missing, or where the time went."""
    table = {
        "experiment": "op.batch_size",
        "levels": ["1", "2"],
        "medians": {"psnr": [24.0, 22.0], "ssim": [0.8123, 0.7], "lpips": [None, None]},
        "void": {"3": "failed: PSNR 9.10 dB against 11.00 dB blind"},
        "seconds": 90.0,
        "second_look_seconds": 41.0,
    }
    row = a_row(tables=[table])
    for text in (report.terminal(a_run(row), width=200), report.markdown(a_run(row))):
        assert "shown, op.batch_size at 1/2: ssim 0.812/0.7, lpips n/a" in text
        assert "void block 3: failed: PSNR 9.10 dB against 11.00 dB blind" in text
        assert "second looks added, in seconds of computing: op.batch_size 41 s" in text


def test_levels_beside_a_pair_show_the_metric_that_decides() -> None:
    """The numbers that tell why a pair differs would be in no report."""
    table = {"experiment": "toy", "medians": {"psnr": [20.0, 12.5, 15.0]}, "void": {}, "second_look_seconds": 0.0}
    row = a_row(kind="paired", tables=[{**table, "levels": ["strong", "none", "weak"]}])
    assert "psnr 20/12.5/15" in report.terminal(a_run(row))
    pair = a_row(kind="paired", tables=[{**table, "levels": ["strong", "none"], "medians": {"psnr": [20.0, 12.5]}}])
    assert "psnr 20/12.5" not in report.terminal(a_run(pair))


def test_rows_without_a_test_are_named_as_not_covered_in_groups() -> None:
    """A row that nothing measures would pass unseen."""
    text = report.terminal(a_run(a_row(), not_covered=["gen_z.batch_size", "gen_z.noise", "prop1"]))
    assert "not covered (no test yet): 3 rows: gen_z.{batch_size,noise} prop1" in text
    assert "passed" not in text
    assert "skip" not in text


def test_a_partial_run_does_not_claim_to_know_what_is_not_covered() -> None:
    """With -k, every row that was left out would be called untested."""
    text = report.terminal(a_run(a_row(), not_covered=None))
    assert "not covered (" not in text
    assert "selected a part" in text


def test_a_test_without_a_verdict_is_listed_as_such() -> None:
    """A crash would leave no trace in the table."""
    run = a_run(without_verdict={"op.fedavg": "its test failed"})
    assert "NOT op.fedavg: no verdict, its test failed" in report.terminal(run)
    assert "**no verdict** on `op.fedavg`: its test failed" in report.markdown(run)


def test_markdown_is_one_table_whose_cells_cannot_break_it() -> None:
    """A bar or a line break in a statement would shift every column after it."""
    text = report.markdown(
        a_run(a_row(statement="a | b\nc"), a_row(id="thm1.printed", effect=None, interval=None, margin=None))
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.replace("\\|", "").count("|") for line in table} == {8}
    assert "at reduced scale" in text


def test_markdown_shows_the_pictures_of_a_row() -> None:
    """Reconstructions would be drawn and never seen."""
    text = report.markdown(a_run(a_row(pictures=["images/op.batch_size.png"])))
    assert "![op.batch_size](images/op.batch_size.png)" in text


def test_json_is_a_list_of_rows_and_refuses_what_json_cannot_hold() -> None:
    """NaN is not JSON: another reader would fail on the file, or read a hole as a number."""
    assert json.loads(report.to_json([a_row()]))[0]["interval"] == [1.21, 2.62]
    with pytest.raises(ValueError, match="JSON"):
        report.to_json([a_row(effect=math.nan)])


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
