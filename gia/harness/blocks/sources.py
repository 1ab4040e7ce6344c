"""What takes part in a block: the source behind its functions, and the distributions which that source imports.

The import closure of a function is its module, the packages around it, and whatever these import, directly or not, also
inside functions. Imports that only a type checker sees do not count. Followed are gia, the function's own package and
all modules that are not installed, such as claims and tests; other installed packages count as distributions.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

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


@functools.cache
def _closure(names: frozenset[str]) -> Closure:
    modules: dict[str, str] = {}
    tops: set[str] = set()
    for name in names:
        found, outside = _followed(name)
        modules |= found
        tops |= outside
    distributions = {name: content for top in tops for name, content in _distributions_of(top).items()}
    return Closure(dict(sorted(modules.items())), dict(sorted(distributions.items())))


@functools.cache
def _followed(name: str) -> tuple[Mapping[str, str], frozenset[str]]:
    """Digests of the modules that importing this one brings, and the top-level names of installed packages."""
    if _file_of(name) is None and getattr(sys.modules.get(name), "__spec__", None) is None:
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
        if (path := _file_of(name)) is None:
            continue
        found[name] = _digest(path)
        parent = name.rpartition(".")[0]
        if parent:
            waiting.append((parent, _NOTHING if top == "gia" else None))
        names = _names_of(name)
        found |= {f"{name}:{file}": _digest(path.parent / file) for file in names.files}
        known: list[_Import] = []
        if taken is not None:
            known += [*names.bound.get(taken, ()), *names.lazy.get(taken, ())]
            known += [] if _file_of(f"{name}.{taken}") is None else [(f"{name}.{taken}", None)]
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
    path = _file_of(module)
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
                if not checked_only and _is_followed(top):
                    whole[name] = alias.name if alias.asname else top
            else:
                name, origin = alias.asname or alias.name, _origin(node, alias.name, package)
            names = lazy if checked_only else bound
            names[name] = (*names.get(name, ()), origin)
            if not checked_only:
                imported.append(origin)
    imported += _attributes(tree, whole)
    strings = {match.decode() for match in _TABLE.findall(source)}
    files = tuple(sorted(file for file in strings if (path.parent / file).is_file()))
    return _Names(tuple(dict.fromkeys(imported)), bound, lazy, files)


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


def _is_followed(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "gia" or not (top in sys.stdlib_module_names or _counts_as_distribution(top))


@functools.cache
def _counts_as_distribution(top: str) -> bool:
    path = _file_of(top)
    return path is not None and any(path.resolve().is_relative_to(folder) for folder in _installed())


@functools.cache
def _digest(path: Path) -> str:
    return file_digest(path)


@functools.cache
def _distributions_of(top: str) -> Mapping[str, str]:
    """Distribution -> its version and content, of all that install files of this top-level module."""
    found: dict[str, str] = {}
    for distribution, record in _records():
        if record is None:
            if top in (distribution.read_text("top_level.txt") or "").split():
                found[distribution.name] = distribution.version
        elif record.startswith((f"{top}/", f"{top}.")) or f"\n{top}/" in record or f"\n{top}." in record:
            found[distribution.name] = f"{distribution.version} {_content(record)}"
    return found


def _content(record: str) -> str:
    """A digest of the package's own files: neither launchers, which hold the environment's path, nor pip's notes."""
    lines = [
        line
        for line in record.splitlines()
        if ",sha256=" in line and not line.startswith(("..", "/")) and ".dist-info/" not in line
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


@functools.cache
def _records() -> tuple[tuple[importlib.metadata.Distribution, str | None], ...]:
    return tuple((distribution, distribution.read_text("RECORD")) for distribution in _distributions())


@functools.cache
def packages() -> tuple[str, ...]:
    """NAME==VERSION of everything that is installed. It is recorded beside a result, and no key depends on it."""
    return tuple(sorted({f"{distribution.name}=={distribution.version}" for distribution in _distributions()}))


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    # Setuptools, once it is imported, puts the packages that it brings for itself on the path.
    path = [folder for folder in sys.path if Path(folder).name != "_vendor"]
    yield from importlib.metadata.distributions(path=path)


@functools.cache
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


@functools.cache
def _installed() -> tuple[Path, ...]:
    standard = [sysconfig.get_path(which) for which in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path).resolve() for path in {*standard, *site.getsitepackages(), site.getusersitepackages()})
