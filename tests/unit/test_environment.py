"""Where the packages come from: locked by hash, on the interpreter that asks, and as docs and CI say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
WORKFLOWS = [ROOT / ".ci" / "run", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]


@pytest.fixture(scope="module")
def noxfile() -> ModuleType:
    """noxfile.py as a module."""
    spec = importlib.util.spec_from_file_location("gia_noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(name: str) -> dict[str, set[str]]:
    """Package -> its versions in a lock file (one for each marker), after checking that each entry has a hash."""
    versions: dict[str, set[str]] = {}
    for entry in (LOCK / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=sha256:", entry.strip())
        assert hashes, requirement
        assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes), requirement
        match = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)( ; .+)?", requirement)
        assert match is not None, requirement
        versions.setdefault(match[1], set()).add(match[2])
    return versions


#: Those that the claims and the tests need.
EXTRAS = Requirement(PROJECT["project"]["optional-dependencies"]["all"][0]).extras


def canonical(name: str) -> str:
    """A package's name as lock files spell it."""
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", ["environment.txt", "carriers.txt", "nox.txt"])
def test_a_lock_file_pins_every_package_by_hash_and_names_no_registry(name):
    """If it fails, an installation takes a file that nobody has seen, or works in one network only."""
    assert locked(name)
    assert "://" not in (LOCK / name).read_text(encoding="utf-8")


def test_the_lock_has_all_that_the_project_asks_for(noxfile):
    """If it fails, `.venv` lacks a package, or has one in a version that pyproject.toml excludes."""
    versions, project = {**locked("nox.txt"), **locked("environment.txt")}, PROJECT["project"]
    groups = [*(project["optional-dependencies"][extra] for extra in EXTRAS), *PROJECT["dependency-groups"].values()]
    asked = [*project["dependencies"], *(each for group in groups for each in group if isinstance(each, str))]
    for requirement in map(Requirement, asked):
        if requirement.name != "gia":
            assert versions[canonical(requirement.name)], requirement
            assert all(each in requirement.specifier for each in versions[canonical(requirement.name)]), requirement
    assert versions["torch"] == {noxfile.TORCH_HERE}
    assert versions["torchvision"] == {noxfile.TORCH[noxfile.TORCH_HERE]}
    assert {"nox", "pip", "uv"} <= set(locked("nox.txt"))
    assert "uv" not in locked("environment.txt")


class Session:
    """Records what a session of noxfile.py installs and runs."""

    posargs: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, []

    def create_tmp(self) -> str:
        return str(self.folder)

    def install(self, *arguments: str) -> None:
        self.commands.append(("install", *arguments))

    def run(self, *arguments: str, **_: object) -> None:
        self.commands.append(arguments)

    def run_install(self, *arguments: str) -> None:
        self.commands.append(("install", *arguments))


def test_an_environment_of_the_matrix_has_its_carriers_once_it_is_installed(noxfile, tmp_path):
    """If it fails, `nox --install-only` leaves an environment without images, where most baselines fail."""
    session = Session(tmp_path)
    noxfile.install(session, "torch==2.6.0")
    assert all(command[0] == "install" for command in session.commands)
    assert session.commands[-1][-len(noxfile.CARRIERS) :] == noxfile.CARRIERS


def grouped(name: str) -> set[str]:
    """The packages of a dependency group, those of the groups in it too."""
    members = PROJECT["dependency-groups"][name]
    inner = [grouped(each["include-group"]) for each in members if not isinstance(each, str)]
    return {Requirement(each).name for each in members if isinstance(each, str)}.union(*inner)


