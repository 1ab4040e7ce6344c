"""What a project keeps: the table of it, and what `--prune` deletes and leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gia.__main__ import main
from gia.harness.blocks.folders import LOCK, MARK, hold, is_marked, mark

DAY = 86400

#: How the JSON files of a store begin, by their folder.
BEGINNINGS = {"blocks": b'{\n "key": {\n  "format": 4,', "controls": b'{\n "1": {\n  "passed": true,'}


def old_file(path: Path, days: float, size: int = 1000) -> Path:
    """A file that was last used this number of days ago, and begins as gia's would."""
    begin = BEGINNINGS.get(path.parent.name, b"") if path.suffix == ".json" else b""
    path.write_bytes(begin.ljust(size, b" "))
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder .gia of a project: a store, two runs, and what a user put there."""
    folder = tmp_path / ".gia"
    blocks = folder / "cache" / "blocks"
    for made in (blocks, blocks / "nets", blocks / "controls", folder / "runs" / "new", folder / "runs" / "old"):
        assert mark(made)
    for stem, days in (("0" * 16, 40), ("1" * 16, 2)):
        old_file(blocks / f"{stem}.json", days)
        old_file(blocks / f"{stem}.npz", days, size=2000)
        old_file(blocks / "nets" / f"fit-{stem}.safetensors", days, size=4_000_000)
        old_file(blocks / "controls" / f"{stem}.json", days)
    old_file(blocks / ".1-00000000.partial", 1)
    old_file(folder / "runs" / "old" / "report.md", 9)
    old_file(folder / "runs" / "new" / "report.md", 1)
    old_file(blocks / "notes.json", 400)
    (folder / "cache" / "mine").mkdir()
    old_file(folder / "cache" / "mine" / f"{'0' * 16}.json", 400)
    (folder / "runs" / "thesis").mkdir()
    old_file(folder / "runs" / "thesis" / "report.md", 400)
    (folder / "runs" / "latest").symlink_to("old")
    return folder


def files(folder: Path) -> set[str]:
    """All files, but for marks and locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in (MARK, LOCK))
    return {path.relative_to(folder).as_posix() for path in found}


