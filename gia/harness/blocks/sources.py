"""What takes part in a block: the source behind its functions, and the distributions which that source imports.

The import closure of a function is its module, the packages around it, and whatever these import, directly or not, also
inside functions. Imports that only a type checker sees do not count. Followed are gia, the function's own package and
all modules that are not installed, such as claims and tests; other installed packages count as distributions.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from gia.harness.blocks import distributions
from gia.numerics import file_digest

#: Large libraries whose functions may stand in settings: they count as distributions even where a callable is theirs.
_LIBRARIES = frozenset({"torch", "torchvision", "numpy", "scipy", "sklearn", "skimage", "lpips"})


@dataclasses.dataclass(frozen=True)
class Closure:
    """Everything that some functions import.

    Attributes:
        modules: module -> digest of its file.
        distributions: distribution -> its version, and a digest of the files that it installed.
    """

    modules: Mapping[str, str]
    distributions: Mapping[str, str]


def closure_of(callables: Iterable[Callable[..., object]], *, modules: Sequence[str] = ()) -> Closure:
    """The import closure of functions and of further modules. Each file is read once in a process.

    Args:
        callables: functions, instances with `__call__`, methods, or `functools.partial` of these.
        modules: names of modules.

    Raises ValueError for a callable whose module has no source file, such as one that was typed into a session.
    """
    names = {name for callable in callables for name in _modules_of(callable)}
    return _closure(frozenset(names | set(modules)))


class EditedError(RuntimeError):
    """Something that takes part was changed while a run computes, so that its numbers belong to no one state of it."""

    def __init__(self, changed: Iterable[str | Path]) -> None:
        names = ", ".join(str(name) for name in changed)
        super().__init__(
            f"sources: expected what takes part as it was when the run began, got {names} edited while the run "
            "computes; start again"
        )


def remember_loaded() -> None:
    """Read the files of all modules that this process has imported, except for installed packages.

    A process imports a module long before a key holds its digest, and a worker may have it from its parent's earlier
    work. Every later digest in this process is that of this moment, and `refuse_edited` compares with it.
    """
    for name in list(sys.modules):
        path = file_of(name) if is_followed(name) else None
        if path is not None:
            _first_seen(path)
            for file in _tables(path, path.read_bytes()) if path.suffix == ".py" else ():
                _first_seen(path.parent / file)


def refuse_edited(modules: Iterable[str]) -> None:
    """Raise EditedError where a file was written since this process first read it.

    Args:
        modules: as in `Closure.modules`, names of modules and tables.
    """
    paths = dict.fromkeys(path_of(name) for name in modules)
    if edited := [path for path in paths if not path.is_file() or _now(path) != _first_seen(path)]:
        raise EditedError(edited)


def refuse_changed(installed: Iterable[str]) -> None:
    """Raise EditedError where an installed distribution has other files than when this process first looked."""
    if changed := distributions.changed(installed):
        raise EditedError(changed)


def named(measure: Callable[..., object]) -> str:
    """A function by module and name. Raises TypeError for a callable with settings, or that no worker can look up."""
    name = getattr(measure, "__qualname__", "<")
    if "<" in name or isinstance(measure, type) or getattr(measure, "__self__", None) is not None:
        raise TypeError(f"measure: expected a module-level function, got {measure!r}")
    return f"{measure.__module__}:{name}"


def path_of(name: str) -> Path:
    """The file of a module, or of a table that stands in `Closure.modules` as MODULE:FILE."""
    module, _, table = name.partition(":")
    path = file_of(module)
    if path is None:
        raise ValueError(f"modules: expected modules with a file, got {module!r}")
    return path.parent / table if table else path


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


@functools.cache
def _closure(names: frozenset[str]) -> Closure:
    modules: dict[str, str] = {}
    tops: set[str] = set()
    for name in names:
        found, outside = _followed(name)
        modules |= found
        tops |= outside
    behind = {name: content for top in tops for name, content in distributions.behind(top).items()}
    return Closure(dict(sorted(modules.items())), dict(sorted(behind.items())))


@functools.cache
def _followed(name: str) -> tuple[Mapping[str, str], frozenset[str]]:
    """Digests of the modules that importing this one brings, and the top-level names of installed packages."""
    if file_of(name) is None and getattr(sys.modules.get(name), "__spec__", None) is None:
        raise ValueError(f"callables: expected functions of a module that has a file, got one of {name!r}")
    own = {"gia", name.partition(".")[0]} - _LIBRARIES
    found: dict[str, str] = {}
    outside: set[str] = set()
    waiting: list[_Import] = [(name, None)]
    seen: set[_Import] = set()
    while waiting:
        name, taken = step = waiting.pop()
        top = name.partition(".")[0]
        if step in seen or top in sys.stdlib_module_names:
            continue
        seen.add(step)
        if top not in own and _counts_as_distribution(top):
            outside.add(top)
            continue
        if (path := file_of(name)) is None:
            continue
        found[name] = first_digest(path)
        parent = name.rpartition(".")[0]
        if parent:
            waiting.append((parent, _NOTHING if top == "gia" else None))
        names = _names_of(name)
        found |= {f"{name}:{file}": first_digest(path.parent / file) for file in names.files}
        known: list[_Import] = []
        if taken is not None:
            known += [*names.bound.get(taken, ()), *names.lazy.get(taken, ())]
            known += [] if file_of(f"{name}.{taken}") is None else [(f"{name}.{taken}", None)]
            waiting += known
        if not (top == "gia" and path.name == "__init__.py" and (known or taken == _NOTHING)):
            waiting += names.imported
    return found, frozenset(outside)


#: (module, name that is taken from it; None for the module as a whole).
_Import = tuple[str, str | None]

#: Taken from a package of gia by whoever imports a module inside it: nothing but the package's own file.
_NOTHING = ""


@dataclasses.dataclass(frozen=True)
class _Names:
    """What a file imports.

    Attributes:
        imported: everything that importing the file imports, or calling its functions.
        bound: name -> what it is imported from. gia's packages do nothing but give names to their modules' contents, so
            that who takes one name depends on its module alone; elsewhere a package's imports count as a whole.
        lazy: the same of imports that only a type checker sees. A package that loads its names at their first use
            (PEP 562) lists them in this way; they count for whoever takes them.
        files: the TOML files of its folder that it names. Others are left out, since code may write them.
    """

    imported: tuple[_Import, ...] = ()
    bound: Mapping[str, tuple[_Import, ...]] = dataclasses.field(default_factory=dict)
    lazy: Mapping[str, tuple[_Import, ...]] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = ()


@functools.cache
def _names_of(module: str) -> _Names:
    path = file_of(module)
    if path is None or path.suffix != ".py":
        return _Names()
    source = path.read_bytes()
    tree = ast.parse(source)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    bound: dict[str, tuple[_Import, ...]] = {}
    lazy: dict[str, tuple[_Import, ...]] = {}
    imported: list[_Import] = []
    whole: dict[str, str] = {}
    origin: _Import
    for node, checked_only in _imports(tree.body):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            if isinstance(node, ast.Import):
                name, origin = alias.asname or top, (alias.name, None)
                if not checked_only and is_followed(top):
                    whole[name] = alias.name if alias.asname else top
            else:
                name, origin = alias.asname or alias.name, _origin(node, alias.name, package)
            names = lazy if checked_only else bound
            names[name] = (*names.get(name, ()), origin)
            if not checked_only:
                imported.append(origin)
    imported += _attributes(tree, whole)
    return _Names(tuple(dict.fromkeys(imported)), bound, lazy, _tables(path, source))


def _tables(path: Path, source: bytes) -> tuple[str, ...]:
    strings = {match.decode() for match in _TABLE.findall(source)}
    return tuple(sorted(file for file in strings if (path.parent / file).is_file()))


_TABLE = re.compile(rb"""["']([\w-][\w./-]*\.toml)["']""")


def _origin(node: ast.ImportFrom, name: str, package: str) -> _Import:
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    return base, None if name == "*" else name


def _imports(
    body: Sequence[ast.stmt], checked_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement, and whether only a type checker sees it."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, checked_only
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _imports(node.body, True)
            yield from _imports(node.orelse, checked_only)
        else:
            for inner in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(node, inner, ()), checked_only)
            for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                yield from _imports(part.body, checked_only)


def _is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def _attributes(tree: ast.Module, whole: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """("gia", "attacks") for each `gia.attacks` in a file that imports gia: a package may load it at this moment."""
    for node in ast.walk(tree) if whole else ():
        path: list[str] = []
        end: ast.AST = node
        while isinstance(end, ast.Attribute):
            path.insert(0, end.attr)
            end = end.value
        if path and isinstance(end, ast.Name) and end.id in whole:
            yield ".".join([whole[end.id], *path[:-1]]), path[-1]


def is_followed(module: str) -> bool:
    """Whether a module counts by its source: it is gia's, or it is not installed."""
    top = module.partition(".")[0]
    return top == "gia" or not (top in sys.stdlib_module_names or _counts_as_distribution(top))


@functools.cache
def _counts_as_distribution(top: str) -> bool:
    path = file_of(top)
    return path is not None and is_installed(path)


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    return any(path.resolve().is_relative_to(folder) for folder in _installed())


def first_digest(path: Path) -> str:
    """The digest of a file as this process first read it."""
    return _first_seen(path)[0]


@functools.cache
def _first_seen(path: Path) -> tuple[str, int]:
    """What `_now` said when this process first read the file."""
    return _now(path)


def _now(path: Path) -> tuple[str, int]:
    """The digest of a file, and when it was last written: a file that was changed and changed back was in use."""
    written = path.stat().st_mtime_ns
    return file_digest(path), written


@functools.cache
def file_of(name: str) -> Path | None:
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


@functools.cache
def _installed() -> tuple[Path, ...]:
    standard = [sysconfig.get_path(which) for which in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path).resolve() for path in {*standard, *site.getsitepackages(), site.getusersitepackages()})
