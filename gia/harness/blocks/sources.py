"""The source of every function that takes part in a block, and of what it imports from the user's own code."""

from __future__ import annotations

import ast
import dataclasses
import functools
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from gia import numerics
from gia.numerics import digest_of, file_digest

_GIA = Path(str(numerics.__file__)).parents[1]

#: Large libraries whose functions may stand in settings: their source is not read, their version is in the key.
_BY_VERSION = frozenset({"torch", "torchvision", "numpy", "scipy", "sklearn", "skimage", "lpips"})


@functools.cache
def source_of_gia() -> str:
    """Sixteen hex digits of the names and contents of all of gia's source and tables."""
    paths = sorted([*_GIA.rglob("*.py"), *_GIA.rglob("*.toml")])
    return digest_of({path.relative_to(_GIA).as_posix(): file_digest(path) for path in paths})


def sources_of(callables: Iterable[Callable[..., object]]) -> dict[str, str]:
    """Module -> digest of its file, of each callable's module and of the modules that it imports, directly or not.

    Followed are modules of the callable's own package, and all modules that are not installed: those of a checkout,
    such as claims and tests. An import inside a function counts as well. gia is digested as a whole (`source_of_gia`);
    other installed packages count by their version.

    Args:
        callables: functions, instances with `__call__`, methods, or `functools.partial` of these.

    Raises ValueError for a callable whose module has no source file, such as one that was typed into a session.
    """
    found: dict[str, str] = {}
    for callable in callables:
        for name in _modules_of(callable):
            if not _is_gia(name):
                _follow(name, name.partition(".")[0], found)
    return dict(sorted(found.items()))


def named(measure: Callable[..., object]) -> str:
    """A function by module and name. Raises TypeError for a callable with settings, or that no worker can look up."""
    name = getattr(measure, "__qualname__", "<")
    if "<" in name or isinstance(measure, type) or getattr(measure, "__self__", None) is not None:
        raise TypeError(f"measure: expected a module-level function, got {measure!r}")
    return f"{measure.__module__}:{name}"


def _modules_of(value: object) -> Iterator[str]:
    """The modules of a callable, and of the callables that it holds."""
    if isinstance(value, functools.partial):
        yield from _modules_of([value.func, *value.args, *value.keywords.values()])
    elif isinstance(value, Mapping):
        yield from _modules_of(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _modules_of(inner)
    elif callable(value):
        own = value if hasattr(value, "__qualname__") else type(value)
        bound = getattr(value, "__self__", None)
        code = getattr(value, "__globals__", {})  # of a decorated function that carries the name of what it wraps
        names = (own.__module__, None if bound is None else type(bound).__module__, code.get("__name__"))
        yield from dict.fromkeys(name for name in names if name is not None)  # None: of a C library, such as torch's
        if (wrapped := getattr(value, "__wrapped__", None)) is not None:
            yield from _modules_of(wrapped)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _modules_of([getattr(value, field.name) for field in dataclasses.fields(value)])


def _follow(name: str, package: str, found: dict[str, str]) -> None:
    if _file_of(name) is None and getattr(sys.modules.get(name), "__spec__", None) is None:
        raise ValueError(f"callables: expected functions of a module that has a file, got one of {name!r}")
    waiting = [name]
    while waiting:
        name = waiting.pop()
        path = None if name in found or _is_gia(name) else _file_of(name)
        if path is None or (_is_installed(path) and (name.partition(".")[0] != package or package in _BY_VERSION)):
            continue
        found[name] = file_digest(path)
        parents = name.split(".")[:-1]
        waiting += [".".join(parents[:depth]) for depth in range(1, len(parents) + 1)]
        waiting += _imported(path, name)


def _imported(path: Path, module: str) -> Iterator[str]:
    """Names of modules that a file may import, submodules of what it imports from among them."""
    if path.suffix != ".py":
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _file_of(name: str) -> Path | None:
    """The file of a module, compiled or not, without importing anything; None where there is none."""
    if (module := sys.modules.get(name)) is not None:
        origin = getattr(module, "__file__", None)
    else:
        specification = _specification(name)
        origin = specification.origin if specification is not None and specification.has_location else None
    path = Path(origin) if origin else None
    return path if path is not None and path.is_file() else None


def _specification(name: str) -> ModuleSpec | None:
    """Where a module would come from. Unlike `importlib.util.find_spec` this does not import its parents."""
    parent, _, last = name.rpartition(".")
    if not last:
        return None
    folders: Sequence[str] | None = None
    if parent:
        module = sys.modules.get(parent)
        above = getattr(module, "__spec__", None) or _specification(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        folders = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        if (found := finder.find_spec(name, folders)) is not None:
            return found
    return None


def _is_gia(name: str) -> bool:
    return name == "gia" or name.startswith("gia.")


@functools.cache
def _installed() -> tuple[Path, ...]:
    standard = [sysconfig.get_path(which) for which in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path).resolve() for path in {*standard, *site.getsitepackages(), site.getusersitepackages()})


def _is_installed(path: Path) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in _installed())
