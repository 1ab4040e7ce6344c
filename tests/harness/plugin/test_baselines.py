"""Stored baselines as a user meets them: an inner project, pytest's options, and what it prints."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from gia.harness.baseline.file import is_stored
from gia.numerics import digest_of
from tests.harness.plugin.inner_project import HEAD, Inner

pytest_plugins = ["pytester"]

TESTS = """
import json
from pathlib import Path


def measured(run):
    return json.loads(Path("values.json").read_text(encoding="utf-8"))[run]


@pytest.mark.baseline
@pytest.mark.parametrize("entry", ["b1", "b2"])
def test_entry(entry, baselines):
    values, setting = measured("first" if entry == "b2" else "other"), measured("setting")
    baselines.open("toy").check(entry, values, deciding="psnr", setting=setting, rerun=lambda: measured("again"))
"""
PSNR = [24.0, 25.5, 23.8, 24.9]


@pytest.fixture
def stored(inner: Inner) -> Inner:
    """An inner project whose two entries b1 and b2 are stored."""
    inner.write(tests=TESTS)
    measure(inner)
    inner.run("--gia-rebaseline", "--gia-reason=first sample").assert_outcomes(passed=2)
    return inner


def measure(inner: Inner, *, again: Any = None, setting: str = "p1", **moved: Any) -> None:
    """Let the next run measure `moved` for the entry b2, and `again` where it measures twice."""
    other = {"psnr": PSNR, "ssim": [0.5] * 4}
    first = {metric: values for metric, values in {**other, **moved}.items() if values is not None}
    runs = {"other": other, "first": first, "again": again or first, "setting": setting}
    (inner.path / "values.json").write_text(json.dumps(runs), encoding="utf-8")


def test_a_missing_entry_fails_until_it_is_stored_on_purpose(inner: Inner) -> None:
    """A new entry must neither pass unseen nor be stored by accident."""
    inner.write(tests=TESTS)
    measure(inner)
    first = inner.run()
    first.assert_outcomes(failed=2)
    first.stdout.fnmatch_lines(["*'b2' has no entry; its values are in toy.obtained.json*--gia-rebaseline*"])
    folder = inner.path / "baselines"
    assert sorted(json.loads((folder / "toy.obtained.json").read_text(encoding="utf-8"))["cells"]) == ["b1", "b2"]
    assert not (folder / "toy.json").exists()
    inner.run("--gia-rebaseline", "--gia-reason=first sample").assert_outcomes(passed=2)
    inner.run().assert_outcomes(passed=2)
    assert json.loads((folder / "toy.json").read_text(encoding="utf-8"))["cells"]["b1"]["reason"] == "first sample"


@pytest.mark.parametrize(
    ("moved", "printed"),
    [
        ({"psnr": [value - 1 for value in PSNR]}, "*BaselineWorse: toy.json: 'b2' got worse*"),
        ({"psnr": [value + 1 for value in PSNR]}, "*BaselineBetter: toy.json: 'b2' got better, update the baseline*"),
        ({"ssim": None}, "*BaselineVanished: toy.json: 'b2': stored but no longer measured: ?'ssim'?*"),
        ({"lpips": [0.2] * 4}, "*BaselineVanished: toy.json: 'b2': measured but not stored: ?'lpips'?*"),
        ({"psnr": [math.nan, *PSNR[1:]]}, "*BaselineNonFinite: toy.json: 'b2': psnr is not finite at seeds ?0?*"),
    ],
    ids=["worse", "better", "vanished", "new", "nan"],
)
def test_an_entry_that_moved_fails_alone_and_says_how(stored: Inner, moved: dict[str, Any], printed: str) -> None:
    """Each way in which numbers can go wrong has to reach the terminal by its own name."""
    measure(stored, **moved)
    result = stored.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([printed])


def test_an_entry_of_another_setting_is_stale(stored: Inner) -> None:
    """The setting changed, and the stored numbers speak of another experiment."""
    measure(stored, setting="p2")
    result = stored.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*'b2' is stale: it was stored with setting p1, the test has p2*"])


@pytest.mark.parametrize(
    ("damage", "printed"),
    [
        (lambda text: text[: len(text) // 2], "*BaselineCorrupt: toy.json is not a readable baseline file*"),
        (lambda text: text.replace("25.5", "25.6"), "*BaselineCorrupt: toy.json: entry 'b1'*edited by hand*"),
    ],
    ids=["cut", "edited"],
)
def test_a_damaged_file_stops_its_module_and_stays_as_it_is(stored: Inner, damage: Any, printed: str) -> None:
    """Neither a plain run nor --rebaseline may take a broken file for an empty one."""
    path = stored.path / "baselines" / "toy.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    before = path.read_bytes()
    for options in ((), ("--gia-rebaseline", "--gia-reason=why")):
        result = stored.run(*options)
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines([printed])
    assert path.read_bytes() == before


def test_rebaseline_moves_what_fails_and_nothing_else(stored: Inner) -> None:
    """A reviewer should see the entry that moved, with its reason, and no other."""
    path = stored.path / "baselines" / "toy.json"
    before = json.loads(path.read_text(encoding="utf-8"))["cells"]
    measure(stored, psnr=[value + 1 for value in PSNR])
    stored.run("--gia-rebaseline", "--gia-reason=a better start").assert_outcomes(passed=2)
    after = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert after["b1"] == before["b1"]
    assert after["b2"]["reason"] == "a better start"
    stored.run().assert_outcomes(passed=2)


def test_rebaseline_refuses_two_runs_that_disagree(stored: Inner) -> None:
    """Stored noise fails the next run, and then the one after its rebaseline."""
    path = stored.path / "baselines" / "toy.json"
    before = path.read_bytes()
    measure(
        stored, psnr=[value + 1 for value in PSNR], again={"psnr": [value + 2 for value in PSNR], "ssim": [0.5] * 4}
    )
    result = stored.run("--gia-rebaseline", "--gia-reason=why")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*RebaselineRefused: toy.json: 'b2': two runs disagree*psnr: seed 0 25 -> 26*"])
    assert path.read_bytes() == before


REBASELINE = ("--gia-rebaseline", "--gia-reason=why")

#: Ways to run a part of the tests. The plugins that pick some in silence stand in conftest.py.
PARTS = {
    "-k": ("-k", "b1"),
    "--deselect": ("--deselect", "claims/test_toy.py::test_entry[b2]"),
    "one test": ("claims/test_toy.py::test_entry[b1]",),
    "another file": ("claims/test_other.py",),
    "--ignore": ("--ignore=claims/test_toy.py",),
    "--lf": ("--lf", "-p", "cacheprovider"),
    "-x": ("-x",),
    "--maxfail": ("--maxfail=1",),
    "--co": ("--collect-only",),
    "silent plugin": ("-q",),
    "broken module": ("--continue-on-collection-errors",),
}


def entries(inner: Inner) -> list[str]:
    """The names in all stored files."""
    paths = [path for path in sorted((inner.path / "baselines").glob("*.json")) if is_stored(path)]
    return [f"{path.stem}/{entry}" for path in paths for entry in json.loads(path.read_text(encoding="utf-8"))["cells"]]


@pytest.mark.parametrize("part", PARTS)
def test_no_way_of_running_a_part_drops_a_stored_baseline(stored: Inner, part: str) -> None:
    """`--lf --rebaseline` dropped the samples of every module that had no failure, without a line."""
    other = TESTS.replace('"toy"', '"other"').replace("test_entry", "test_other")
    (stored.path / "claims" / "test_other.py").write_text(HEAD + other, encoding="utf-8")
    stored.run(*REBASELINE)
    before = entries(stored)
    assert before == ["other/b1", "other/b2", "toy/b1", "toy/b2"]
    if part in ("-x", "--maxfail", "--lf"):
        (stored.path / "claims" / "test_a.py").write_text("def test_a():\n    assert False\n", encoding="utf-8")
        stored.run("-p", "cacheprovider")  # the failure that --lf selects
    if part == "broken module":
        (stored.path / "claims" / "test_toy.py").write_text("import nothing\n", encoding="utf-8")
    if part == "silent plugin":
        (stored.path / "conftest.py").write_text(
            "def pytest_collection_modifyitems(items):\n    del items[1:]\n", encoding="utf-8"
        )
    for options in (REBASELINE, ()):
        selected = () if PARTS[part][0].startswith("claims/") else ("claims",)
        result = stored.pytester.runpytest_inprocess(*selected, "--gia-workers=0", *PARTS[part], *options)
        result.stdout.no_fnmatch_line("*is stale*")
    assert entries(stored) == before


def test_an_entry_without_a_test_is_dropped_by_its_name_alone(stored: Inner) -> None:
    """A stored sample would go without a line, or could never go."""
    (stored.path / "claims" / "test_toy.py").write_text(
        HEAD + TESTS.replace('["b1", "b2"]', '["b1"]'), encoding="utf-8"
    )
    result = stored.run(*REBASELINE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED baseline: toy.json: 'b2' is stale*or drop it: --gia-drop=toy/b2"])
    assert entries(stored) == ["toy/b1", "toy/b2"]
    refused = stored.run("--gia-drop=toy/b1", "--gia-drop=toy/b3", "--gia-reason=why")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    refused.stdout.fnmatch_lines(["FAILED baseline: --gia-drop:*'b1', checked by a test", "*'b3', none of*"])
    assert entries(stored) == ["toy/b1", "toy/b2"]
    result = stored.run("--gia-drop=toy/b2", "--gia-reason=its attack is gone")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["dropped baseline: toy/b2"])
    assert entries(stored) == ["toy/b1"]


@pytest.mark.parametrize("option", ["--gia-rebaseline", "--gia-drop=toy/b2"])
def test_files_are_not_written_by_several_processes(stored: Inner, option: str) -> None:
    """Each process would write the entries that it has read, and undo the other's."""
    result = stored.run(option, "--gia-reason=why", "-p", "xdist", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option.split('=')[0]}: expected one process, got -n*"])


def test_rebaseline_outside_the_pinned_environment_is_refused(stored: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint of a run that nobody can repeat would stand in the file."""
    monkeypatch.delenv("MKL_CBWR")
    result = stored.run(*REBASELINE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gia-rebaseline: expected pinned arithmetic*MKL_CBWR=AVX2,STRICT*"])


def test_under_ci_another_arithmetic_fails_unless_it_is_expected(
    stored: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that is not pinned would pass CI with a limit of a quarter of a decibel."""
    path = stored.path / "baselines" / "toy.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for entry, cell in content["cells"].items():
        cell["machine"]["fingerprint"] = "0123456789ab"
        cell["digest"] = digest_of([entry, {field: value for field, value in cell.items() if field != "digest"}])
    path.write_text(json.dumps(content), encoding="utf-8")
    stored.run().assert_outcomes(passed=2)
    for said in ("false", "0", ""):
        monkeypatch.setenv("CI", said)
        stored.run().assert_outcomes(passed=2)
    monkeypatch.setenv("CI", "true")
    result = stored.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*BaselineElsewhere: toy.json: 'b1' was stored with *0123456789ab*--gia-elsewhere"])
    stored.run("--gia-elsewhere").assert_outcomes(passed=2)
