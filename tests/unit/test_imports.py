"""The direction of imports: which room of gia may know which, no circle, and no test tool outside the harness.

The rules hold for every import statement of a file, inside functions and under TYPE_CHECKING too; not for doctests.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import gia

ROOT = Path(gia.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

TEST_TOOLS = {"_pytest", "hypothesis", "pytest", "pytest_benchmark", "xdist"}

#: Files outside the harness that may import them: a separate plugin, which its package does not import.
PLUGINS = {"gia.audit.plugin"}

#: Room -> the rooms that none of its files may import. Arrows point down the flow of data.
FORBIDDEN = {
    "attacks": {"audit", "data", "defenses", "experiment", "metrics", "theory"},
    "data": {"attacks", "audit", "defenses", "experiment", "federated", "metrics", "models"},
    "defenses": {"attacks", "audit", "experiment", "metrics", "theory"},
    "federated": {"attacks", "audit", "defenses", "experiment", "metrics"},
    "metrics": {"attacks", "audit", "defenses", "experiment", "federated"},
    "experiment": {"audit"},
    "models": {"attacks", "audit", "defenses", "experiment", "federated", "metrics"},
    "theory": {"attacks", "audit", "defenses", "experiment"},
}

#: Room -> the only other rooms that its files may import.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "harness": {"numerics"},
    "integrations": {"errors", "federated"},
    "numerics": {"errors", "files"},
    "pictures": {"errors", "files"},
}

#: What checks a model on the client's side -> what it must not know: whatever it is to detect.
CLIENT_SIDE = {"gia.federated.validation", *(f"gia.federated.{name}" for name in ("calls", "per_example", "recorder"))}
DETECTED = ("gia.attacks", "gia.federated.server")


def module_of(path: Path, root: Path) -> str:
    """The dotted name of a file: that of the package for an `__init__`."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, names that are taken from it) of every import statement of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: expected absolute imports, got line {node.lineno}"
            assert not node.level, f"{path}: expected absolute imports, got line {node.lineno}"
            yield node.module, tuple(alias.name for alias in node.names)


def named(path: Path) -> set[str]:
    """Everything that the import statements of a file may mean: modules, and names in them."""
    return {full for module, names in imports(path) for full in (module, *(f"{module}.{name}" for name in names))}


def graph(root: Path) -> dict[str, set[str]]:
    """Module of the package at `root` -> the modules of the package whose names its file takes.

    `from package import name` takes from the file of `package.name` where that is a module, else from the package's
    `__init__`. Where the `__init__` gives a function the name of a module, it takes from both.
    """
    files = {module_of(path, root): path for path in sorted(root.rglob("*.py"))}
    bound = {module: set(_bound(path, module)) for module, path in files.items() if path.stem == "__init__"}
    arrows: dict[str, set[str]] = {module: set() for module in files}
    for module, path in files.items():
        for source, names in imports(path):
            inner = {f"{source}.{name}" for name in names if f"{source}.{name}" in files}
            arrows[module] |= inner
            if source in files and (len(inner) < len(names) or not names or bound.get(source, set()) & set(names)):
                arrows[module].add(source)
    return arrows


def _bound(path: Path, module: str) -> Iterator[str]:
    """The names that an `__init__` takes out of modules, instead of the modules themselves."""
    yield from (name for source, names in imports(path) if source != module for name in names)


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle of the graph, its first member again at the end; empty if there is none."""
    finished: set[str] = set()

    def search(way: list[str]) -> list[str]:
        for following in sorted(arrows[way[-1]]):
            if following in way:
                return [*way[way.index(following) :], following]
            if following not in finished and (closed := search([*way, following])):
                return closed
        finished.add(way[-1])
        return []

    return next((closed for start in sorted(arrows) if start not in finished and (closed := search([start]))), [])


def room_of(module: str) -> str:
    """The first part of a module's name below gia; the empty string for gia itself."""
    return module.split(".")[1] if "." in module else ""


