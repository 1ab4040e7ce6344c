"""Files that appear complete or not at all."""

from __future__ import annotations

import os

import pytest

from gia.numerics import replacing

NAMES = ["plain.json", "a name with spaces.json", "Größe-数据.json", "x" * 250 + ".json"]


@pytest.mark.parametrize("name", NAMES, ids=["plain", "spaces", "letters", "longest"])
def test_a_complete_file_takes_the_place_of_the_old_one(tmp_path, name):
    """If it fails, results in a folder such as `My Documents` are lost, or a partial file stays."""
    folder = tmp_path / "Ordner mit Ümläut"
    folder.mkdir()
    path = folder / name
    for content in ("old", "new"):
        with replacing(str(path)) as partial:
            assert partial.parent == folder
            partial.write_text(content, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(folder.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    """If it fails, another process reads half a file, or each failure leaves a partial file."""
    path = tmp_path / "kept.json"
    path.write_text("old", encoding="utf-8")

    def stopped():
        with replacing(path) as partial:
            partial.write_text("half", encoding="utf-8")
            assert path.read_text(encoding="utf-8") == "old"
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["kept.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    """If it fails, a result that was never written counts as stored."""
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "nothing.json"):
        pass
    assert os.listdir(tmp_path) == []
