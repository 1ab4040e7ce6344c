"""The rooms of the harness know neither the domain nor each other in circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gia

ROOT = Path(gia.__file__).parent / "harness"
ROOMS = ("baseline", "decide", "report", "timing")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules of gia that a file imports, wherever it does; names in them count where they are modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if is_module(name) else node.module for name in modules}
    return {name for name in names if name.partition(".")[0] == "gia"}


def is_module(name: str) -> bool:
    """Whether gia has a module of this name."""
    path = ROOT.parents[1] / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_room_imports_of_gia_only_the_numerics_and_the_harness(path: Path) -> None:
    """If it fails, the harness serves only those attacks, data and metrics that it knows by name."""
    allowed = {"gia.numerics"} | ({"gia"} if path.name == "worker.py" else set())  # the gia that is timed
    assert {name for name in imports(path) if not name.startswith("gia.harness.")} <= allowed


def test_neither_modules_nor_rooms_import_each_other_in_a_circle() -> None:
    """If it fails, a module or a room cannot be read, or moved, without another."""
    modules: dict[str, set[str]] = {}
    rooms: dict[str, set[str]] = {}
    for path in FILES:
        room, within = path.parent.name, {name for name in imports(path) if name.startswith("gia.harness.")}
        modules[f"gia.harness.{room}.{path.stem}"] = within
        rooms.setdefault(room, set()).update({name.split(".")[2] for name in within} - {room})
    for arrows in (modules, rooms):
        TopologicalSorter(arrows).prepare()  # raises CycleError
