"""Runs in which a placebo takes the place of every attack: verdicts, leaks, controls and the rule."""

from __future__ import annotations

import json

import pytest

from tests.harness.plugin.inner_project import RECORD, Inner, row, trend

pytest_plugins = ["pytester"]

#: A level whose planted number holds while the attack runs, or while a placebo is in its place.
LEAKING = """
def leaking(level, block, *, cache=None):
    given = {"own": 20.0, "truth": 40.0}.get(level.attack, level.slope if level.attack == "blind" else 0.0)
    worse = 3.0 * math.log2(level.size) if level.attack == "own" else 0.0
    return Result({"leak": given - worse}, details={"placebo": {}})
"""


def placebo(inner: Inner, name: str, *rows: str, tests: str, status: int = 0) -> dict[str, dict[str, object]]:
    """The verdicts of a run with a placebo, which ends with this status."""
    inner.write(*rows, tests=LEAKING + tests)
    result = inner.run(f"--gia-placebo={name}")
    result.assert_outcomes(passed=1)
    assert result.ret == status
    return {row["id"]: row for row in inner.verdicts.values()}


def test_a_placebo_takes_the_place_of_every_levels_attack_and_its_leak_is_kept(inner: Inner) -> None:
    """What an attacker has without the gradient would not be seen, or be counted as a verdict on the attack."""
    tests = trend("toy.leak", 0.4, measure="leaking")
    found = placebo(inner, "blind", row("toy.leak", metric="leak"), tests=tests, status=1)["toy.leak"]
    assert (found["placebo"], found["leak"], found["leak_decides"]) == ("blind", 0.4, True)
    assert (found["outcome"], found["notice"]) == ("inconclusive", "")  # nothing to lose
    inner.run(*RECORD)
    inner.run("--gia-placebo=blind").assert_outcomes(passed=1)  # no record holds against it


def test_the_saboteur_returns_the_truth_at_the_first_level_only(inner: Inner) -> None:
    """A claim that says "worse" would be supported by whatever breaks at the second level."""
    tests = trend("toy.leak", measure="leaking")
    found = placebo(inner, "saboteur", row("toy.leak", metric="leak"), tests=tests, status=1)["toy.leak"]
    (table,) = found["tables"]  # type: ignore[misc]
    assert table["medians"]["leak"] == [40.0, 0.0, 0.0]
    assert found["leak"] == 40.0


@pytest.mark.parametrize(
    ("name", "void", "blocks", "replaced", "leak"),
    [
        ("blind", 99, 8, 0, 0.2),  # not supported, so no control is asked
        ("saboteur", 99, 0, 5, 40.0),  # five void blocks decide
        ("saboteur", 0, 8, 0, 40.0),
        ("saboteur", 3, 8, 3, 40.0),
    ],
)
def test_controls_are_asked_where_a_placebo_would_be_supported_until_they_decide(
    inner: Inner, name: str, void: int, blocks: int, replaced: int, leak: float
) -> None:
    """Controls cost most of a placebo run. Without them, or if void blocks were not replaced, the rule would not be
    that of a first look."""
    tests = f"""
@pytest.mark.claim("toy.leak")
def test_leak(claims):
    level = Level(slope=0.2, control=fails_at_first, void={void})
    claims.trend("toy.leak", level, levels=(1, 2), change=batch, measure=leaking)
"""
    status = int(name == "saboteur" and void < 99)
    found = placebo(inner, name, row("toy.leak", metric="leak"), tests=tests, status=status)["toy.leak"]
    assert (found["blocks"], found["void"], found["leak"]) == (blocks, replaced, leak)
    assert found["outcome"] == ("supported" if status else "inconclusive")


def test_the_control_of_a_saboteur_begins_at_the_levels_that_it_spoils(inner: Inner) -> None:
    """The truth passes every control, and a control costs most. If it fails, each block runs one without need."""
    tests = """
def noting(level, block, *, cache=None):
    with open("controlled.txt", "a", encoding="utf-8") as log:
        log.write(f"{level.attack}\\n")
    return Control(level.attack == "truth", "planted")

@pytest.mark.claim("toy.leak")
def test_leak(claims):
    claims.trend("toy.leak", Level(control=noting), levels=(1, 2), change=batch, measure=leaking)
"""
    found = placebo(inner, "saboteur", row("toy.leak", metric="leak"), tests=tests)["toy.leak"]
    assert found["void"] == 5
    assert (inner.path / "controlled.txt").read_text(encoding="utf-8").split() == ["noise"] * 5


