"""Two runs side by side, on the terminal and as a page, and the command `python -m gia report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gia.__main__ import main
from gia.harness.report.compare import compared, terminal
from tests.harness.report.run_folder import Page, a_verdict, an_about, write_folder


@pytest.mark.parametrize(
    ("interval", "apart"),
    [([2.6, 3.0], True), ([2.5, 3.0], False), ([0.0, 1.4], True), ([0.0, 9.0], False), (None, False)],
)
def test_intervals_are_apart_where_they_have_no_number_in_common(interval: list[float] | None, apart: bool) -> None:
    """A touching interval is no difference, and a missing one says nothing. The other run's is [1.5, 2.5]."""
    (pair,) = compared([a_verdict("op.size")], [a_verdict("op.size", interval=interval)]).pairs
    assert pair.apart is apart


def test_the_terminal_names_what_moved_and_what_only_one_run_has() -> None:
    """A change between two versions of torch would have to be searched for in two files."""
    before = [a_verdict("op.size"), a_verdict("op.depth"), a_verdict("op.gone"), a_verdict("op.same")]
    after = [
        a_verdict("op.size", "refuted", effect=0.1, interval=[0.0, 0.2], digest="cd34"),
        a_verdict("op.depth", interval=[3.0, 4.0]),
        a_verdict("op.same"),
        a_verdict("op.new"),
    ]
    assert terminal(compared(before, after), width=200).splitlines() == [
        "moved  op.size: supported -> refuted",
        "       +2 [+1.5, +2.5] dB -> +0.1 [+0, +0.2] dB; intervals do not overlap; other blocks",
        "apart  op.depth: supported",
        "       +2 [+1.5, +2.5] dB -> +2 [+3, +4] dB",
        "only in the first run: op.gone",
        "only in the second run: op.new",
        "3 rows in both runs: 1 verdicts moved, 2 intervals no longer overlap; 1 only in the first run; 1 only in the "
        "second run",
    ]


def test_the_command_makes_a_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report that was lost, or made by an older version, could not be had without measuring again."""
    folder = write_folder(tmp_path / "run", about=an_about())
    assert main(["report", str(folder), "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'report.html'}\n"
    assert "Planted claims" in (folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(folder), "--output", str(tmp_path / "own.html")]) == 0
    assert (tmp_path / "own.html").read_bytes() == (folder / "report.html").read_bytes()


def test_a_page_without_images_shows_none_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Private images, or images that nobody may copy, would be published with the numbers."""
    folder = write_folder(tmp_path / "run", about=an_about())
    whole, bare = tmp_path / "whole.html", tmp_path / "bare.html"
    words = ["report", str(folder), "--root", str(tmp_path), "--output"]
    assert main([*words, str(whole)]) == main([*words, str(bare), "--without-images"]) == 0
    assert "data:image/" in whole.read_text(encoding="utf-8")
    text = bare.read_text(encoding="utf-8")
    assert "data:image/" not in text
    assert "<img" not in text
    assert "made without images" in text
    assert "The statement of op.size." in text
    capsys.readouterr()
    assert main(["report", str(folder), str(folder), "--without-images"]) == 2
    assert capsys.readouterr().err == "--without-images: expected one RUN_DIR, got 2\n"


def test_the_command_compares_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page must stand by itself, as that of a run."""
    one = write_folder(tmp_path / "one", about=an_about())
    two = write_folder(tmp_path / "two", [a_verdict("op.size", "refuted", interval=[3.0, 4.0])], about=an_about())
    assert main(["report", str(one), str(two), "--root", str(tmp_path)]) == 0
    assert "moved  op.size: supported -> refuted" in capsys.readouterr().out
    found = Page((two / "comparison.html").read_text(encoding="utf-8"))
    assert (found.faults, found.outside) == ([], [])
    assert len(found.ids) == len(set(found.ids))
    assert "op.size The statement of op.size. supported → refuted verdict moved; intervals do not overlap" in found.text
    assert "folder one two" in found.text
    assert "First run: op.depth/2 , thm.bound" in found.text


@pytest.mark.parametrize(
    ("words", "got"),
    [([], "0 RUN_DIR"), (["a", "b", "c"], "3 RUN_DIR"), (["a", "--markdown"], "1 RUN_DIR and --markdown")],
)
def test_arguments_that_contradict_are_refused(words: list[str], got: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong call would write something else than was asked for."""
    assert main(["report", *words]) == 2
    expected = "RUN_DIR: expected one or two folders of runs, or --markdown alone"
    assert capsys.readouterr().err == f"{expected}, got {got}\n"


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error would give a traceback."""
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(f"got {tmp_path} without verdicts.json\n")


def test_the_command_writes_the_document_of_the_records(tmp_path: Path) -> None:
    """docs/results.md could not be made from the records of another project."""
    for name in ("claims", "docs", "baselines"):
        (tmp_path / name).mkdir()
    (tmp_path / "claims" / "claims.toml").write_text(
        'scales = ["small"]\n[[claim]]\nid = "op.size"\nstatement = "Worse."\nkind = "trend"\nmetric = "psnr"\n'
        'unit = "dB"\nmargin = 0.5\ndirection = "worse"\nsource = "Fig. 1"\npaper = "24 to 18 dB"\n',
        encoding="utf-8",
    )
    assert main(["report", "--markdown", "--root", str(tmp_path)]) == 0
    assert "| `op.size` Worse. | not confirmed yet |" in (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
