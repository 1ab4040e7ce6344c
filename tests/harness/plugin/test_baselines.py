"""Stored baselines as a user meets them: an inner project, pytest's options, and what it prints."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.harness.plugin.inner_project import Inner

pytest_plugins = ["pytester"]

TESTS = """
import json
from pathlib import Path


def measured(run):
    return json.loads(Path("values.json").read_text())[run]


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


def test_a_selection_of_entries_does_not_call_the_others_stale(stored: Inner) -> None:
    """`-k b1` says nothing about b2, and under --rebaseline it must not drop it."""
    stored.run("-k", "b1").assert_outcomes(passed=1, deselected=1)
    stored.run("-k", "b1", "--gia-rebaseline", "--gia-reason=why").assert_outcomes(passed=1, deselected=1)
    assert sorted(json.loads((stored.path / "baselines" / "toy.json").read_text(encoding="utf-8"))["cells"]) == [
        "b1",
        "b2",
    ]