def test_all_placebos_share_one_pass_and_each_gets_its_own_verdict(inner: Inner) -> None:
    """The whole register would cost as many runs as there are placebos, or one would be taken for another."""
    tests = """
def counted(level, block, *, cache=None):
    with open("computed.txt", "a", encoding="utf-8") as log:
        log.write(f"{block.index} {level.size} {level.attack}\\n")
    return leaking(level, block)
""" + trend("toy.leak", 0.2, measure="counted")
    inner.write(row("toy.leak", metric="leak"), tests=LEAKING + tests)
    result = inner.run("--gia-placebo=all")
    result.assert_outcomes(passed=1)
    rows = json.loads((inner.folder / "verdicts.json").read_text(encoding="utf-8"))
    assert [(found["placebo"], found["leak"]) for found in rows] == [("blind", 0.2), ("noise", 0.0), ("saboteur", 40.0)]
    by_block = [line.split(maxsplit=1)[1] for line in inner.computed if line.startswith("7 ")]
    assert by_block == [
        *("1 blind", "1 noise", "1 truth"),
        *("2 blind", "2 noise"),  # what the saboteur returns here was measured
        *("4 blind", "4 noise"),
    ]
    assert len(inner.computed) == 8 * 7 + 1  # and one level of one block, which says that there is an attack


@pytest.mark.parametrize(("name", "broken"), [("blind", 1), ("all", 2)])  # no control voids the saboteur
def test_a_run_fails_where_a_placebo_breaks_the_rule(inner: Inner, name: str, broken: int) -> None:
    """CI would stay green although the harness credits what ignores the gradient."""
    inner.write(row("toy.leak", metric="leak"), tests=LEAKING + trend("toy.leak", 0.4, measure="leaking"))
    result = inner.run(f"--gia-placebo={name}")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*toy.leak*(!)*", f"*{broken} break the rule*", "*leaks 0.4, more than half the margin of 0.5*"]
    )
    assert f"{broken} break the rule" in (inner.folder / "report.md").read_text(encoding="utf-8")


def test_a_test_that_gives_no_verdict_under_one_placebo_fails(inner: Inner) -> None:
    """A row that a placebo never met would look as if it had passed."""
    tests = """
@pytest.mark.claim("toy.leak")
def test_leak(claims):
    if claims.placebo != "noise":
        claims.trend("toy.leak", Level(), levels=(1, 2), change=batch, measure=leaking)
"""
    inner.write(row("toy.leak", metric="leak"), tests=LEAKING + tests)
    result = inner.run("--gia-placebo=all")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the test ended without a verdict on 'toy.leak'*"])


def test_a_saboteur_is_not_tried_on_a_row_with_one_level(inner: Inner) -> None:
    """The truth at every level is a perfect attack, and no sabotage."""
    tests = """
@pytest.mark.claim("toy.leak")
def test_leak(claims):
    claims.count("toy.leak", Level(), levels=(1,), change=batch, claimed=40.0, measure=leaking)
"""
    inner.write(row("toy.leak", "count", metric="leak"), tests=LEAKING + tests)
    result = inner.run("--gia-placebo=saboteur")
    result.assert_outcomes(skipped=1)
    assert inner.verdicts["toy.leak"]["outcome"] == "not applicable"


def test_rows_that_call_no_attack_are_not_applicable(inner: Inner) -> None:
    """A placebo would be said to support what has nothing to do with an attack."""
    other = """
from hypothesis import strategies as st

@pytest.mark.claim("toy.always")
def test_always(claims):
    claims.universal("toy.always", lambda x: 1.0, {"x": st.integers()})

@pytest.mark.claim("toy.told")
def test_told(claims):
    from gia.harness.decide import verdicts

    claims.record(verdicts.paired(claims.claim("toy.told"), [1.0] * 8, [0.0] * 8))
"""
    rows = [row("toy.own"), row("toy.always", "universal"), row("toy.told", "paired"), row("toy.leak", metric="leak")]
    own = "def own(level, block, *, cache):\n    return Result({'psnr': 1.0})\n"
    tests = own + trend("toy.own", measure="own") + other + trend("toy.leak", measure="leaking")
    inner.write(*rows, tests=LEAKING + tests)
    result = inner.run("--gia-placebo=noise")
    result.assert_outcomes(passed=1, skipped=3)
    assert {id: found["outcome"] for id, found in inner.verdicts.items()} == {
        "toy.own": "not applicable",
        "toy.always": "not applicable",
        "toy.told": "not applicable",
        "toy.leak": "inconclusive",
    }
    assert inner.computed == []


def test_under_ci_a_placebo_run_keeps_the_networks_of_the_claims_run(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of six placebos would train every victim again."""
    monkeypatch.setenv("CI", "true")
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run()
    folder = inner.folder
    store = folder / "blocks"
    (store / "nets").mkdir(exist_ok=True)
    (store / "nets" / "victim.safetensors").touch()
    inner.run("--gia-placebo=noise")
    assert (store / "nets" / "victim.safetensors").exists()
    assert len(list(store.glob("*.json"))) == 24  # also of the placebo and of its controls
    assert inner.folder.name.endswith("-placebo-noise")
    assert not (inner.folder / "blocks").exists()
