"""What a block read that is not in its key: files of the project, and modules that its code took by their names.

The key is known before a block runs, from the text of its source; what a function reads beyond that is known only once
it has run. It is stored with the result, which is used as long as all of it is unchanged.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from gia.harness.blocks.opened import Opened, State, opened_by, opening, source_states, state_of, was_watched
from gia.harness.blocks.sources import file_of, first_digest, is_followed, is_installed, path_of
from gia.numerics import file_digest

Done = TypeVar("Done")

#: In the place of the digest of a file that was written after it was read and before the block ended.
CHANGED = "changed"


@dataclass(frozen=True)
class Unkeyed:
    """What a block read besides what its key holds.

    Attributes:
        modules: module -> digest of its file.
        files: path relative to the root of the project -> digest; None for a file that was looked for and not there.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | None] = field(default_factory=dict)

    def changed(self, root: Path) -> str:
        """The first of them that is not as it was read; empty where all are."""
        for name, digest in self.modules.items():
            path = file_of(name)
            if path is None or first_digest(path) != digest:
                return f"the module {name}"
        for name, known in self.files.items():
            path = root / name
            if _digest(str(path), state_of(str(path))) != known:
                return name
        return ""

    def without(self, files: Collection[Path]) -> Unkeyed:
        """This without some of the files."""
        left = {name: digest for name, digest in self.files.items() if Path(name) not in files}
        return replace(self, files=left)


@dataclass(frozen=True)
class Watch:
    """Where to look while a block runs.

    Args:
        keyed: the modules and tables in the block's key.
        root: of the project. A machine without such a folder takes the present one.
        store: the folder of the store, where gia itself reads and writes.
    """

    keyed: tuple[str, ...]
    root: Path
    store: Path


def watched(watch: Watch, run: Callable[..., Done], *arguments: Any) -> tuple[Done, Unkeyed]:
    """What a function returns, and what it read besides what the key holds."""
    before = set(sys.modules)
    with opening() as opened:
        done = run(*arguments)
    _late.update(set(sys.modules) - before - set(watch.keyed))
    modules, files = _behind([name for name in watch.keyed if ":" not in name], opened)
    states = source_states()
    digests = {name: _as_imported(path, states) for name, path in sorted(modules.items())}
    return done, Unkeyed(digests, dict(sorted(_in_project(files, watch))))


def relative(path: str, root: Path) -> Path | None:
    """A real path as it stands in `Unkeyed.files`; None for one outside of the project, and in a folder of a tool."""
    try:
        inside = Path(path).relative_to(root)
    except ValueError:
        return None
    hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts[:-1])
    return None if hidden else inside


def _behind(keyed: Collection[str], opened: Opened) -> tuple[dict[str, Path], dict[str, State]]:
    """The modules that a block may have taken beside those in its key, and what it and the import of all these read."""
    by_path = {_real(path): name for name in list(sys.modules) if (path := _source(name)) is not None}
    names = by_path.values() if any(map(_takes_by_name, keyed)) else list(_late)
    modules = {name: path for name in names if (path := _source(name)) is not None and name not in keyed}
    files: dict[str, State] = {}
    waiting: list[tuple[str, Mapping[str, State]]] = [("", opened.files)]
    waiting += [(name, opened_by(name)) for name in (*keyed, *modules)]
    while waiting:
        name, read = waiting.pop()
        files |= {path: state for path, state in _named_in(name).items() if path not in opened.outputs}
        files |= read
        for each in read:
            module = by_path.get(_real(each)) if each.endswith(".py") else None
            if module is not None and module not in keyed and module not in modules:
                modules[module] = Path(each)
                waiting.append((module, opened_by(module)))
    return modules, files


def _in_project(files: Mapping[str, State], watch: Watch) -> Iterator[tuple[str, str | None]]:
    """The files in the project that are not those of modules, with their digests."""
    root = Path(_real(watch.root if watch.root.is_dir() else Path.cwd()))
    store = _real(watch.store)
    known = {_real(path_of(name)) for name in watch.keyed}
    known |= {_real(path) for name in list(sys.modules) if (path := file_of(name)) is not None}
    for name, state in files.items():
        real = os.path.realpath(name)
        inside = relative(real, root)
        if inside is None or real in known or Path(real).is_relative_to(store) or os.path.isdir(real):
            continue
        if not is_installed(Path(real)):
            yield inside.as_posix(), _digest(real, state) if state == state_of(real) else CHANGED


def _as_imported(path: Path, states: Mapping[str, State]) -> str:
    """The digest of the file of a module, if it is as it was when it was imported."""
    real = _real(path)
    return first_digest(path) if states.get(real, state_of(real)) == state_of(real) else CHANGED


@functools.lru_cache(maxsize=100_000)
def _digest(path: str, state: State) -> str | None:
    """The digest of a file that has this state; None where it is not there."""
    return None if state is None else file_digest(path)


#: Modules that were first imported while a block ran and were not in its key: a later block of this process may take
#: them from memory, which nobody sees.
_late: set[str] = set()

#: How code may take a module by its name, which may be in memory already.
_BY_NAME = re.compile(rb"import_module|__import__|sys\.modules|resolve_name|(?<![.\w])(?:exec|eval)\s*\(")

_LITERAL = re.compile(rb"""["']([\w-][\w./-]*\.\w+)["']""")


def _takes_by_name(module: str) -> bool:
    path = _source(module)
    return path is not None and path.suffix == ".py" and _BY_NAME.search(_text(path)) is not None


def _named_in(module: str) -> dict[str, State]:
    """The files beside a module that its text names, where nobody watched its import."""
    path = _source(module)
    if path is None or path.suffix != ".py" or was_watched(module):
        return {}
    files = [str(path.parent / name.decode()) for name in _LITERAL.findall(_text(path))]
    return {file: state for file in files if (state := state_of(file)) is not None}


@functools.cache
def _source(module: str) -> Path | None:
    """The file of a module that is neither gia's nor installed; the program itself is never taken by its name."""
    if module.partition(".")[0] in ("gia", "__main__", "__mp_main__") or not is_followed(module):
        return None
    path = file_of(module)
    return None if path is None or is_installed(path) else path  # the packages in a namespace have no common file


@functools.cache
def _real(path: str | Path) -> str:
    return os.path.realpath(path)


@functools.cache
def _text(path: Path) -> bytes:
    return path.read_bytes()