def test_the_matrix_installs_the_tools_that_tests_start():
    """If it fails, tests pass in `.venv`, which has all tools, and not in an environment of the matrix."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    started = {name for text in texts for name in re.findall(r'"-m", "(\w+)', text)}
    assert {"mypy", "nox"} <= started
    own = {"gia", "claims", "tests", "docs", "pip", "pytest", "venv"} | sys.stdlib_module_names
    others = {name for name in started - own if importlib.util.find_spec(name) is not None}
    assert others <= grouped("test")


def test_an_extra_is_locked_or_installed_by_the_session_that_tests_it(noxfile, tmp_path):
    """Flower asks for one minor release of uv, and for a packaging older than that of nox. If it fails, the lock holds
    the packages of every claim back to those releases, or no session runs the tests of an integration."""
    session = Session(tmp_path)
    noxfile.lock(session)
    output = ("--output-file", str(noxfile.LOCK / "environment.txt"))
    (environment,) = (command for command in session.commands if output in pairwise(command))
    assert "--all-extras" not in environment
    assert environment[environment.index("--extra") + 1] == "all"
    session.commands.clear()
    noxfile.integrations(session)
    install, imported, tests = session.commands
    others = set(PROJECT["project"]["optional-dependencies"]) - EXTRAS - {"all"}
    assert install[-2:] == (f".[{','.join(['all', *sorted(others)])}]", "ray")
    assert f"torch=={noxfile.TORCH_HERE}" in install
    assert imported[1:] == ("-c", "import distributed, flwr, opacus, ray")
    assert "tests/integrations" in tests
    assert "flwr" not in locked("environment.txt")


def test_the_locked_carriers_are_those_of_the_assets(noxfile):
    """If it fails, the digests of the assets are checked against files of another release."""
    with (ROOT / "gia" / "data" / "assets.toml").open("rb") as file:
        carriers = tomllib.load(file)["carrier"]
    assert locked("carriers.txt") == {canonical(each["name"]): {each["version"]} for each in carriers}
    sources = [each["name"] for each in carriers if each["published"] == "sdist"]
    assert [noxfile.CARRIERS[i + 1] for i, flag in enumerate(noxfile.CARRIERS) if flag == "--no-binary"] == sources
    assert {flag for each in carriers for flag in each["flags"]} <= set(noxfile.CARRIERS)


def test_nothing_takes_gia_from_a_registry():
    """If it fails, `pip install --group NAME` runs the code of a foreign project that has this name."""
    assert "gia" not in locked("environment.txt")
    for name, group in PROJECT["dependency-groups"].items():
        assert not [each for each in group if isinstance(each, str) and Requirement(each).name == "gia"], name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_ci_runs_only_what_is_pinned(path):
    """If it fails, an action or a package that was replaced by its owner, or by a thief, runs in CI."""
    text = path.read_text(encoding="utf-8")
    installs = re.findall(r".*pip install.*", text)
    assert installs
    assert all("--require-hashes --only-binary :all: --requirement .ci/lock/nox.txt" in each for each in installs)
    used = re.findall(r"uses: (.*)", text)
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each) for each in used), used
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


class Machine:
    """`ready` of noxfile.py with a `.venv` in a folder; commands are recorded, and making a venv makes its python."""

    def __init__(self, noxfile: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noxfile, self.commands, self.warnings = noxfile, [], []
        self.venv, self.lock, self.found = folder / ".venv", folder / "lock", ""
        self.breaks = self.uv_fails = False
        self.lock.mkdir()
        (self.lock / "environment.txt").write_text("one", encoding="utf-8")
        python = self.venv / "bin" / "python"
        for name, value in {"VENV": self.venv, "PYTHON": python, "LOCK": self.lock}.items():
            monkeypatch.setattr(noxfile, name, value)
        monkeypatch.setattr(noxfile, "interpreter", lambda: self.found)
        monkeypatch.setattr(noxfile.shutil, "which", lambda *_, **__: None)
        monkeypatch.setattr(
            noxfile, "subprocess", SimpleNamespace(run=self.run, CalledProcessError=subprocess.CalledProcessError)
        )
        self.use("3.11.7 (main)", monkeypatch)

    def use(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Go on under another Python."""
        self.version = version
        monkeypatch.setattr(self.noxfile, "sys", SimpleNamespace(version=version, executable="python-of-nox"))

    def run(self, command: list[str], **_: object) -> None:
        self.commands.append(command)
        if command[0] == "uv" and self.uv_fails:
            raise subprocess.CalledProcessError(2, command)
        if self.breaks:
            raise OSError("no network")
        if command[:3] == ["python-of-nox", "-m", "venv"]:
            (self.venv / "bin").mkdir(parents=True)
            (self.venv / "bin" / "python").touch()
            self.found = self.version

    def ready(self) -> list[list[str]]:
        """The commands that it ran."""
        self.commands.clear()
        self.noxfile.ready(SimpleNamespace(warn=self.warnings.append))
        return list(self.commands)


