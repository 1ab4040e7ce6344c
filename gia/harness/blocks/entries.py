"""What lies in a store and in the folder of the runs, by kind, size and age, and what is old enough to go."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gia.harness.blocks.folders import LOCK, MARK, is_marked, temporary

#: The kinds of a store's entries, as they are listed.
KINDS = ("blocks", "checkpoints", "controls", "nets", "temporary")

_BLOCK = re.compile(r"[0-9a-f]{16}\.(json|npz)")


@dataclass(frozen=True)
class Entry:
    """Files that are kept and deleted together: a block with its pictures, a trained net, a run's report.

    Attributes:
        kind: one of `KINDS`, or "runs".
        name: what it is called.
        files: its files; of a run, its folder.
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
    stems: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if _BLOCK.fullmatch(path.name):
            stems.setdefault(path.stem, []).append(path)
    found += [_entry("blocks", stem, files) for stem, files in stems.items()]  # .json before .npz: the entry goes first
    for kind in ("checkpoints", "controls", "nets"):
        if is_marked(folder / kind):
            own = [path for path in sorted((folder / kind).iterdir()) if not path.name.startswith(".")]
            found += [_entry(kind, path.name, [path]) for path in own if path.is_file() and not path.is_symlink()]
    left = (
        list((folder / "reserved").glob("[!.]*")) if is_marked(folder / "reserved") else []
    )  # by runs that were killed
    return found + [_entry("temporary", path.name, [path]) for path in (*temporary(folder), *sorted(left))]


def runs(folder: Path) -> list[Entry]:
    """The run folders that gia made, the newest first."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        if is_marked(path):
            files = [file for file in path.rglob("*") if file.is_file() and file.name not in (MARK, LOCK)]
            whole = _entry("runs", path.name, files)
            found.append(Entry("runs", path.name, (path,), whole.size, whole.used))
    return sorted(found, key=lambda run: run.used, reverse=True)


def unmarked(folder: Path) -> list[Path]:
    """The folders in this one that gia did not make."""
    return sorted(path for path in _folders(folder) if not path.is_symlink() and not is_marked(path))


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
