"""The front of the package: `import gia`, `python -m gia`, and the files that describe the package."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

import gia
from gia import attacks, models
from gia.__main__ import COMMANDS, main
from gia.attacks.matching import evolution
from gia.attacks.trials import TYPES
from gia.data import assets, full

ROOT = Path(gia.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def fresh(*arguments: str) -> str:
    """What a fresh process of Python prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def test_importing_gia_loads_no_library_and_its_first_use_does(record_property):
    """If it fails, a pytest plugin of gia costs every run of a host project the import of torch, two seconds."""
    code = """
import sys, time
start = time.perf_counter()
import gia
seconds = time.perf_counter() - start
heavy = {"torch", "numpy", "PIL", "scipy", "pytest", "hypothesis", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
gia.pictures.grid
assert not heavy & set(sys.modules) - {"numpy", "PIL"}, heavy & set(sys.modules)
gia.Observation
assert "torch" in sys.modules
print(seconds)
"""
    record_property("seconds of import gia", float(fresh("-c", code)))


def test_a_misspelt_name_of_the_package_is_answered_with_the_right_one():
    """If it fails, a typing error ends in a bare AttributeError, or in a value."""
    for name, message in {"atacks": "'atacks'; did you mean 'attacks'?", "xyzzy": "'xyzzy'"}.items():
        with pytest.raises(AttributeError) as raised:
            getattr(gia, name)
        assert str(raised.value) == f"module 'gia' has no attribute {message}"
    assert not hasattr(gia, "shared_gradient")


def test_names_that_are_not_loaded_yet_are_listed():
    """If it fails, an editor or a notebook completes only what happens to be loaded."""
    listed = fresh("-c", "import gia; print(*dir(gia))").split()
    assert {*gia.__all__, "__version__", "__doc__"} <= set(listed)
    assert not [name for name in listed if name in ("importlib", "annotations", "TYPE_CHECKING")]