def test_the_table_shows_what_is_there_and_what_would_go(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user whose disk is full would not know what gia keeps, or would have to count files."""
    name = "reduced-0123456-" + "a_very_long_name_of_an_attack" * 3
    mark(project / "runs" / name)
    old_file(project / "runs" / name / "report.md", 0.5)
    assert main(["cache", "--folder", str(project), "--runs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line.split()[1:] for line in lines if not line.startswith((str(project), "..."))}
    #                      entries, size,  oldest,     newest,     to delete, frees
    assert rows["blocks"] == ["2", "6", "kB", "40.0", "d", "2.0", "d", "1", "3", "kB"]
    assert rows["controls"] == ["2", "2", "kB", "40.0", "d", "2.0", "d", "1", "1", "kB"]
    assert rows["nets"] == ["2", "8", "MB", "40.0", "d", "2.0", "d", "1", "4", "MB"]
    assert rows["temporary"] == ["1", "1", "kB", "1.0", "d", "1.0", "d", "1", "1", "kB"]
    assert rows["all"] == ["3", "3", "kB", "9.0", "d", "0.5", "d", "1", "1", "kB"]
    assert rows["old"][-3:] == ["1", "1", "kB"]
    assert rows["new"][-3:] == ["0", "0", "B"]
    left_alone = [line for line in lines if line.endswith("without gia's mark, and left alone")]
    assert ["mine" in left_alone[0], "thesis" in left_alone[1]] == [True, True]
    assert len(left_alone) == 2


def test_prune_deletes_nothing_before_it_is_told_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A look at what could go would cost a night of blocks."""
    before = files(project)
    assert main(["cache", "--folder", str(project), "--prune", "--runs", "1"]) == 0
    assert capsys.readouterr().out.endswith("would be deleted (--prune --yes deletes): 4.01 MB\n")
    assert files(project) == before


def test_prune_deletes_what_is_old_and_of_gia_and_nothing_else(project: Path) -> None:
    """Somebody's notes, another tool's cache or this week's blocks would go with the old ones."""
    before = files(project)
    assert main(["cache", "--folder", str(project), "--prune", "--yes", "--runs", "1"]) == 0
    stem = "0" * 16
    gone = {f"{stem}.json", f"{stem}.npz", f"nets/fit-{stem}.safetensors", f"controls/{stem}.json"}
    expected = {f"cache/blocks/{name}" for name in (*gone, ".1-00000000.partial")} | {"runs/old/report.md"}
    assert before - files(project) == expected
    assert not (project / "runs" / "old").exists()


def test_prune_leaves_files_of_the_user_in_folders_that_gia_made(project: Path) -> None:
    """If it fails, `--prune --yes` deletes notes, data and a thesis that somebody kept beside gia's files."""
    blocks, old = project / "cache" / "blocks", project / "runs" / "old"
    for made in (blocks / "checkpoints", old / "blocks", old / "blocks" / "nets"):
        assert mark(made)
    for folder in ("images", "evidence", "samples", "mine"):
        (old / folder).mkdir()
    rows = [{"id": "op.size/2", "pictures": ["images/op.size-2-levels.png"]}]
    (old / "verdicts.json").write_text(json.dumps(rows), encoding="utf-8")
    (old / "samples" / "fedavg.json").write_text('{\n "cells": {}, "format": 1}', encoding="utf-8")
    for written in ("verdicts.json", "samples/fedavg.json"):
        os.utime(old / written, (0, 0))
    assert mark(old / "mine" / "project")
    own = {"images/op.size-2.png", "images/op.size-2-levels.png", "evidence/op.size-2.json", "report.html", "run.json"}
    for name in (*own, "junit.xml", f"blocks/{'3' * 16}.json", f"blocks/nets/fit-{'3' * 64}.safetensors"):
        old_file(old / name, 90)
    of_the_user = {
        *(f"cache/blocks/{kind}/my_notes.txt" for kind in ("nets", "controls", "checkpoints")),
        *("cache/blocks/nets/mine.safetensors", "cache/blocks/0123456789abcdef.json", "cache/blocks/my_notes.txt"),
        *("cache/blocks/0123456789abcdee.npz", "cache/blocks/controls/0123456789abcdef.json"),
        *("runs/old/thesis.tex", "runs/old/images/photo.png", "runs/old/evidence/mine.json", "runs/old/mine/data.csv"),
        *("runs/old/samples/mine.json", "runs/old/blocks/0123456789abcdef.json", "runs/old/blocks/nets/notes.txt"),
    }
    for name in of_the_user:
        old_file(project / name, 90)
        if name.endswith("f.json"):
            (project / name).write_text('{"mine": 1}', encoding="utf-8")
            os.utime(project / name, (0, 0))
    assert main(["cache", "--folder", str(project), "--prune", "--yes", "--runs", "1"]) == 0
    assert of_the_user <= files(project)
    left = {name for name in files(project) if name.startswith("runs/old/")}
    assert left == {name for name in of_the_user if name.startswith("runs/old/")}
    assert not is_marked(old)
    assert is_marked(old / "mine" / "project")


def test_prune_leaves_what_a_running_run_uses(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The nets of a run of hours would vanish under it, and the pictures of its report."""
    before = files(project)
    held = [hold(project / "cache" / "blocks"), hold(project / "runs" / "old")]
    assert main(["cache", "--folder", str(project), "--prune", "--yes", "--runs", "1", "--days", "0"]) == 0
    assert "(in use: nothing is deleted)" in capsys.readouterr().out
    assert files(project) >= before - {"cache/blocks/.1-00000000.partial"}
    for each in held:
        assert each is not None
        each.close()
    main(["cache", "--folder", str(project), "--prune", "--yes", "--days", "0", "--runs", "1"])
    assert files(project) == {"cache/blocks/notes.json", f"cache/mine/{'0' * 16}.json"} | {
        f"runs/{name}/report.md" for name in ("new", "thesis")
    }


def test_options_that_make_no_sense_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--runs 0` would delete the report of the run that has just ended."""
    for options, message in {
        ("--yes",): "--yes: expected together with --prune",
        ("--prune", "--yes", "--runs", "0"): "--runs: expected at least 1, got 0",
        ("--prune", "--yes", "--days", "-1"): "--days: expected 0 or more, got -1",
    }.items():
        before = files(project)
        assert main(["cache", "--folder", str(project), *options]) == 2
        assert capsys.readouterr().err == f"{message}\n"
        assert files(project) == before


HOLDER = """
import sys, time
from pathlib import Path
from gia.harness.blocks.folders import hold
held = hold(Path(sys.argv[1]))
Path(sys.argv[1], ".9-00000000.partial").touch()
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_run_s_lock_ends_with_it_and_the_next_run_removes_its_temporary_files(project: Path) -> None:
    """A store would be locked for ever, and the disk full of halves of files; or a live run would lose the file that it
    is writing."""
    blocks = project / "cache" / "blocks"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(blocks)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert sorted(path.name for path in blocks.glob(".*.partial")) == [".9-00000000.partial"]
        other = hold(blocks)  # as a second run
        assert other is not None
        assert (blocks / ".9-00000000.partial").exists()
        other.close()
        process.kill()
        process.wait()
    (blocks / ".8-00000000.partial").touch()  # a run on another machine, whose lock is not seen here, writes it now
    old_file(blocks / ".9-00000000.partial", 1)
    own = hold(blocks)
    assert own is not None
    assert [path.name for path in blocks.glob(".*.partial")] == [".8-00000000.partial"]
