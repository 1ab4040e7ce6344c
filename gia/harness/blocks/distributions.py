"""What is installed: which distributions are behind a module, and what their files hold at this moment.

pip and uv write a list of files with digests, RECORD, last. A file that has its recorded size and was not touched since
RECORD was written holds what RECORD says; every other one is read. So a package whose files are replaced in place is
another one, and large libraries are not read at each start.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

#: What Python imports; such a file counts even where RECORD does not list it.
_CODE = (".py", ".so", ".pyd")

#: What no computation reads, and large libraries have by the thousand; of these RECORD's word is taken.
_UNREAD = (".h", ".hpp", ".cuh", ".pyi", ".cmake", ".txt", ".md")


class _State(NamedTuple):
    """Of a file: its size, when its content was last written, and when anything about it last changed."""

    size: int
    written: int
    touched: int


@functools.cache
def behind(top: str) -> Mapping[str, str]:
    """Distribution -> its version and a digest of its files, of all that install files of a top-level module."""
    return {_name(each): f"{each.version} {_content(each)}" for each in _installing(top)}


def changed(names: Iterable[str]) -> list[str]:
    """Which of these distributions have other files than when `behind` first looked, or files that were written since.

    A file that only got another name, as when uv links it into a second environment, is the same file.
    """
    wanted = set(names)
    return sorted({_name(each) for each in _all() if _name(each) in wanted and _is_changed(each)})


@functools.cache
def packages() -> tuple[str, ...]:
    """NAME==VERSION of everything that is installed. It is recorded beside a result, and no key depends on it."""
    return tuple(sorted({f"{_name(each)}=={each.version}" for each in _all()}))


def _installing(top: str) -> Iterator[metadata.Distribution]:
    for each in _all():
        record = _record(each)
        if record is None:
            listed = top in (each.read_text("top_level.txt") or "").split()
        else:
            listed = record.startswith((f"{top}/", f"{top}.")) or f"\n{top}/" in record or f"\n{top}." in record
        if listed:
            yield each


@functools.cache
def _all() -> tuple[metadata.Distribution, ...]:
    # Setuptools, once it is imported, puts the packages that it brings for itself on the path.
    path = [folder for folder in sys.path if Path(folder).name != "_vendor"]
    return tuple(metadata.distributions(path=path))


@functools.cache
def _name(distribution: metadata.Distribution) -> str:
    return distribution.name


@functools.cache
def _record(distribution: metadata.Distribution) -> str | None:
    return distribution.read_text("RECORD")


@functools.cache
def _content(distribution: metadata.Distribution) -> str:
    """A digest of the package's own files: neither launchers, which hold the environment's path, nor pip's notes."""
    lines = [f"{file},{digest},{size}" for file, (digest, size) in _files(distribution).items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


@functools.cache
def _files(distribution: metadata.Distribution) -> Mapping[str, tuple[str, str]]:
    """Own file -> ("sha256=...", size) when this process first looked."""
    listing, recorded = _first_listing(distribution), _recorded(distribution)
    installed = _when_recorded(distribution)
    files = {}
    for file in sorted({*recorded, *listing}):
        entry, found = recorded.get(file, ("", "")), listing.get(file)
        if found is None and not file.endswith(_UNREAD):
            continue
        if found is not None and (str(found.size) != entry[1] or found.touched > installed):
            entry = _read(distribution, file, found)
        files[file] = entry
    return files


def _is_changed(distribution: metadata.Distribution) -> bool:
    first, now = _first_listing(distribution), _listing(distribution)
    if first.keys() != now.keys():
        return True
    moved = [file for file in now if now[file] != first[file]]
    return any(
        now[file].written != first[file].written or _read(distribution, file, now[file]) != _files(distribution)[file]
        for file in moved
    )


@functools.cache
def _read(distribution: metadata.Distribution, file: str, state: _State) -> tuple[str, str]:
    """As `_recorded` has them; a file is read again only in another state."""
    data = Path(str(distribution.locate_file(file))).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest}", str(len(data))


@functools.cache
def _recorded(distribution: metadata.Distribution) -> Mapping[str, tuple[str, str]]:
    """Own file -> ("sha256=...", size) as RECORD has them."""
    rows = [line.rsplit(",", 2) for line in (_record(distribution) or "").splitlines()]
    return {
        file: (digest, size)
        for file, digest, size in (row for row in rows if len(row) == 3)
        if digest.startswith("sha256=") and not file.startswith(("..", "/")) and ".dist-info/" not in file
    }


def _when_recorded(distribution: metadata.Distribution) -> int:
    """When RECORD was written, by the time that no tool can set back; 0 where there is none."""
    for line in (_record(distribution) or "").splitlines():
        if line.split(",")[0].endswith(".dist-info/RECORD"):
            try:
                return os.stat(str(distribution.locate_file(line.split(",")[0]))).st_ctime_ns
            except OSError:
                return 0
    return 0


@functools.cache
def _first_listing(distribution: metadata.Distribution) -> Mapping[str, _State]:
    return _listing(distribution)


def _listing(distribution: metadata.Distribution) -> Mapping[str, _State]:
    """Own file -> its state, of RECORD's and of all code in the same folders."""
    root, recorded = str(distribution.locate_file("")), _recorded(distribution)
    tops = {file.partition("/")[0] for file in recorded if "/" in file}
    if not recorded:
        tops = set((distribution.read_text("top_level.txt") or "").split())
    names = {file for file in recorded if not file.endswith(_UNREAD)}
    for top in tops:
        for folder, _, files in os.walk(os.path.join(root, top)):
            below = folder[len(os.path.join(root, "")) :].replace(os.sep, "/")
            names.update(f"{below}/{file}" for file in files if file.endswith(_CODE))
    found = {}
    for name in names:
        with suppress(OSError):
            status = os.stat(os.path.join(root, name))
            found[name] = _State(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