@pytest.mark.parametrize("installed", [True, False])
def test_the_version_is_that_of_the_installed_package_or_says_that_it_is_unknown(monkeypatch, installed):
    """If it fails, a report about a checkout names some version, or reading the version ends in an error."""

    def version(name):
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return {"gia": "1.2.3"}[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(vars(gia), "__version__", "of an earlier use")
    del gia.__version__
    assert gia.__version__ == ("1.2.3" if installed else "0+unknown")


def test_the_overview_shows_version_attacks_and_data_in_120_columns(capsys):
    """If it fails, a user cannot see what this installation can do."""
    assert main([]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].startswith(f"gia {gia.__version__}, torch ")
    assert max(map(len, lines)) <= 120
    names = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert [name for name in names if name in attacks.ATTACKS] == list(attacks.ATTACKS)
    assert [name for name in names if name in assets.ASSETS] == list(assets.ASSETS)
    for name, spec in full.FULL.items():
        assert f"{name}: {spec.command}" in " ".join(shown.split())
    assert assets.ASSETS["faces"].command not in shown, "it is there"


def test_the_attacks_are_listed_with_type_needs_and_source(capsys):
    """If it fails, a user cannot see which attack needs what."""
    assert main(["attacks"]) == 0
    shown = capsys.readouterr().out
    for name, card in attacks.CARDS.items():
        id, type_ = TYPES[card.leaf]
        assert re.search(rf"^{name} +{type_} \({id}\) .*\n  {re.escape(card.source)}$", shown, re.MULTILINE)
        assert all(need in shown for need in card.needs)
    needs = "linear_input, malicious_server"
    assert re.search(rf"^trap_weights +ANA-GIA, parameters \(ana_param\) +{needs}$", shown, re.MULTILINE)
    assert re.search(r"^dlg +OP-GIA \(op\) +nothing$", shown, re.MULTILINE)
    assert max(len(line) for line in shown.splitlines() if not line.startswith("  ")) <= 100  # all but the titles


def test_attacks_of_installed_packages_are_listed_with_their_import_path(capsys, monkeypatch):
    """If it fails, a user cannot see whether an attack of another package was found."""
    monkeypatch.setattr(attacks, "registered", lambda: {"outsider": "absent.package:attack"})
    assert main(["attacks"]) == 0
    assert "\noutsider " in (shown := capsys.readouterr().out)
    assert shown.endswith("\n  absent.package:attack\n")


def test_an_unknown_command_is_refused_with_what_may_have_been_meant(capsys):
    """If it fails, a typing error is ignored, or the message does not help."""
    with pytest.raises(SystemExit) as ended:
        main(["atacks"])
    assert ended.value.code == 2
    assert f"COMMAND: expected one of {list(COMMANDS)}, got 'atacks'; did you mean 'attacks'?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    """If it fails, a name of the table has no module, or a module lacks its two functions."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m gia {command}" in capsys.readouterr().out


def test_the_earlier_name_of_the_data_command_does_the_same(capsys, tmp_path):
    """If it fails, `python -m gia.data` of scripts and documents stops working, or ignores its option."""
    (tmp_path / "imagenet").mkdir()
    command = [sys.executable, "-m", "gia.data", "--data", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == main(["data", "--data", str(tmp_path)]) == 0
    assert ended.stdout == capsys.readouterr().out
    assert "there, unchecked" in ended.stdout


def test_version_and_help_load_no_torch():
    """If it fails, the shortest commands take seconds."""
    code = "import runpy, sys; sys.argv[1:] = ['{}']\ntry: runpy.run_module('gia', run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    assert fresh("-c", code.format("--version")) == f"gia {gia.__version__}\n"
    assert "usage: python -m gia" in fresh("-c", code.format("--help"))


def test_without_cma_the_search_of_ggl_names_the_command_that_installs_it(monkeypatch):
    """If it fails, an attack without its optional package ends in a bare import error."""
    monkeypatch.setitem(sys.modules, "cma", None)
    rule = evolution.CMA(deviation=1.0, population=4, bound=None, generators=[torch.Generator()])
    with pytest.raises(ModuleNotFoundError, match=r'cma: expected .* ggl; python -m pip install "cma>=4.0"$'):
        rule([torch.zeros(1, 2)])


def test_without_h5py_one_trained_network_is_missing_and_names_the_command(monkeypatch):
    """If it fails, all trained networks need a package that reads one of them."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r'h5py: expected .* python -m pip install "h5py>=3.10"$'):
        models.pretrained("cifar10-cnn")
    models.pretrained("face-decoder")


def test_an_error_about_a_missing_package_names_what_pyproject_requires_and_not_a_project_of_our_name():
    """If it fails, the command in the message installs another version, or a foreign project that is called gia."""
    wanted = {requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra}
    named = {
        call.args[2].value
        for path in (ROOT / "gia").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "not_installed"
    }
    assert {"cma>=4.0", "h5py>=3.10"} <= named <= wanted


def test_the_extra_all_has_every_extra_but_those_of_integrations_and_the_packages_of_assets():
    """If it fails, `nox` makes an environment in which some claim or snippet cannot run."""
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == [f"gia[{','.join(sorted(set(extras) - {'all', 'cluster', 'flower', 'opacus'}))}]"]
    assert {re.split("[^a-z-]", requirement)[0] for requirement in extras["data"]} == {"scikit-image", "scikit-learn"}


def test_the_citation_names_this_version_and_the_paper():
    """If it fails, users cite another version than the one they ran."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'\nversion: "{PROJECT["version"]}"\n' in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation
    assert f'url: "{PROJECT["urls"]["Paper"]}"\n' in citation


def test_a_reader_that_ends_early_gets_no_traceback():
    """If it fails, `python -m gia attacks | head` ends in an error that says nothing about gia."""
    command = [sys.executable, "-m", "gia", "attacks"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate()
    assert said == b""
