"""Two checkouts timed against each other: on made-up packages named gia, whose steps cost what they say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gia.harness.timing.against_base import checked_out, checkout, commit_of, head_over_base, names_of

WORKLOADS = """
from time import process_time

import gia


def spinning(seconds):
    def steps(before_step):
        print("an attack may print")
        while True:
            before_step()
            end = process_time() + seconds
            while process_time() < end:
                pass

    return steps


def failing():
    raise ZeroDivisionError("planted")


WORKLOADS = {"spin": lambda: spinning(gia.SECONDS), "other": lambda: spinning(3 * gia.SECONDS), "fail": failing}
"""


def package(root: Path, seconds: float) -> Path:
    """A root with a gia whose step takes so long."""
    (root / "gia").mkdir(parents=True)
    (root / "gia" / "__init__.py").write_text(f"SECONDS = {seconds}\n", encoding="utf-8")
    (root / "gia" / "numerics.py").write_text(
        "from contextlib import contextmanager\n@contextmanager\ndef reproducible(*, threads):\n    yield\n"
    )
    return root


@pytest.fixture
def workloads(tmp_path: Path) -> Path:
    """A file of workloads."""
    path = tmp_path / "workloads.py"
    path.write_text(WORKLOADS, encoding="utf-8")
    return path


def git(folder: Path, *arguments: str) -> str:
    """What git says there."""
    told = ("-c", "user.name=a", "-c", "user.email=a@b", *arguments)
    return subprocess.run(["git", *told], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of a file: "old", tagged v1, and "new"; and "unsaved" in the working tree."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet")
    for text in ("old", "new"):
        (root / "file").write_text(text, encoding="utf-8")
        git(root, "add", "file")
        git(root, "commit", "--quiet", "-m", text)
        if text == "old":
            git(root, "tag", "v1")
    (root / "file").write_text("unsaved", encoding="utf-8")
    return root


def test_each_checkout_runs_its_own_gia(tmp_path: Path, workloads: Path) -> None:
    """Two checkouts that import the same package are always equally fast."""
    head, base = package(tmp_path / "head", 0.004), package(tmp_path / "base", 0.002)
    found = head_over_base(head, base, workloads, "spin", turns=9, burst_seconds=0.01)
    # The noise of a busy machine; the other way round would be 0.5.
    assert 1.6 < found.median < 2.5
    assert found.seconds == pytest.approx((0.004, 0.002), rel=0.3)


def test_a_checkout_takes_one_workload_after_the_other(tmp_path: Path, workloads: Path) -> None:
    """A new workload would be timed as the one before, or the steps of a burst counted one off."""
    with checkout(package(tmp_path / "head", 0.004), workloads) as one:
        assert one.names() == ["spin", "other", "fail"]
        one.start("spin")
        assert one.run(1) == pytest.approx(0.004, rel=0.4)
        assert one.run(5) == pytest.approx(0.020, rel=0.4)
        one.start("other")
        assert one.run(2) == pytest.approx(0.024, rel=0.4)


def test_a_workload_that_fails_on_one_checkout_says_what_and_where(tmp_path: Path, workloads: Path) -> None:
    """An older commit may lack what the workload needs; a hang, or a broken pipe, would not say so."""
    root = package(tmp_path / "base", 0.001)
    with checkout(root, workloads) as one:
        one.names()
        one.start("fail")
        with pytest.raises(RuntimeError, match=r"failed on the gia of .*base:\n(.*\n)*.*ZeroDivisionError: planted"):
            one.run(1)
        with pytest.raises(RuntimeError, match="planted"):
            one.run(1)


def test_a_checkout_without_gia_is_not_timed_on_the_installed_one(
    tmp_path: Path, workloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head would be compared with itself."""
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path / "installed", 0.001)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match=r"ImportError: gia: expected that of .*empty, got "):
        names_of(tmp_path / "empty", workloads)


def test_a_base_without_workloads_has_no_names(tmp_path: Path) -> None:
    """A commit from before the first benchmark can be compared with."""
    assert names_of(tmp_path, tmp_path / "tests" / "timing" / "workloads.py") == []


@pytest.mark.parametrize(("ref", "text"), [("v1", "old"), ("HEAD", "new")])
def test_a_checkout_has_the_files_of_the_commit_and_is_removed(repository: Path, ref: str, text: str) -> None:
    """The base would be the working tree, or every comparison would leave a folder and an entry of git behind."""
    with checked_out(repository, ref) as tree:
        assert (tree / "file").read_text(encoding="utf-8") == text
    assert not tree.parent.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (repository / "file").read_text(encoding="utf-8") == "unsaved"


def test_a_checkout_is_removed_after_an_error_too(repository: Path) -> None:
    """A comparison that fails is the one that people run again and again."""

    def failing(tree: Path) -> None:
        seen.append(tree)
        (tree / "new").write_text("untracked files do not keep it", encoding="utf-8")
        raise KeyError("planted")

    seen: list[Path] = []
    with pytest.raises(KeyError, match="planted"), checked_out(repository, "v1") as tree:
        failing(tree)
    assert not seen[0].parent.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("ref", ["nowhere", "--all", "HEAD:file"])
def test_an_unknown_ref_is_named(repository: Path, ref: str) -> None:
    """git's own words for it do not say which option was wrong."""
    with pytest.raises(ValueError, match=f"ref: expected a commit, branch or tag of .*, got '{ref}'"):
        commit_of(repository, ref)
    with pytest.raises(ValueError, match="ref: expected"), checked_out(repository, ref):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1
