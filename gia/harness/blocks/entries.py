"""What lies in a store and in the folder of the runs, by kind, size and age, and what is old enough to go.

A user's file may lie anywhere, also in folders that carry gia's mark. So a file counts as gia's by its name, and where
somebody else could have thought of that name, by how it begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gia.harness.blocks.folders import is_marked, temporary

#: The kinds of a store's entries, as they are listed.
KINDS = ("blocks", "checkpoints", "controls", "nets", "temporary")

#: In every run folder: what was run, and how it ended.
MANIFEST = "run.json"
JUNIT = "junit.xml"
#: The tracebacks of errors of the user's attack or defenses.
ERRORS = "errors.txt"
#: The reports in a run folder; pictures, samples and evidence lie in folders beside them.
REPORTS = (
    *("verdicts.json", "about.json", "report.md", "report.html", "comparison.html", JUNIT),
    *("bench.json", "bench.md", "base.json", "base.md", ERRORS),
)

_DIGEST = "[0-9a-f]{16}"
_BLOCK = re.compile(rf"{_DIGEST}\.json")
_NAMES = {
    "checkpoints": re.compile(rf"{_DIGEST}-[0-9a-f]+\.checkpoint"),
    "controls": re.compile(rf"{_DIGEST}\.json"),
    "nets": re.compile(rf"[a-z]+-(?:{_DIGEST})+\.safetensors"),
    "reserved": re.compile(rf"{_DIGEST}\.\d+"),
}
_BEGINNINGS = {
    "blocks": re.compile(rb'\{\s*"key": \{\s*"format": \d'),
    "controls": re.compile(rb'\{\}|\{\s*"[^"]*": \{\s*"passed": '),
    "samples": re.compile(rb'\{\s*"cells": \{'),
}


@dataclass(frozen=True)
class Entry:
    """Files that are kept and deleted together: a block with its pictures, a trained net, a run's report.

    Attributes:
        kind: one of `KINDS`, or "runs".
        name: what it is called.
        files: its files; nothing that a user put beside them.
        size: in bytes.
        used: when it was last written or read, in seconds since 1970.
    """

    kind: str
    name: str
    files: tuple[Path, ...]
    size: int
    used: float


def entries(folder: Path) -> list[Entry]:
    """What gia wrote in a store; nothing of a folder without gia's mark."""
    found: list[Entry] = []
    if not is_marked(folder):
        return found
    for path in _own(folder, _BLOCK, "blocks"):
        pictures = path.with_suffix(".npz")
        found.append(_entry("blocks", path.stem, [path, *([pictures] if pictures.is_file() else [])]))  # it goes first
    for kind in ("checkpoints", "controls", "nets"):
        found += [_entry(kind, path.name, [path]) for path in _own(folder / kind, _NAMES[kind], kind)]
    left = _own(folder / "reserved", _NAMES["reserved"])  # by runs that were killed
    return found + [_entry("temporary", path.name, [path]) for path in (*temporary(folder), *left)]


def runs(folder: Path) -> list[Entry]:
    """The run folders that gia made, the newest first."""
    if not folder.is_dir():
        return []
    found = [_entry("runs", path.name, _files_of_run(path)) for path in folder.iterdir() if is_marked(path)]
    return sorted(found, key=lambda run: run.used, reverse=True)


def unmarked(folder: Path) -> list[Path]:
    """The folders in this one that gia did not make."""
    return sorted(path for path in _folders(folder) if not path.is_symlink() and not is_marked(path))


def _files_of_run(folder: Path) -> list[Path]:
    """What gia wrote in a run folder."""
    found = [folder / name for name in (MANIFEST, *REPORTS)] + temporary(folder)
    ids = _ids(folder / "verdicts.json")
    names = {f"{id}{kind}.png" for id in ids for kind in ("", "-levels", "-reach")}
    found += [folder / "images" / name for name in (*names, "bench-cost.png")]
    found += [folder / "evidence" / f"{id}.json" for id in ids]
    if (folder / "samples").is_dir():
        found += _own(folder / "samples", re.compile(r".+\.json"), "samples", marked=False)
    for store in _folders(folder):
        found += [file for entry in entries(store) for file in entry.files]
    return [path for path in dict.fromkeys(found) if path.is_file() and not path.is_symlink()]


def _ids(verdicts: Path) -> set[str]:
    """The rows of a run, as they stand in names of files."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {row["id"].replace("/", "-") for row in json.loads(verdicts.read_text(encoding="utf-8"))}
    return set()


def _own(folder: Path, name: re.Pattern[str], kind: str = "", *, marked: bool = True) -> list[Path]:
    """The files of a folder that gia named, and that begin as it begins those of this kind."""
    if marked and not is_marked(folder):
        return []
    paths = [path for path in sorted(folder.iterdir()) if name.fullmatch(path.name)]
    return [path for path in paths if path.is_file() and not path.is_symlink() and _begins(path, kind)]


def _begins(path: Path, kind: str) -> bool:
    if kind not in _BEGINNINGS:
        return True
    try:
        with path.open("rb") as file:
            return _BEGINNINGS[kind].match(file.read(200)) is not None
    except OSError:  # deleted by its own process
        return False


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_dir())


def _entry(kind: str, name: str, files: Sequence[Path]) -> Entry:
    size, used = 0, 0.0
    for path in files:
        try:
            status = path.lstat()
        except FileNotFoundError:  # deleted by its own process
            continue
        size, used = size + status.st_size, max(used, status.st_mtime)
    return Entry(kind, name, tuple(files), size, used)
