"""Folders that gia may clean: each carries a mark, and a run locks those that it uses until its process ends."""

from __future__ import annotations

import os
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gia.numerics import private_folder

try:
    import fcntl
except ImportError:  # a system without such locks: nothing is ever cleaned there
    fcntl = None  # type: ignore[assignment]

#: The file that says that gia made the folder around it, and gia's lock. What else lies there is content.
MARK = ".gia-folder"
LOCK = ".gia-lock"

_LEFT = 3600.0  # seconds after which a temporary file belongs to nobody

_TEXT = "gia made this folder, and `python -m gia cache --prune` may delete what gia wrote here.\n"


class Hold:
    """A folder in use: while this object lives, and the process, nobody cleans the folder."""

    def __init__(self, descriptor: int) -> None:
        self._close = weakref.finalize(self, os.close, descriptor)

    def close(self) -> None:
        """Let others clean the folder."""
        self._close()


def mark(folder: Path, *, private: bool = False) -> bool:
    """Make a folder and mark it, unless files of somebody else's lie there; returns whether it is marked.

    Args:
        folder: one that is not there or empty gets the mark; another one stays as it is.
        private: whether only the user may enter the folder.

    >>> import tempfile
    >>> from gia.harness.blocks.folders import mark
    >>> with tempfile.TemporaryDirectory() as name:
    ...     _ = Path(name, "thesis.tex").touch()
    ...     mark(Path(name)), mark(Path(name) / "blocks")
    (False, True)
    """
    if private:
        private_folder(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
    if not is_marked(folder) and not any(folder.iterdir()):
        with suppress(FileExistsError):  # another run that begins at this moment
            descriptor = os.open(folder / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_TEXT)
    marked = is_marked(folder)
    if marked and private and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        folder.chmod(mode & 0o700)
    return marked


def is_marked(folder: Path) -> bool:
    """Whether gia made this folder. A link to a folder is not marked, whatever it leads to."""
    return not folder.is_symlink() and (folder / MARK).is_file() and not (folder / MARK).is_symlink()


def hold(folder: Path, *, private: bool = False) -> Hold | None:
    """Make, mark and lock a folder for this process; None where the system has no locks.

    The system drops the lock when the process ends, however it ends. Temporary files that a killed process left are
    removed if nobody else holds the folder and they are an hour old: some file systems of clusters show a lock only to
    processes of the same machine. Waits for somebody who cleans it.
    """
    marked = mark(folder, private=private)
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held = Hold(descriptor)
        try:
            if _lock(descriptor, shared=False, wait=False):
                if marked:
                    remove([path for path in temporary(folder) if _is_left(path)])
                _lock(descriptor, shared=True, wait=True)
            else:
                _lock(descriptor, shared=True, wait=True)
        except OSError:  # a file system without locks
            held.close()
            return None
        if (folder / LOCK).exists() and os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
            return held
        held.close()  # the folder was deleted in between
        marked = mark(folder, private=private)


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no process holds the folder. If so, none gets a hold before the block ends.

    Where this cannot be known, because the folder is gone or cannot be locked, the answer is no.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        try:
            free = _lock(descriptor, shared=False, wait=False)
        except OSError:
            free = False
        yield free
    finally:
        os.close(descriptor)


def temporary(folder: Path) -> list[Path]:
    """The files that `gia.numerics.replacing` has not finished, here and in marked folders inside."""
    inside = [path for path in folder.iterdir() if path.is_dir() and is_marked(path)]
    return sorted(path for each in (folder, *inside) for path in each.glob(".*.partial"))


def _is_left(path: Path) -> bool:
    """Whether a file was last written so long ago that nobody is writing it."""
    try:
        return time.time() - path.stat().st_mtime > _LEFT
    except FileNotFoundError:
        return False


def remove(files: list[Path]) -> None:
    """Delete files; one that is gone already is no error."""
    for path in files:
        path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove gia's mark and lock from a marked folder and those inside, and each folder that is empty then."""
    for path in [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]:
        if is_marked(path):
            clear(path)
        else:
            _remove_if_empty(path)
    remove([folder / name for name in (MARK, LOCK) if not (folder / name).is_symlink()])
    _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # files lie there
        folder.rmdir()


def _lock(descriptor: int, *, shared: bool, wait: bool) -> bool:
    """Whether the lock was given; OSError where there are no locks."""
    if fcntl is None:
        raise OSError("this system has no file locks")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