@pytest.fixture
def machine(noxfile, tmp_path, monkeypatch):
    """Without an environment."""
    return Machine(noxfile, tmp_path, monkeypatch)


def test_an_environment_is_made_once_and_every_file_is_checked_by_hash(machine):
    """If it fails, `nox` installs at each call, or installs what the lock has no hash of."""
    make, *installs = machine.ready()
    assert make[1:3] == ["-m", "venv"]
    assert len(installs) == 3
    for install in installs:
        own = {"--editable", ".", "--no-deps", "--no-build-isolation"} <= set(install)
        assert own != ("--require-hashes" in install), install
        assert own != ("--only-binary" in install), install
    assert machine.ready() == []
    assert machine.warnings == []


@pytest.mark.parametrize("fails", [False, True])
def test_uv_installs_where_it_is_there_and_pip_where_it_fails(machine, monkeypatch, fails):
    """A user whose index only pip knows could not make `.venv`, or all would wait for pip where uv takes seconds."""
    monkeypatch.setattr(machine.noxfile.shutil, "which", lambda *_, **__: "uv")
    machine.uv_fails = fails
    _, *installs, carriers = machine.ready()
    assert [each[0] == "uv" for each in installs] == ([True, False, False] if fails else [True, True])
    assert carriers[1:3] == ["-m", "pip"]
    assert all("--require-hashes" in each for each in installs[:-1])
    assert len(machine.warnings) == fails
    assert machine.ready() == []


def test_another_python_makes_the_environment_again_and_says_so(machine, monkeypatch):
    """If it fails, `nox` under another Python runs the old one, and marks it as the new one."""
    machine.ready()
    (machine.venv / "old").touch()
    machine.use("3.13.0 (main)", monkeypatch)
    assert len(machine.ready()) == 4
    assert not (machine.venv / "old").exists()
    assert machine.warnings == [".venv: expected Python 3.13.0 (main), got 3.11.7 (main); it is made again"]
    assert machine.ready() == []


def test_another_lock_is_installed_into_the_environment_that_is_there(machine):
    """If it fails, a change of the lock does not reach the packages, or costs a download of everything."""
    machine.ready()
    (machine.venv / "old").touch()
    (machine.lock / "environment.txt").write_text("two", encoding="utf-8")
    assert len(machine.ready()) == 3
    assert (machine.venv / "old").exists()


def test_an_installation_that_broke_off_is_finished_by_the_next_call(machine):
    """If it fails, half an environment counts as a whole one."""
    machine.ready()
    (machine.lock / "environment.txt").write_text("two", encoding="utf-8")
    machine.breaks = True
    with pytest.raises(OSError, match="no network"):
        machine.ready()
    machine.breaks = False
    (machine.lock / "environment.txt").write_text("one", encoding="utf-8")
    assert len(machine.ready()) == 3


def test_the_docs_name_every_session_and_nox_has_every_session_that_they_name(noxfile):
    """If it fails, a command of docs/commands.md ends in "session not found", or nobody knows of a session."""
    command = [sys.executable, "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), "--list"]
    printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    listed = re.findall(
        r"^[*-] (\w+)(?:\(python='(.+)', torch='(.+)'\)|\(.*\))?(?: \[(\w+)\])? -> ", printed, re.MULTILINE
    )
    named = {name for names in re.findall(r"`nox -s ([a-z_ ]+?)(?: --|`)", COMMANDS) for name in names.split()}
    assert named == {name for name, *_ in listed} - {"matrix"}
    assert set(re.findall(r"nox -t ([a-z]+)", COMMANDS)) == {tag for *_, tag in listed if tag} == {"newest", "oldest"}
    newest = max(noxfile.TORCH, key=lambda version: tuple(map(int, version.split("."))))
    assert {torch for _, _, torch, _ in listed if torch} == set(noxfile.TORCH)
    assert {python for _, python, torch, _ in listed if torch == newest} == set(noxfile.PYTHONS)
    (row,) = re.findall(r"^\| `nox -t newest`.*$", COMMANDS, re.MULTILINE)
    assert set(re.findall(r"\b2\.\d+\.\d+\b", row)) == set(noxfile.TORCH)
    assert set(re.findall(r"\b3\.\d+\b", row)) == set(noxfile.PYTHONS)
