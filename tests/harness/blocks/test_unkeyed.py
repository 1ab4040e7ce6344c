"""A stored block is used only while everything that it read is unchanged, also what its key cannot know."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.blocks.unkeyed_project import EDITS, FILES

REPOSITORY = Path(__file__).parents[3]

#: Files that only a watched import shows: no literal in a module names them.
WATCHED = {"inside/of_helper.txt"}


def run(folder: Path, where: str) -> dict[str, Any]:
    """Compute the blocks of a project in a new process."""
    asked = [sys.executable, "-m", "tests.harness.blocks.unkeyed_project", str(folder), where]
    done = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=["here", "pool", "cluster", "unwatched"])
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project whose two blocks are stored, and where they were computed."""
    folder = tmp_path_factory.mktemp("project")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    found = run(folder, request.param)
    assert (found["cached"], found["numbers"]) == (0, [7.0, 7.0])
    return folder, request.param


def test_an_entry_is_used_after_an_edit_only_if_it_read_something_else(computed: tuple[Path, str]) -> None:
    """If it fails, a run says "supported ... cached" although a file that the measure reads has turned the effect, or
    a block is computed again because of a file that it wrote itself."""
    folder, where = computed
    stored = folder / "cache"
    unchanged = shutil.copytree(stored, folder.parent / "stored", dirs_exist_ok=True)
    (folder / "unrelated.json").write_text("1", encoding="utf-8")
    (folder / "own.txt").write_text("edited", encoding="utf-8")
    (folder / "log.txt").write_text("edited", encoding="utf-8")
    (folder / "calls.txt").write_text("7", encoding="utf-8")
    (stored / "nets" / "net.txt").write_text("edited", encoding="utf-8")
    if where in ("here", "unwatched"):
        assert run(folder, "here") == {"cached": 2, "numbers": [7.0, 7.0], "told": []}
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in stored.glob("*.json")]
    read = {name for entry in entries for kind in ("files", "modules") for name in entry["read"][kind]}
    left = {*EDITS} - ({*WATCHED} if where == "unwatched" else set())
    assert read == {name if (folder / name).suffix != ".py" or name == "run.py" else Path(name).stem for name in left}
    for name in ["in_function.csv", "named.py", "optional.json"] if where == "here" else ["at_import.json"]:
        before = FILES.get(name)
        (folder / name).write_text(EDITS[name], encoding="utf-8")
        found = run(folder, "here")
        assert (found["cached"], found["numbers"], len(found["told"])) == (0, [8.0, 8.0], 1), name
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(before, encoding="utf-8")
        shutil.rmtree(stored)
        shutil.copytree(unchanged, stored)
