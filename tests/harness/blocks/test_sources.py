"""The key of a block covers the source of every callable that takes part, and of what these import."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from gia.harness.blocks.sources import sources_of

SAME = "def same(value):\n    return value\n"

#: A package of a user: file -> source. Each part of a protocol is in its own file.
PACKAGE = {
    "__init__.py": "",
    "attack.py": "def attack(model, observation, *, generator):\n    from outsider.lazy import same\n    return same\n",
    "defense.py": "from outsider import helper\n\ndef defense(observation, *, generator):\n    return helper\n",
    "edit.py": "from . import relative\n\ndef edit(model, public, *, generator):\n    return relative\n",
    "equip.py": "def equip(*args, **options):\n    from .folder.tool import same\n    return same\n",
    "judge.py": "def judge(images, *, generator, cache):\n    import outsider.compiled\n    return outsider.compiled\n",
    "control.py": "def control(protocol, block, *, cache):\n    return None\n",
    "schedule.py": "def schedule(step, steps):\n    return 1.0\n",
    "measure.py": "def measure(protocol, block, *, cache):\n    return None\n",
    "lazy.py": SAME,
    "helper.py": "from .deeper import same\n",
    "deeper.py": SAME,
    "relative.py": SAME,
    "folder/tool.py": SAME,  # a folder without __init__.py
    "unrelated.py": "raise RuntimeError('nothing imports this')\n",
}
COMPILED = "compiled.abi3.so"

#: Answers each line, a folder with the package, with the key of a block. A child is forked for each, which has torch
#: and gia from its parent, and imports the package for the first time.
SERVER = """
import json, os, sys
from functools import partial
from pathlib import Path

from gia.experiment import Attacker, Batch, Client, Protocol, Scoring, Victim
from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.store import Store

def key(folder):
    sys.path.insert(0, folder)
    from outsider import control, defense, edit, equip, schedule, judge as judging
    from outsider.measure import measure
    protocol = Protocol(
        victim=Victim(name="mlp", edit=edit.edit),
        batch=Batch(data="digits", image_size=8),
        attacker=Attacker(
            attack="outsider.attack:attack", equip=equip.equip, settings={"schedules": {"lr": [schedule.schedule]}}
        ),
        client=Client(defenses=(defense.defense,)),
        scoring=Scoring(judge=judging.judge, control=control.control),
    )
    return Store(Path(folder)).key(Experiment("toy", {"only": protocol}), Block("toy", 0, {}), measure)

Store(Path()).key(Experiment("toy", {"only": Protocol(
    victim=Victim(name="mlp"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg"))}),
    Block("toy", 0, {}), Store.load)
print("ready", flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        print(json.dumps(key(line.rstrip())), flush=True)
        os._exit(0)
    if os.wait()[1] != 0:
        sys.exit("the child failed")
"""

Ask = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def key_in_a_fresh_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """A function of a folder with the package: the key that a process gets which has not seen the package before."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        requests, answers = server.stdin, server.stdout
        assert answers.readline() == "ready\n", log.read_text()

        def ask(folder: Path) -> dict[str, Any]:
            print(folder, file=requests, flush=True)
            answer = answers.readline()
            assert answer, log.read_text()
            key: dict[str, Any] = json.loads(answer)
            return key

        yield ask
        requests.close()


def write_package(folder: Path, edited: str | None = None) -> Path:
    """The package in a folder, with another line at the end of one file."""
    for name, source in PACKAGE.items():
        path = folder / "outsider" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + ("# edited\n" if name == edited else ""))
    (folder / "outsider" / COMPILED).write_bytes(b"edited" if edited == COMPILED else b"\x7fELF")
    return folder


@pytest.fixture(scope="module")
def key_before(key_in_a_fresh_process: Ask, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The key of the package as it is."""
    return key_in_a_fresh_process(write_package(tmp_path_factory.mktemp("before")))


@pytest.mark.parametrize("edited", sorted({*PACKAGE, COMPILED} - {"unrelated.py"}))
def test_an_edit_of_a_file_that_takes_part_is_another_key(
    key_before: Mapping[str, Any], key_in_a_fresh_process: Ask, tmp_path: Path, edited: str
) -> None:
    """A stored block would be served for code that has changed: the worst error that a cache can make.

    The parts are attack, defense, edit, equip, judge, control, a callable in settings and the measure. The others are
    imported by these: in a function, by `from package import`, by a relative import, from a folder without an
    `__init__.py`, through another helper, and as a compiled module.
    """
    key = key_in_a_fresh_process(write_package(tmp_path, edited))
    assert {name for name in key if key[name] != key_before[name]} == {"sources"}
    changed = {name for name, digest in key["sources"].items() if digest != key_before["sources"].get(name)}
    module = ".".join(["outsider", *edited.split(".")[0].split("/")]).removesuffix(".__init__")
    assert changed == {module}


def test_an_edit_of_a_file_that_nothing_imports_leaves_the_key(
    key_before: Mapping[str, Any], key_in_a_fresh_process: Ask, tmp_path: Path
) -> None:
    """Every edit of a user's package would cost all blocks."""
    assert key_in_a_fresh_process(write_package(tmp_path, "unrelated.py")) == key_before


def test_a_decorated_function_brings_the_file_of_its_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`functools.wraps` copies the module of what is wrapped, and the code that runs is in another file."""
    (tmp_path / "gia_decorator.py").write_text(
        "import functools\n\ndef logged(function):\n    @functools.wraps(function)\n"
        "    def run(*args):\n        return function(*args)\n    return run\n"
    )
    (tmp_path / "gia_decorated.py").write_text("def attack(model):\n    return model\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gia_decorated  # type: ignore[import-not-found]
    import gia_decorator  # type: ignore[import-not-found]

    assert set(sources_of([gia_decorator.logged(gia_decorated.attack)])) == {"gia_decorated", "gia_decorator"}


def test_functions_that_are_held_by_a_partial_or_a_list_take_part() -> None:
    """A defense that is an argument of another one would be edited without a new key."""
    assert __name__ in sources_of([functools.partial(max, [write_package])])
    assert __name__ in sources_of([functools.partial(max, key=write_package)])


def test_what_counts_by_its_version_has_no_source_in_the_key() -> None:
    """Torch would be read file by file for each block, or its compiled functions would be an error."""
    assert sources_of([torch.clamp, functools.partial(torch.nn.functional.relu, inplace=False), max]) == {}


def test_a_callable_without_a_file_is_refused() -> None:
    """Code that was typed into a session changes without a trace."""
    space: dict[str, Any] = {"__name__": "typed"}
    exec("def attack(model):\n    return model\n", space)
    with pytest.raises(
        ValueError, match="callables: expected functions of a module that has a file, got one of 'typed'"
    ):
        sources_of([space["attack"]])
