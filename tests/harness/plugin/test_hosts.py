"""The plugin in other people's projects: it does nothing without a register, and works in unusual surroundings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.plugin.inner_project import Inner, environment, row, trend, verdicts_in, write_entry_point

pytest_plugins = ["pytester"]


def run(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Pytest in another process, with the plugin as an entry point."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        env=environment(folder / "installed", **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


HOST = """
import sys

def test_nothing_that_is_slow_was_imported():
    assert not {"torch", "hypothesis", "gia.harness.plugin.run"} & set(sys.modules)

def test_the_plugin_is_there(request):
    assert request.config.pluginmanager.has_plugin("gia")

def test_the_options_of_others_are_theirs(request):
    assert request.config.getoption("--device") == "theirs"
    assert request.config.getoption("--workers") == "many"

def test_hypothesis_has_its_own_profiles():
    from hypothesis import settings

    assert settings.default.max_examples == 100
    assert not {"claims", "unit"} & set(settings._profiles)
"""

OTHERS = """
def pytest_addoption(parser):
    for name in {names}:
        parser.addoption(name, default="theirs")
"""


def test_without_a_register_nothing_happens(pytester: pytest.Pytester) -> None:
    """Every project in an environment with gia would import torch, lose examples of Hypothesis or end at an option."""
    from gia.harness.plugin.options import OPTIONS

    pytester.makepyfile(test_host=HOST)
    pytester.makeconftest(OTHERS.format(names=[f"--{name}" for name in OPTIONS]))
    result = run(pytester.path, "-p", "no:cacheprovider", "--workers=many")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout
    assert not [line for line in result.stdout.splitlines() if line.startswith(("gia:", "numerics:"))]
    assert "claims at" not in result.stdout
    assert not (pytester.path / ".gia").exists()


@pytest.mark.parametrize("option", ["--gia-workers=3", "--gia-attack=dlg", "--gia-junit"])
def test_an_option_without_a_register_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """A run in the wrong folder would look as if it had passed."""
    monkeypatch.syspath_prepend(write_entry_point(pytester.path / "installed"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile("def test_it():\n    pass\n")
    result = pytester.runpytest_inprocess(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option.split('=')[0]}: expected a register of claims at *claims.toml, got none*"])


def test_under_xdist_tests_run_and_claims_fail_with_a_reason(inner: Inner) -> None:
    """Each process would overwrite the others' verdicts, and twice as many workers would crowd the cores."""
    inner.write(row("toy.first"), tests=trend("toy.first") + "\ndef test_other():\n    pass\n")
    result = run(inner.path, "claims", "-n", "2")
    assert "1 passed, 1 error" in result.stdout, result.stdout + result.stderr
    assert "claims have worker processes already (--gia-workers): run them without -n" in result.stdout
    assert not (inner.path / ".gia").exists()


def test_the_order_of_the_tests_changes_no_verdict(inner: Inner) -> None:
    """A plugin that runs tests in a random order would change numbers, or the order of the report."""
    names = ["toy.a", "toy.b", "toy.c", "toy.d"]
    inner.write(*(row(name) for name in names), tests="".join(trend(name) for name in names))
    reports = []
    for seed in (1, 2):
        shuffle = f"random.Random({seed}).shuffle(items)"
        hook = f"import random\n\ndef pytest_collection_modifyitems(items):\n    {shuffle}\n"
        (inner.path / "conftest.py").write_text(hook, encoding="utf-8")
        inner.run(f"--gia-run-dir=run{seed}").assert_outcomes(passed=4)
        found = verdicts_in(inner.path / f"run{seed}")
        decided = {name: (verdict["outcome"], verdict["effect"]) for name, verdict in sorted(found.items())}
        report = (inner.path / f"run{seed}" / "report.md").read_text(encoding="utf-8")
        reports.append((list(found), decided, [line[:9] for line in report.splitlines() if line.startswith("| `toy")]))
        shutil.rmtree(inner.path / ".gia")
    assert reports[0][0] != reports[1][0]  # the order was another one
    assert reports[0][1:] == reports[1][1:]
    assert len(reports[0][2]) == 4


def test_claims_run_in_a_path_with_spaces_and_other_letters_and_without_git(inner: Inner) -> None:
    """Files would be written somewhere else, or a worker would not find the project."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    folder = inner.path / "ein Pfad mit Ümlauten" / "项目"
    folder.mkdir(parents=True)
    for name in ("pytest.ini", "planted.py", "claims"):
        shutil.move(inner.path / name, folder / name)
    result = run(folder, "claims", "--gia-workers=1", "--gia-junit", PATH=str(folder))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "commit unversioned, 1 workers" in result.stdout
    written = folder / ".gia" / "runs" / "latest"
    assert written.resolve().name.endswith("-reduced-unversioned")
    assert verdicts_in(written)["toy.first"]["outcome"] == "supported"
    assert (written / "junit.xml").exists()
    assert (written / "report.md").exists()


@pytest.mark.parametrize("how", ["mkdir", "access"])
def test_a_checkout_that_cannot_be_written_to_needs_only_a_run_folder_elsewhere(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    """A checkout that belongs to somebody else could not be tried. (Root may write anywhere, so this is simulated.)"""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    inner.write(row("toy.first"), tests=trend("toy.first"))
    mkdir, access = Path.mkdir, os.access

    def refuse(path: Path, *args: object, **options: object) -> None:
        if path.is_relative_to(inner.path / ".gia"):
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *args, **options)  # type: ignore[arg-type]

    if how == "mkdir":
        monkeypatch.setattr(Path, "mkdir", refuse)
        stopped = inner.run()
        assert stopped.ret == pytest.ExitCode.USAGE_ERROR
        stopped.stderr.fnmatch_lines(["*--gia-run-dir: expected a folder to write to, got *Permission denied*"])
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: ".gia" not in str(path) and access(path, mode))
    for cached in (0, 8):
        inner.run(f"--gia-run-dir={elsewhere}").assert_outcomes(passed=1)
        assert verdicts_in(elsewhere)["toy.first"]["cached"] == cached
    assert len(list((elsewhere / "blocks").glob("*.json"))) == 8
    assert not list((inner.path / ".gia").rglob("*.json"))


def test_a_run_folder_that_is_a_file_is_an_error_before_anything_is_computed(inner: Inner) -> None:
    """The verdicts of a night would have no place to go."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--gia-run-dir=planted.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gia-run-dir: expected a folder to write to, got *planted.py*"])
    assert inner.computed == []
