"""Which files this process opens, as Python's audit events say: those of a block, and those of each module's import.

Files that compiled code or another process opens raise no such event. Nothing but the standard library is imported, so
that the plugin of pytest can watch before it knows whether it has anything to do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: When a file was last written, its size and its inode; None for one that is not there.
State = tuple[int, int, int] | None


class Opened:
    """The files that were only read, with their states when they were first opened.

    A file that is also written is a product, or the program's own memory such as a log: each run changes it.

    Attributes:
        files: path -> state.
        outputs: the files that were opened for writing.
    """

    def __init__(self) -> None:
        self.files: dict[str, State] = {}
        self.outputs: set[str] = set()

    def read(self, path: str) -> None:
        """Note that a file is read."""
        if path not in self.outputs:
            self.files.setdefault(path, state_of(path))

    def written(self, path: str) -> None:
        """Note that a file is written."""
        self.outputs.add(path)
        self.files.pop(path, None)

    def renamed(self, source: str, target: str) -> None:
        """Note that a file gets another name, as one does that is written under a temporary one."""
        if source in self.outputs:
            self.written(target)


def watch() -> None:
    """Begin to listen, once in a process. It cannot end: Python has no way to take a hook away."""
    global _listens
    if not _listens:
        _listens = True
        _before.update(sys.modules)
        sys.addaudithook(_hear)


@contextmanager
def opening() -> Iterator[Opened]:
    """What is opened while the block runs, in all threads."""
    watch()
    opened = Opened()
    _watchers.append(opened)
    try:
        yield opened
    finally:
        _watchers.remove(opened)


def opened_by(module: str) -> Mapping[str, State]:
    """The files that were read while a module was imported, with those of the modules that it imported first."""
    found = _imports.get(module)
    return {} if found is None else dict(found.files)


def was_watched(module: str) -> bool:
    """Whether `opened_by` knows all that the import of a module opened: it was not loaded before."""
    return module not in _before


def source_states() -> Mapping[str, State]:
    """Real path of each source file that this process read -> its state when it was first read."""
    return dict(_sources)


def state_of(path: str) -> State:
    """The present state of a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


_listens = False
_before: set[str] = set()
_watchers: list[Opened] = []
_imports: dict[str, Opened] = {}  # module -> what its import opened
_sources: dict[str, State] = {}

_WRITES = os.O_WRONLY | os.O_RDWR


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
    elif event == "os.rename" and _watchers:
        path, flags = arguments[1], None
    else:
        return
    if isinstance(path, int) or path is None:
        return
    try:
        path = os.path.abspath(os.fsdecode(path))
        if flags is None:
            source = os.path.abspath(os.fsdecode(arguments[0]))
    except (TypeError, ValueError, OSError):  # no path: the call itself says so
        return
    watchers = [*_watchers, *_importing()]
    if flags is None:
        for opened in watchers:
            opened.renamed(source, path)
        return
    if not flags & os.O_WRONLY and not flags & os.O_TRUNC:
        path = _source_of(path)
        if path.endswith(".py"):
            _sources.setdefault(os.path.realpath(path), state_of(path))
        for opened in watchers:
            opened.read(path)
    if flags & _WRITES:
        for opened in watchers:
            opened.written(path)


def _importing() -> list[Opened]:
    """Those of the modules whose code runs at this moment. While a block runs, the program around it does not count."""
    names = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            names.add(str(frame.f_globals.get("__name__")).replace("__mp_main__", "__main__"))
        frame = frame.f_back
    if _watchers:
        names.discard("__main__")
    return [_imports.setdefault(name, Opened()) for name in names]


def _source_of(path: str) -> str:
    """The source behind a file of byte code, which Python or pytest wrote; any other file itself."""
    folder, name = os.path.split(path)
    above, last = os.path.split(folder)
    return os.path.join(above, name.partition(".")[0] + ".py") if last == "__pycache__" else path
