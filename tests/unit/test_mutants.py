"""The list of planted breaks stays applicable, and the mutation run says of each whether its test catches it."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parents[2]
MUTANTS = mutants.listed((ROOT / mutants.LIST).read_text(encoding="utf-8"))

SOURCE = """\
def double(x):
    while x is None:
        pass
    return 2 * x

def half(x):
    return x / 2

limit = 3
"""
TESTS = """\
import pytest
from toy import double, half

def test_double():
    assert double(2) == 4

def test_half_runs():
    half(2)

def test_wrong():
    assert half(2) == 7

@pytest.mark.skip(reason="not here")
def test_skipped():
    assert half(2) == 1

@pytest.fixture
def doubled():
    assert double(3) == 6

def test_fixture(doubled):
    pass
"""


def entry(find: str, replace: str, test: str) -> str:
    """One break of toy.py in the format of the list."""
    return f"[[mutant]]\nfile = 'toy.py'\nfind = '{find}'\nreplace = '{replace}'\ntest = 'tests/test_toy.py::{test}'\n"


DOUBLE = entry("2 * x", "3 * x", "test_double")


class Toy:
    """A small git repository with a list of breaks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "tests").mkdir()
        (root / "gia" / "harness").mkdir(parents=True)
        for name in ("gia/__init__.py", "gia/harness/__init__.py", "gia/harness/plugin.py"):
            self.write(name, "")  # an empty plugin in place of the installed one, whose imports take seconds
        self.write("toy.py", SOURCE)
        self.write("tests/test_toy.py", TESTS)
        self.write(".gitignore", ".gia/\n")
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        self.list(DOUBLE)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def list(self, *entries: str) -> None:
        self.write("tests/mutants.toml", "".join(entries))

    def commit(self) -> None:
        identity = ("-c", "user.name=toy", "-c", "user.email=toy@example.org")
        for arguments in (("add", "-A"), (*identity, "commit", "-qm", "toy")):
            subprocess.run(["git", *arguments], cwd=self.root, check=True)

    def run(self, *arguments: str, limit: float | None = None) -> int:
        return mutants.main(["--processes", "2", *arguments], root=self.root, limit=limit)


@pytest.fixture
def toy(tmp_path):
    """A repository with one break, in an empty folder."""
    return Toy(tmp_path)


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_a_planted_break_can_be_planted(file):
    """If it fails, the code or the test moved on, and a mutation run could not plant this break."""
    source = (ROOT / file).read_text(encoding="utf-8")
    for mutant in (mutant for mutant in MUTANTS if mutant.file == file):
        broken = mutant.planted(source)
        if file.endswith(".py"):
            ast.parse(broken)  # a syntax error would fail any test
        name = mutant.test.partition("::")[2]
        assert f"def {name.partition('[')[0]}(" in (ROOT / mutant.module).read_text(encoding="utf-8"), mutant.test


def test_only_a_test_that_fails_because_of_the_break_kills_it(toy, capsys):
    """If it fails, a break counts as caught although its test passes, fails without it, or was never run."""
    breaks = [
        ("2 * x", "3 * x", "test_double", "killed"),
        ("2 * x", "4 * x", "test_fixture", "killed"),
        ("x / 2", "x / 3", "test_half_runs", "survived"),
        ("x / 5", "x / 3", "test_double", "cannot be applied"),
        ("(x)", "(y)", "test_half_runs", "cannot be applied"),
        ("x / 2", "x / 4", "test_wrong", "failed without the break"),
        ("x / 2", "x / 5", "test_skipped", "skipped without the break"),
        ("x / 2", "x / 6", "test_absent", "could not be run without the break"),
        ("limit = 3", "limit = 3 / 0", "test_double", "could not be run"),
    ]
    toy.list(*(entry(*planted) for *planted, _ in breaks))
    assert toy.run() == 1
    ends = sorted(line.rpartition(" (")[0] for line in capsys.readouterr().out.splitlines() if " -> " in line)
    assert ends == sorted(f"{outcome}: toy.py -> tests/test_toy.py::{test}" for _, _, test, outcome in breaks)
    assert (toy.root / "toy.py").read_text(encoding="utf-8") == SOURCE


def test_a_test_that_does_not_end_is_ended_and_kills_nothing(toy, capsys):
    """If it fails, one endless loop holds up the whole run, or counts as caught."""
    toy.list(entry("x is None", "x is not None", "test_double"))
    assert toy.run(limit=10.0) == 1
    assert "\ndid not end: toy.py -> " in capsys.readouterr().out


def test_a_kill_is_remembered_while_the_break_and_its_files_are_unchanged(toy, capsys):
    """If it fails, an interrupted run begins again, or what a changed test lost counts as caught."""

    def remembered(*arguments: str) -> bool:
        assert toy.run(*arguments) == 0
        return "1 of them remembered" in capsys.readouterr().out

    assert [remembered(), remembered(), remembered("--again")] == [False, True, False]
    toy.write("tests/test_toy.py", TESTS + "\n")
    assert not remembered()
    toy.write("toy.py", SOURCE + "\n")
    assert [remembered(), remembered()] == [False, True]
    toy.list(entry("2 * x", "4 * x", "test_double"))
    assert not remembered()


def test_a_survivor_is_tried_again(toy):
    """If it fails, a second run passes over a break that no test catches."""
    toy.list(entry("x / 2", "x / 3", "test_half_runs"))
    assert [toy.run(), toy.run()] == [1, 1]


def test_changed_selects_what_a_diff_touches(toy):
    """If it fails, a change goes in without the breaks of its file, of its tests, or those that it adds."""

    def selected() -> list[str]:
        listed = mutants.listed((toy.root / mutants.LIST).read_text(encoding="utf-8"))
        return [mutant.replace for mutant in mutants.near(listed, toy.root, "HEAD")]

    toy.commit()
    assert selected() == []
    new = entry("x / 2", "x / 3", "test_half_runs")
    toy.list(DOUBLE, new)
    assert selected() == ["x / 3"]
    toy.commit()
    assert selected() == []
    for name, text in (("toy.py", SOURCE), ("tests/test_toy.py", TESTS)):
        toy.write(name, text + "\n")
        assert selected() == ["3 * x", "x / 3"]
        toy.write(name, text)
    toy.list(DOUBLE, new, new.replace("toy.py", "more.py").replace("test_toy.py", "test_more.py"))
    toy.commit()
    toy.write("more.py", SOURCE)
    assert selected() == ["x / 3"]


def test_a_sample_spreads_over_the_list_and_a_name_selects(toy, capsys):
    """If it fails, a quick look judges one file only."""
    toy.list(*(entry("absent", str(i), "test_double") for i in range(10)))
    assert toy.run("--sample", "2") == 1
    printed = capsys.readouterr().out
    assert [i for i in range(10) if f"replace '{i}'" in printed] == [0, 5]
    assert toy.run("-k", "no_such_test") == 0
    assert "0 breaks" in capsys.readouterr().out