def forbidden(path: Path, root: Path) -> list[str]:
    """What a file imports against the rules."""
    module = module_of(path, root)
    room, wrong = room_of(module), []
    client_side = any(f"{module}.".startswith(f"{each}.") for each in CLIENT_SIDE)
    for name in sorted(named(path)):
        top, other = name.partition(".")[0], room_of(name) if name.startswith("gia.") else None
        tools = top in TEST_TOOLS and module not in PLUGINS
        outside = top in {"claims", "tests"} or (room != "harness" and (tools or other == "harness"))
        upwards = other in FORBIDDEN.get(room, ())
        elsewhere = room in ALLOWED and other is not None and other not in {room, *ALLOWED[room]}
        spying = client_side and any(f"{name}.".startswith(f"{detected}.") for detected in DETECTED)
        if outside or upwards or elsewhere or spying:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down_the_flow(path: Path) -> None:
    """If it fails, an attack can reach data or scores, a metric knows of attacks, or the library needs pytest."""
    wrong = forbidden(path, ROOT)
    assert not wrong, f"{path.relative_to(ROOT)}: expected no import of {', '.join(wrong)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """If it fails, it depends on who is imported first whether an import works, and no module can be read alone."""
    closed = circle(graph(ROOT))
    assert not closed, " -> ".join(closed)


def test_no_room_of_the_harness_imports_itself_by_way_of_others() -> None:
    """If it fails, a room of the harness can no longer be understood without the rooms that use it."""
    harness = {module: arrows for module, arrows in graph(ROOT).items() if module.startswith("gia.harness.")}
    rooms: dict[str, set[str]] = {module.split(".")[2]: set() for module in harness}
    for module, arrows in harness.items():
        own = module.split(".")[2]
        rooms[own] |= {each.split(".")[2] for each in arrows if each.startswith("gia.harness.")} - {own}
    closed = circle(rooms)
    assert not closed, " -> ".join(closed)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "import gia.b", "b": "def late():\n    from gia.c import d", "c": "from gia.a import e"}, "abca"),
        ({"a": "if TYPE_CHECKING:\n    from gia import b", "b": "from gia.a import c"}, "aba"),
        ({"a": "from gia import b", "b": "from gia.p import c", "p/__init__": "from gia.a import d"}, "abpa"),
        ({"p/__init__": "from gia.p.run import run", "p/run": "", "p/b": "from gia.p import run"}, ""),
        (
            {"p/__init__": "from gia.p.run import run", "p/run": "from gia.b import c", "b": "from gia.p import run"},
            "b",
        ),
        ({"p/__init__": "from gia.p import a", "p/a": "from gia.p import b", "p/b": "import gia"}, ""),
    ],
    ids=["in a function", "for types", "by a package", "a name", "a name that is a module's too", "a module"],
)
def test_a_planted_circle_is_found_and_printed(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    """If it fails, a circle is overlooked, or a package that lists its modules is taken for one."""
    (tmp_path / "gia" / "p").mkdir(parents=True)
    for name, text in {"__init__": "", **files}.items():
        (tmp_path / "gia" / f"{name}.py").write_text(text, encoding="utf-8")
    closed = circle(graph(tmp_path / "gia"))
    letters = [module.rpartition(".")[2] for module in closed]
    assert letters == (["b", "p", "run", "b"] if expected == "b" else list(expected))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("attacks/own.py", "from gia import data"),
        ("attacks/own.py", "from gia.metrics.pixels import psnr"),
        ("attacks/own.py", "import gia.experiment"),
        ("audit/own.py", "import pytest"),
        ("audit/plugin.py", "from gia.harness.blocks.block import Block"),
        ("data/own.py", "from gia.federated import Client"),
        ("errors.py", "import gia.numerics"),
        ("experiment/own.py", "from gia.harness.blocks.block import Block"),
        ("experiment/own.py", "import pytest"),
        ("experiment/own.py", "from gia.audit import audit"),
        ("federated/own.py", "from gia.attacks.labels import restore"),
        ("federated/calls.py", "from gia.federated import server"),
        ("federated/per_example.py", "from gia.federated.server import classifier"),
        ("federated/recorder.py", "from gia.federated.server import classifier"),
        ("federated/validation/own.py", "from gia.federated import server"),
        ("harness/blocks/own.py", "from gia import experiment"),
        ("harness/own.py", "from gia.errors import expected_one_of"),
        ("integrations/own.py", "from gia.attacks import linear_layer"),
        ("metrics/own.py", "from gia import attacks"),
        ("models/own.py", "from gia.attacks import CARDS"),
        ("numerics.py", "from gia.data import load"),
        ("pictures.py", "def late():\n    from hypothesis import given"),
        ("theory/own.py", "from claims.cells import CELLS"),
        ("theory/own.py", "from tests.conftest import settings"),
    ],
)
def test_a_planted_arrow_against_the_rules_is_found(file: str, line: str, tmp_path: Path) -> None:
    """If it fails, the rule about this import is not held."""
    path = tmp_path / "gia" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line, encoding="utf-8")
    assert forbidden(path, tmp_path / "gia")
    path.write_text("import math\nfrom pathlib import Path\nimport torch")
    assert not forbidden(path, tmp_path / "gia")


def test_an_experiment_is_measured_where_no_test_tool_is_installed() -> None:
    """In a fresh process where they cannot be imported. If it fails, users of gia.experiment need them."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(TEST_TOOLS)}))
import torch
from gia.experiment import Attacker, Batch, Protocol, Scoring, Victim, measure

class Block:
    setting = {{}}
    def generator(self, *purpose):
        return torch.Generator().manual_seed(0)

protocol = Protocol(
    victim=Victim(name="mlp", options={{"width": 8}}),
    batch=Batch(data="digits", image_size=8, images=1),
    attacker=Attacker(attack="linear_layer"),
    scoring=Scoring(metrics=("psnr",)),
)
assert measure(protocol, Block()).values["psnr"] > 60
assert not any(name.partition(".")[0] == "gia" and "harness" in name for name in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)
