"""The key of a block covers the source of every callable that takes part and of what these import, and no other."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import gia
from gia.harness.blocks.sources import closure_of

SAME = "def same(value):\n    return value\n"

#: A package of a user: file -> source. Each part of a protocol is in its own file.
PACKAGE = {
    "__init__.py": "",
    "attack.py": "def attack(model, observation, *, generator):\n    from outsider.lazy import same\n    return same\n",
    "defense.py": "from outsider import helper\n\ndef defense(observation, *, generator):\n    return helper\n",
    "edit.py": "from . import relative\n\ndef edit(model, public, *, generator):\n    return relative\n",
    "equip.py": "def equip(*args, **options):\n    from .folder.tool import same\n    return same\n",
    "judge.py": "TABLE = 'table.toml'\n\ndef judge(images, *, generator, cache):\n"
    "    import outsider.compiled\n    return outsider.compiled\n",
    "control.py": "def control(protocol, block, *, cache):\n    return None\n",
    "schedule.py": "import outsider.late\n\ndef schedule(step, steps):\n    return outsider.late.same(1.0)\n",
    "measure.py": "def measure(protocol, block, *, cache):\n    return None\n",
    "lazy.py": SAME,
    "helper.py": "from gia.planted import defined\n\nfrom .deeper import same\n",
    "deeper.py": SAME,
    "relative.py": SAME,
    "folder/tool.py": SAME,  # a folder without __init__.py
    "table.toml": "limit = 1\n",
    "late/__init__.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
    "    from outsider.late.heavy import same\n    from outsider.late.unused import other\n\n"
    "def __getattr__(name):\n    raise RuntimeError('nothing is called here')\n",
    "late/heavy.py": SAME,
    "late/unused.py": SAME,
    "unrelated.py": "raise RuntimeError('nothing imports this')\n",
}
OUTSIDE = {"late/unused.py", "unrelated.py"}
COMPILED = "compiled.abi3.so"

#: Files of gia -> what they are to a block that runs gia's own attack by gia's own measure.
INSIDE = {
    "attacks/optimization/dlg.py": "the attack",
    "attacks/objectives.py": "what attacks import",
    "experiment/exchange.py": "what the measure imports",
    "experiment/__init__.py": "the package that names the measure",
    "data/bundled.py": "what reads the images",
    "models/large.py": "what is imported inside a function",
    "federated/validation/limits.toml": "a table that a module reads",
    "harness/blocks/executor.py": "what runs a block",
    "numerics/digests.py": "what draws its random numbers",
}

#: Files of gia that no block depends on.
REPORTS = (
    "pictures.py",
    "data/listing.py",
    "experiment/drawing.py",
    "harness/baseline/compare.py",
    "harness/decide/verdicts.py",
    "harness/plugin/run.py",
    "harness/report/rows.py",
)

#: Answers each line, a folder with the package, a dot for gia alone, or "claims:", "images:FOLDER", "installed:FOLDER",
#: with the key of a block. A child is forked for
#: each, which has torch and gia from its parent, and reads every source file for the first time.
SERVER = """
import json, os, sys
from functools import partial
from pathlib import Path

from gia.experiment import Attacker, Batch, Client, Protocol, Scoring, Victim, measure as gias
from gia.harness.blocks import distributions, store
from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment

def toy(protocol, measure, folder):
    return store.Store(Path(folder)).key(Experiment("toy", {"only": protocol}), Block("toy", 0, {}), measure)

def key_of_claims():
    from claims.equipment import decoder_of_public
    from claims.judges import perceptron
    from claims.test_detectability import isolated
    protocol = Protocol(
        victim=Victim(name="mlp"),
        batch=Batch(data="digits", image_size=8),
        attacker=Attacker(attack="dlg", equip=decoder_of_public),
        scoring=Scoring(judge=perceptron),
    )
    return toy(protocol, isolated, ".")

def key_of_images(root):
    protocol = Protocol(
        victim=Victim(name="mlp"), batch=Batch(data="imagenet", image_size=8), attacker=Attacker(attack="dlg")
    )
    return toy(protocol.placed(device="cpu", root=root), gias, root)

