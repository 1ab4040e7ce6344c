"""Run folders from outside: one for each run, and nothing of the user's or of another run is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gia.harness.blocks.folders import LOCK
from gia.harness.plugin.folder import RunFolder, manifest, newest
from tests.harness.plugin.inner_project import Inner, row, trend, verdicts_in
from tests.harness.plugin.processes import started

pytest_plugins = ["pytester"]

TWO = trend("toy.first") + trend("toy.second")


def files(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_partial_or_a_dirty_run_leaves_the_full_report_of_a_clean_one(inner: Inner) -> None:
    """What was published would be replaced by one row of it, or by numbers of code that nobody can look up."""
    inner.write(row("toy.first"), row("toy.second"), tests=TWO)
    inner.commit()
    inner.run("--gia-junit", "-o", "junit_family=xunit1").assert_outcomes(passed=2)
    (full,) = inner.folders
    before = files(full)
    assert {"report.md", "junit.xml", "verdicts.json", "run.json"} <= set(before)
    inner.run("-k", "first").assert_outcomes(passed=1, deselected=1)
    with (inner.path / "planted.py").open("a", encoding="utf-8") as source:
        source.write("# edited\n")
    inner.run().assert_outcomes(passed=2)
    assert files(full) == before
    said = [manifest(folder) or {} for folder in inner.folders]
    assert [facts["whole"] for facts in said] == [True, False, True]
    assert [facts["kind"].endswith("+changes") for facts in said] == [False, False, True]
    assert {facts["state"] for facts in said} == {"ended"}
    assert (inner.path / ".gia" / "runs" / "latest").resolve() == inner.folder


@pytest.mark.parametrize(
    "options",
    [
        ("-k", "nothing"),
        ("--gia-attack=unknown",),
        ("--gia-placebo=unknown",),
        ("--gia-executor=unknown", "--gia-workers=1"),
        ("broken",),
    ],
    ids=["selects nothing", "attack", "placebo", "executor", "collection"],
)
def test_a_run_that_does_not_begin_leaves_no_folder(inner: Inner, options: tuple[str, ...]) -> None:
    """`latest` would lead to an empty report, away from the one that a user wants to read."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.run().assert_outcomes(passed=1)
    (full,) = inner.folders
    if options == ("broken",):
        (inner.path / "broken").mkdir()
        (inner.path / "broken" / "test_broken.py").write_text("import nowhere\n", encoding="utf-8")
    assert inner.run(*options, "--gia-junit", "-o", "junit_family=xunit1").ret != pytest.ExitCode.OK
    assert inner.folders == [full]
    assert (inner.path / ".gia" / "runs" / "latest").resolve() == full


def test_latest_leads_to_a_run_with_a_report(tmp_path: Path) -> None:
    """It would lead to a run that is under way, or that was killed, and has no report."""
    one, other = (RunFolder(tmp_path, "small", {}) for _ in range(2))
    one.begin()
    (one.path / "report.html").touch()
    assert not (tmp_path / "latest").exists()
    one.end()
    other.begin()
    other.end()
    assert other.path.exists()
    assert (tmp_path / "latest").resolve() == one.path


def test_two_runs_at_once_write_to_two_folders(inner: Inner) -> None:
    """The verdicts of one would be those of the other."""
    waits = """
@pytest.mark.claim("toy.second")
def test_second(claims):
    from pathlib import Path
    import time
    Path("reached").touch()
    while True:
        time.sleep(0.1)
"""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + waits)
    with started(inner, "--gia-workers=0"):
        (running,) = inner.folders
        before = files(running)
        inner.run("-k", "first").assert_outcomes(passed=1, deselected=1)
        assert files(running) == before
        assert (manifest(running) or {})["state"] == "running"
        assert len(inner.folders) == 2


def test_a_folder_of_the_user_is_held_by_one_run(tmp_path: Path) -> None:
    """Two runs would take turns overwriting each other's report."""
    one, other = (RunFolder(tmp_path / "runs", "small", {}, given=tmp_path / "mine") for _ in range(2))
    one.begin()
    one.begin()  # a run asks for it at several places
    with pytest.raises(ValueError, match="mine, where another run is under way"):
        other.begin()
    one.end()
    other.begin()
    other.end()
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_the_user_is_reset_and_keeps_what_is_not_a_report(inner: Inner) -> None:
    """If it fails, a report lies in a folder with the pictures of another run, or a user loses files."""
    inner.write(row("toy.first"), row("toy.second"), tests=TWO)
    inner.run("--gia-run-dir=mine", "--gia-junit", "-o", "junit_family=xunit1")
    mine = inner.path / "mine"
    pictures = {name for name in files(mine) if name.startswith("images/toy.second")}
    assert pictures
    (mine / "images" / "holiday.png").touch()
    (mine / "notes.md").touch()
    inner.run("--gia-run-dir=mine", "-k", "first")
    left = set(files(mine))
    assert {"images/holiday.png", "notes.md"} <= left
    assert not left & (pictures | {"junit.xml"})
    assert set(verdicts_in(mine)) == {"toy.first"}


@pytest.mark.parametrize("name", ["report.md", "verdicts.json"])
def test_a_folder_with_a_report_of_something_else_is_refused(inner: Inner, name: str) -> None:
    """A user's own report would be gone."""
    (inner.path / "mine").mkdir()
    (inner.path / "mine" / name).write_text("my own", encoding="utf-8")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--gia-run-dir=mine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--gia-run-dir: expected a folder to write to, got *mine, which has a {name} and*"])
    assert (inner.path / "mine" / name).read_text(encoding="utf-8") == "my own"
    assert inner.computed == []


def test_under_ci_nothing_in_the_users_folder_is_deleted_and_no_block_is_reused(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CI would pass on blocks of another commit, or clear a folder that happens to be called blocks."""
    monkeypatch.setenv("CI", "true")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    kept = [inner.path / "mine" / "blocks" / name for name in ("own.json", "own.npz", "nets/own.pt", "controls/a")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for _ in range(2):
        inner.run("--gia-run-dir=mine").assert_outcomes(passed=1)
        assert verdicts_in(inner.path / "mine")["toy.first"]["cached"] == 0
    assert all(path.exists() for path in kept)


def test_a_run_that_is_killed_stays_marked_as_running_and_the_next_one_may_have_its_folder(tmp_path: Path) -> None:
    """A folder would be locked for ever after a power cut."""
    RunFolder(tmp_path, "small", {}, given=tmp_path / "mine").begin()
    killed = manifest(tmp_path / "mine")
    assert killed is not None
    assert killed["state"] == "running"
    (tmp_path / "mine" / LOCK).unlink()  # what a kill leaves is a file that nobody holds
    RunFolder(tmp_path, "small", {}, given=tmp_path / "mine").begin()


def test_the_newest_run_is_one_of_the_same_kind(tmp_path: Path) -> None:
    """A placebo would take victims of another commit or scale."""
    made = {}
    for kind in ("small-ab", "small-ab", "very-small-ab", "small-ab-pilot", "small-ab+changes"):
        folder = RunFolder(tmp_path, kind, {"scale": "small"})
        folder.begin()
        folder.end()
        made[kind] = folder.path
    (tmp_path / "99999999-000000-000000-small-ab").mkdir()  # without our mark
    (tmp_path / "99999999-000000-000000-small-ab" / "run.json").write_text(
        json.dumps({"kind": "small-ab"}), encoding="utf-8"
    )
    assert newest(tmp_path, "small-ab") == made["small-ab"]
    assert newest(tmp_path, "small-cd") is None