def key_of_installed(folder):
    sys.path.insert(0, folder)
    distributions._all.cache_clear()  # the parent has looked before the package was there
    sys.path_importer_cache.clear()
    import planted_measure
    protocol = Protocol(
        victim=Victim(name="mlp"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
    )
    return toy(protocol, planted_measure.measure, folder)

def key(folder):
    what, _, path = folder.partition(":")
    if what == "claims":
        return key_of_claims()
    if what == "images":
        return key_of_images(path)
    if what == "installed":
        return key_of_installed(path)
    protocol = Protocol(
        victim=Victim(name="mlp"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
    )
    measure = gias
    if folder != ".":
        sys.path.insert(0, folder)
        from outsider import control, defense, edit, equip, schedule, judge as judging
        from outsider.measure import measure
        attacker = Attacker(
            attack="outsider.attack:attack", equip=equip.equip, settings={"schedules": {"lr": [schedule.schedule]}}
        )
        protocol = Protocol(
            victim=Victim(name="mlp", edit=edit.edit),
            batch=Batch(data="digits", image_size=8),
            attacker=attacker,
            client=Client(defenses=(defense.defense,)),
            scoring=Scoring(judge=judging.judge, control=control.control),
        )
    return toy(protocol, measure, folder)

store.arithmetic()
import claims.equipment, claims.judges, claims.test_detectability
for name in ("torch", "torchvision", "scipy", "sklearn", "numpy"):
    distributions.behind(name)  # takes time, and no test changes these
print("ready", flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        print(json.dumps(key(line.rstrip())), flush=True)
        os._exit(0)
    if os.wait()[1] != 0:
        sys.exit("the child failed")
"""

CLAIMS = Path(gia.__file__).parents[1] / "claims"

Ask = Callable[[Path | str], dict[str, Any]]


@pytest.fixture(scope="module")
def copy_of_gia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of gia's folder that a test may edit, with a package `planted` whose own file holds a function."""
    folder = tmp_path_factory.mktemp("copy") / "gia"
    shutil.copytree(Path(gia.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CLAIMS, folder.parent / "claims", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "planted").mkdir()
    (folder / "planted" / "__init__.py").write_text(
        "from gia.planted.inner import same\n\ndef defined():\n    return same\n", encoding="utf-8"
    )
    (folder / "planted" / "inner.py").write_text(SAME, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def user_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the fresh processes have the packages of the user."""
    base = tmp_path_factory.mktemp("user")
    code = "import site; print(site.getusersitepackages())"
    environment = {**os.environ, "PYTHONUSERBASE": str(base)}
    return Path(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip())


@pytest.fixture(scope="module")
def key_in_a_fresh_process(
    tmp_path_factory: pytest.TempPathFactory, copy_of_gia: Path, user_site: Path
) -> Iterator[Ask]:
    """A function of a folder with the package: the key that a process gets which has not seen the package before."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    paths = [str(copy_of_gia.parent), str(user_site), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUSERBASE": str(user_site.parents[2]),
    }
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=copy_of_gia.parent,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        requests, answers = server.stdin, server.stdout
        assert answers.readline() == "ready\n", log.read_text(encoding="utf-8")

        def ask(folder: Path | str) -> dict[str, Any]:
            print(folder, file=requests, flush=True)
            answer = answers.readline()
            assert answer, log.read_text(encoding="utf-8")
            key: dict[str, Any] = json.loads(answer)
            return key

        yield ask
        requests.close()


def write_package(folder: Path, edited: str | None = None) -> Path:
    """The package in a folder, with another line at the end of one file."""
    for name, source in PACKAGE.items():
        path = folder / "outsider" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + ("# edited\n" if name == edited else ""), encoding="utf-8")
    (folder / "outsider" / COMPILED).write_bytes(b"edited" if edited == COMPILED else b"\x7fELF")
    return folder


@pytest.fixture(scope="module")
def key_before(key_in_a_fresh_process: Ask, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The key of the package as it is."""
    return key_in_a_fresh_process(write_package(tmp_path_factory.mktemp("before")))


@pytest.mark.parametrize("edited", sorted({*PACKAGE, COMPILED} - OUTSIDE))
def test_an_edit_of_a_file_that_takes_part_is_another_key(
    key_before: Mapping[str, Any], key_in_a_fresh_process: Ask, tmp_path: Path, edited: str
) -> None:
    """A stored block would be served for code that has changed: the worst error that a cache can make.

    The parts are attack, defense, edit, equip, judge, control, a callable in settings and the measure. The others are
    imported by these: in a function, by `from package import`, by a relative import, from a folder without an
    `__init__.py`, through another helper, as a compiled module, and as a name that a package loads at its first use. A
    table is named by the module that reads it.
    """
    key = key_in_a_fresh_process(write_package(tmp_path, edited))
    assert {name for name in key if key[name] != key_before[name]} == {"sources"}
    changed = {name for name, digest in key["sources"].items() if digest != key_before["sources"].get(name)}
    module = ".".join(["outsider", *edited.split(".")[0].split("/")]).removesuffix(".__init__")
    assert changed == {"outsider.judge:table.toml" if edited == "table.toml" else module}


@pytest.mark.parametrize("edited", sorted(OUTSIDE))
def test_an_edit_of_a_file_that_nothing_imports_leaves_the_key(
    key_before: Mapping[str, Any], key_in_a_fresh_process: Ask, tmp_path: Path, edited: str
) -> None:
    """Every edit of a user's package would cost all blocks."""
    assert key_in_a_fresh_process(write_package(tmp_path, edited)) == key_before


@pytest.fixture(scope="module")
def key_of_gia(key_in_a_fresh_process: Ask) -> Mapping[str, Any]:
    """The key of a block that runs gia's own code alone."""
    return key_in_a_fresh_process(".")


@contextmanager
def edited_in(folder: Path, files: Iterable[str]) -> Iterator[None]:
    """Another line at the end of some files."""
    before = {folder / file: (folder / file).read_text(encoding="utf-8") for file in files}
    for path, source in before.items():
        path.write_text(source + "# edited\n", encoding="utf-8")
    yield
    for path, source in before.items():
        path.write_text(source, encoding="utf-8")


@pytest.mark.parametrize("edited", INSIDE)
def test_an_edit_of_gia_s_own_code_that_takes_part_is_another_key(
    key_of_gia: Mapping[str, Any], key_in_a_fresh_process: Ask, copy_of_gia: Path, edited: str
) -> None:
    """A block would be served for another attack, measure, data set, net or executor than the one that is there."""
    with edited_in(copy_of_gia, [edited]):
        key = key_in_a_fresh_process(".")
    assert {name for name in key if key[name] != key_of_gia[name]} == {"sources"}
    (changed,) = (name for name, digest in key["sources"].items() if digest != key_of_gia["sources"].get(name))
    path = f"{changed.partition(':')[0].removeprefix('gia.').replace('.', '/')}"
    assert edited in (f"{path}.py", f"{path}/__init__.py", f"{path.rpartition('/')[0]}/{changed.rpartition(':')[2]}")


def test_what_a_package_of_gia_defines_in_its_own_file_brings_the_imports_of_that_file(
    key_before: Mapping[str, Any], key_in_a_fresh_process: Ask, copy_of_gia: Path, tmp_path: Path
) -> None:
    """A function such as `gia.data.load` would take part without what it calls."""
    with edited_in(copy_of_gia, ["planted/inner.py"]):
        key = key_in_a_fresh_process(write_package(tmp_path))
    assert {name for name in key if key[name] != key_before[name]} == {"sources"}
    assert key["sources"]["gia.planted.inner"] != key_before["sources"]["gia.planted.inner"]


def test_an_edit_of_a_report_a_verdict_or_a_picture_leaves_the_key(
    key_of_gia: Mapping[str, Any], key_in_a_fresh_process: Ask, copy_of_gia: Path
) -> None:
    """Days of blocks would be computed again for a word in a report."""
    with edited_in(copy_of_gia, REPORTS):
        assert key_in_a_fresh_process(".") == key_of_gia


@pytest.fixture(scope="module")
def key_of_claims(key_in_a_fresh_process: Ask) -> Mapping[str, Any]:
    """The key of a block of the claims, with a measure, an equipment and a judge of theirs."""
    return key_in_a_fresh_process("claims:")


@pytest.mark.parametrize("edited", ["test_detectability", "victims", "equipment", "judges"])
def test_an_edit_of_a_claim_s_measure_or_of_what_it_imports_is_another_key(
    key_of_claims: Mapping[str, Any], key_in_a_fresh_process: Ask, copy_of_gia: Path, edited: str
) -> None:
    """`before_classifier` of another test module was broken, and the row that depends on it still said "supported": 8
    blocks came from the store."""
    with edited_in(copy_of_gia.parent / "claims", [f"{edited}.py"]):
        key = key_in_a_fresh_process("claims:")
    assert {name for name in key if key[name] != key_of_claims[name]} == {"sources"}
    changed = {name for name, digest in key["sources"].items() if digest != key_of_claims["sources"].get(name)}
    assert changed == {f"claims.{edited}"}


def test_an_edit_of_another_claim_leaves_the_key(
    key_of_claims: Mapping[str, Any], key_in_a_fresh_process: Ask, copy_of_gia: Path
) -> None:
    """Every new claim would cost the blocks of all others."""
    with edited_in(copy_of_gia.parent / "claims", ["test_quality.py", "reported.py"]):
        assert key_in_a_fresh_process("claims:") == key_of_claims


def test_another_picture_in_a_folder_of_the_same_name_is_another_key(
    key_in_a_fresh_process: Ask, tmp_path: Path
) -> None:
    """Results of the old pictures would be served for the new ones."""
    picture = tmp_path / "imagenet" / "val" / "n01440764" / "0.png"
    picture.parent.mkdir(parents=True)
    keys = []
    for color in (10, 10, 11):
        Image.new("RGB", (8, 8), (color, 0, 0)).save(picture)
        keys.append(key_in_a_fresh_process(f"images:{tmp_path}"))
    assert keys[0] == keys[1]
    assert {name for name in keys[2] if keys[2][name] != keys[0][name]} == {"inputs"}


def test_an_installed_package_that_is_overlaid_in_place_is_another_key(
    key_in_a_fresh_process: Ask, tmp_path: Path, user_site: Path
) -> None:
    """A developer copies a new build over an installed package, whose version and list of files stay as they are."""
    (tmp_path / "planted_measure.py").write_text(
        "import overlaid\n\ndef measure(*args, **options):\n    return overlaid\n",
        encoding="utf-8",
    )
    facts = user_site / "overlaid-1.0.dist-info"
    facts.mkdir(parents=True)
    (user_site / "overlaid.py").write_text("NUMBER = 1\n", encoding="utf-8")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: overlaid\nVersion: 1.0\n", encoding="utf-8")
    digest = base64.urlsafe_b64encode(sha256(b"NUMBER = 1\n").digest()).decode().rstrip("=")
    (facts / "RECORD").write_text(
        f"overlaid.py,sha256={digest},11\noverlaid-1.0.dist-info/RECORD,,\n", encoding="utf-8"
    )
    before = key_in_a_fresh_process(f"installed:{tmp_path}")
    assert key_in_a_fresh_process(f"installed:{tmp_path}") == before
    assert "overlaid" in before["distributions"]
    (user_site / "overlaid.py").write_text("NUMBER = 2\n", encoding="utf-8")
    key = key_in_a_fresh_process(f"installed:{tmp_path}")
    assert {name for name in key if key[name] != before[name]} == {"distributions"}


def test_the_distributions_in_a_key_are_those_that_its_source_imports(
    key_of_gia: Mapping[str, Any], key_before: Mapping[str, Any]
) -> None:
    """A new pytest would cost every block, or another torch or image library none."""
    assert {"torch", "numpy", "pillow", "lpips", "h5py", "safetensors"} <= set(key_of_gia["distributions"])
    assert set(key_before["distributions"]) == {"numpy", "torch"}
    for key in (key_of_gia, key_before):
        assert not {"pytest", "hypothesis", "matplotlib", "nox", "ruff", "gia"} & set(key["distributions"])


def test_a_decorated_function_brings_the_file_of_its_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`functools.wraps` copies the module of what is wrapped, and the code that runs is in another file."""
    (tmp_path / "gia_decorator.py").write_text(
        "import functools\n\ndef logged(function):\n    @functools.wraps(function)\n"
        "    def run(*args):\n        return function(*args)\n    return run\n",
        encoding="utf-8",
    )
    (tmp_path / "gia_decorated.py").write_text("def attack(model):\n    return model\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import gia_decorated  # type: ignore[import-not-found]
    import gia_decorator  # type: ignore[import-not-found]

    closure = closure_of([gia_decorator.logged(gia_decorated.attack)])
    assert set(closure.modules) == {"gia_decorated", "gia_decorator"}


def test_functions_that_are_held_by_a_partial_or_a_list_take_part() -> None:
    """A defense that is an argument of another one would be edited without a new key."""
    assert __name__ in closure_of([functools.partial(max, [write_package])]).modules
    assert __name__ in closure_of([functools.partial(max, key=write_package)]).modules


def test_a_library_counts_as_a_distribution_and_has_no_source_in_the_key() -> None:
    """Torch would be read file by file for each block, or its compiled functions would be an error."""
    closure = closure_of([torch.clamp, functools.partial(torch.nn.functional.relu, inplace=False), max])
    assert closure.modules == {}
    assert list(closure.distributions) == ["torch"]


def test_a_callable_without_a_file_is_refused() -> None:
    """Code that was typed into a session changes without a trace."""
    space: dict[str, Any] = {"__name__": "typed"}
    exec("def attack(model):\n    return model\n", space)
    with pytest.raises(
        ValueError, match="callables: expected functions of a module that has a file, got one of 'typed'"
    ):
        closure_of([space["attack"]])
