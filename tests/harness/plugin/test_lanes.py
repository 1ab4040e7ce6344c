"""The lanes from outside: records, placebos, confirm runs and reach, on planted claims under git."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gia.harness.plugin.lanes import Lane
from tests.harness.plugin.inner_project import Inner, row, trend

pytest_plugins = ["pytester"]

RECORD = ("--gia-record", "--gia-reason=planted")
CONFIRM = "--gia-lane=confirm"

#: A level whose planted number holds while the attack runs, or while a placebo is in its place.
LEAKING = """
def leaking(level, block, *, cache=None):
    given = {"own": 20.0, "truth": 40.0}.get(level.attack, level.slope if level.attack == "blind" else 0.0)
    worse = 3.0 * math.log2(level.size) if level.attack == "own" else 0.0
    return Result({"leak": given - worse}, details={"placebo": {}})
"""


def set_slope(inner: Inner, id: str, slope: float) -> None:
    """A module with one trend of this slope."""
    (inner.path / "claims" / "test_toy.py").write_text(
        "import math\nimport pytest\nfrom planted import *\n" + trend(id, slope), encoding="utf-8"
    )


def announce(inner: Inner, *options: str) -> str:
    """Commit everything, announce the confirm runs, and commit that; returns the frozen commit."""
    frozen = inner.commit()
    inner.run(CONFIRM, "--gia-open", *options)
    inner.commit()
    return frozen


def test_a_record_is_stored_on_purpose_and_then_holds(inner: Inner) -> None:
    """A verdict that turns would pass, or be stored by accident."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run().assert_outcomes(passed=1)
    assert not (inner.path / "baselines").exists()
    inner.run(*RECORD).assert_outcomes(passed=1)
    stored = inner.records("claims")["toy.trend"]
    assert (stored["outcome"], stored["blocks"], stored["look"], stored["commit"]) == ("supported", 8, 1, "unversioned")
    assert inner.ledger == []  # a first record changes nothing
    result = inner.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*record: supported (unversioned)*"])


def test_a_run_says_which_rows_it_put_on_record(inner: Inner) -> None:
    """Nobody would know whether --record did anything, or which file is to be committed."""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + trend("toy.second"))
    result = inner.run(*RECORD)
    result.stdout.fnmatch_lines([f"recorded: toy.{name} in baselines/claims.json" for name in ("first", "second")])
    inner.run().stdout.no_fnmatch_line("recorded: *")


def test_verdicts_of_other_arithmetic_go_on_no_record(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain `pytest --record` would store numbers that no other machine repeats."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    monkeypatch.delenv("MKL_CBWR")
    result = inner.run(*RECORD)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    command = "nox -s claims -- ... --gia-record --gia-reason TEXT sets MKL_CBWR=AVX2,STRICT"
    result.stderr.fnmatch_lines([f"*--gia-record: expected pinned arithmetic*: {command}"])
    assert not (inner.path / "baselines").exists()


def test_a_contradicted_record_fails_and_says_how_it_may_move(inner: Inner) -> None:
    """Supported yesterday and refuted today would both be green."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run(*RECORD)
    set_slope(inner, "toy.trend", 0.0)
    result = inner.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*UnexpectedOutcomeError: toy.trend: supported on record (claims), now refuted*",
            "*--gia-record --gia-reason*",
        ]
    )
    inner.run(*RECORD).assert_outcomes(passed=1)
    (entry,) = inner.ledger
    assert (entry["kind"], entry["before"], entry["after"]) == ("changed", "supported", "refuted")
    assert entry["reason"] == "planted"
    assert entry["digest"] == inner.records("claims")["toy.trend"]["digest"]
    result = inner.run()
    result.stdout.fnmatch_lines(["*history: protocol 2; earlier supported*"])


def test_an_inconclusive_record_of_other_blocks_contradicts_nothing(inner: Inner) -> None:
    """Every change of a protocol would need a new record before it could be tried."""
    inner.write(row("toy.trend"), tests=trend("toy.trend", measure="one_undecided"))
    inner.run(*RECORD)
    assert inner.records("claims")["toy.trend"]["outcome"] == "inconclusive"
    set_slope(inner, "toy.trend", 3.0)
    inner.run().assert_outcomes(passed=1)


def computed(inner: Inner) -> list[int]:
    """The blocks that were computed since this was asked last."""
    log = inner.path / "computed.txt"
    blocks = sorted({int(line.split()[1]) for line in log.read_text(encoding="utf-8").splitlines()})
    log.unlink()
    return blocks


def test_a_look_ends_early_only_where_the_record_says_what_is_certain(inner: Inner, monkeypatch) -> None:
    """CI would pay for blocks that change nothing, or a row that has moved would be said to agree after two blocks."""
    monkeypatch.setenv("CI", "true")  # its blocks are kept with the run
    inner.write(row("toy.trend"), tests=trend("toy.trend", measure="always_undecided"))
    early = "--gia-stop-early"
    inner.run(early).assert_outcomes(passed=1)
    assert computed(inner) == list(range(8))  # nothing is on record
    monkeypatch.delenv("CI")
    inner.run(*RECORD)
    monkeypatch.setenv("CI", "true")
    computed(inner)
    result = inner.run(early)
    result.assert_outcomes(passed=1)
    assert computed(inner) == [0, 1, 2, 3]
    verdict = inner.verdicts["toy.trend"]
    assert (verdict["outcome"], verdict["blocks"], verdict["interval"]) == ("inconclusive", 4, None)
    assert verdict["why"].startswith("certain after 4 of 8 valid blocks")
    result.stdout.fnmatch_lines(["*looks end early*"])
    set_slope(inner, "toy.trend", 2.0)  # as before, but measured without the noise that hides it
    inner.run(early).assert_outcomes(failed=1)
    assert computed(inner) == list(range(8))
    assert inner.verdicts["toy.trend"]["outcome"] == "supported"


@pytest.mark.parametrize("other", [RECORD, ("--gia-placebo=blind",), (CONFIRM,), ("--gia-attack=flat",)])
def test_a_look_does_not_end_early_where_its_interval_is_wanted(inner: Inner, other: tuple[str, ...]) -> None:
    """An inconclusive row would go on record without its numbers."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    result = inner.run("--gia-stop-early", *other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gia-stop-early: expected in the lane claims*without --gia-record*"])


def test_pilot_blocks_are_others_and_compared_with_nothing(inner: Inner) -> None:
    """A setting could be tried on the blocks that decide."""
    inner.write(row("toy.trend"), tests=trend("toy.trend"))
    inner.run(*RECORD)
    set_slope(inner, "toy.trend", 0.0)
    inner.run("--gia-lane=pilot").assert_outcomes(passed=1)
    assert inner.folder.name.endswith("-reduced-unversioned-pilot")
    tried = inner.verdicts["toy.trend"]
    assert tried["digest"] != inner.records("claims")["toy.trend"]["digest"]
    assert tried["notice"] == ""


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


def test_a_confirm_run_is_announced_first_then_run_once(inner: Inner) -> None:
    """A verdict could be taken from the blocks that happened to be kind, or be tried until it fits."""
    inner.write(row("toy.a"), row("toy.b"), tests=trend("toy.a") + trend("toy.b", 0.0))
    inner.commit()
    unannounced = inner.run(CONFIRM)
    unannounced.assert_outcomes(skipped=2)
    unannounced.stdout.fnmatch_lines(["NOT toy.a: no verdict, not confirmed yet: no run was announced*"])

    frozen = announce(inner)
    assert inner.computed == []
    assert [(entry["kind"], entry["rows"], entry["commit"]) for entry in inner.ledger] == [
        ("opened", ["toy.a"], frozen),
        ("opened", ["toy.b"], frozen),
    ]
    inner.run(CONFIRM, "-k", "toy_a").assert_outcomes(passed=1, deselected=1)
    assert inner.records("confirm")["toy.a"]["outcome"] == "supported"
    assert inner.records("confirm")["toy.a"]["frozen"] == frozen
    assert (inner.ledger[-1]["kind"], inner.ledger[-1]["after"]) == ("confirmed", "supported")

    before = len(inner.computed)
    resumed = inner.run(CONFIRM)  # the working tree has what the first run wrote, and nothing else
    resumed.assert_outcomes(passed=1, skipped=1)
    assert inner.records("confirm")["toy.b"]["outcome"] == "refuted"
    assert not [line for line in inner.computed[before:] if line.startswith("toy.a")]
    inner.commit()
    inner.run(CONFIRM, "--gia-open")
    assert len(inner.ledger) == 4  # nothing is left to announce
    inner.run(CONFIRM).assert_outcomes(skipped=2)


def test_the_salt_of_confirm_blocks_is_that_of_the_frozen_commit_and_the_claim() -> None:
    """Whoever knows the blocks could choose a setting for them."""
    expected = hashlib.sha256(f"{'a' * 40} op.size".encode()).hexdigest()
    assert Lane("confirm").of_blocks("op.size", "a" * 40) == f"confirm:{expected}"
    with pytest.raises(ValueError, match="frozen: expected the commit"):
        Lane("confirm").of_blocks("op.size", None)


def test_another_confirm_run_of_a_row_is_another_try(inner: Inner) -> None:
    """A row could be run again until it fits."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    inner.run(CONFIRM)
    first = inner.records("confirm")["toy.a"]["digest"]
    set_slope(inner, "toy.a", 2.5)
    announce(inner)
    inner.run(CONFIRM)
    second = inner.records("confirm")["toy.a"]
    assert second["digest"] != first
    assert [entry["kind"] for entry in inner.ledger] == ["opened", "confirmed", "opened", "confirmed"]
    # The second try of a row has no first look, so that both together err as seldom as one.
    assert (second["look"], second["blocks"]) == (2, 16)


def test_a_dirty_tree_or_code_that_changed_since_is_refused(inner: Inner) -> None:
    """A confirmed verdict would be of code that nobody can look up."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    source = (inner.path / "planted.py").read_text(encoding="utf-8")
    (inner.path / "planted.py").write_text(source + "# edited\n", encoding="utf-8")
    dirty = inner.run(CONFIRM)
    assert dirty.ret == pytest.ExitCode.USAGE_ERROR
    dirty.stderr.fnmatch_lines(["*--gia-lane=confirm: expected a working tree without changes, got * planted.py*"])
    inner.commit()
    moved = inner.run(CONFIRM)
    moved.assert_outcomes(errors=1)  # it was announced, and has no verdict
    moved.stdout.fnmatch_lines(
        ["*a skip without a known reason: not confirmed yet: announced at *planted.py changed since*"]
    )
    assert inner.computed == []


def test_a_confirm_run_may_look_three_times(inner: Inner) -> None:
    """A true effect that eight blocks cannot show would stay inconclusive, or one look more would be taken."""
    inner.write(
        row("toy.late"),
        row("toy.never"),
        tests=trend("toy.late", measure="one_undecided") + trend("toy.never", measure="always_undecided"),
    )
    announce(inner)
    inner.run(CONFIRM).assert_outcomes(passed=2)
    found = inner.records("confirm")
    assert (found["toy.late"]["outcome"], found["toy.late"]["look"]) == ("supported", 2)
    assert (found["toy.never"]["outcome"], found["toy.never"]["look"]) == ("inconclusive", 3)
    assert found["toy.never"]["blocks"] == 32
    assert len(inner.computed) == len(set(inner.computed))  # each look keeps the blocks before it


@pytest.mark.parametrize(("longer", "outcome"), [(0.0, "inconclusive"), (1.5, "supported")])
def test_a_confirmed_effect_must_hold_at_four_times_the_budget(inner: Inner, longer: float, outcome: str) -> None:
    """An artefact of too few steps would be a fact."""
    tests = """
class Searched(Level):
    def with_budget(self, factor):
        assert factor == 4
        return replace(self, attack="longer", slope={longer})

@pytest.mark.claim("toy.a")
def test_a(claims):
    claims.trend("toy.a", Searched(control=fails_at_first, void=2), levels=(1, 2, 4), change=batch, x=math.log2)
""".replace("{longer}", str(longer))
    inner.write(row("toy.a"), tests=tests)
    announce(inner)
    inner.run(CONFIRM).assert_outcomes(passed=1)
    assert inner.records("confirm")["toy.a"]["outcome"] == outcome
    (found,) = json.loads((confirm_folder(inner) / "verdicts.json").read_text(encoding="utf-8"))
    assert (found["why"].startswith("budget-dependent")) == (outcome == "inconclusive")
    # 8 valid and 2 void blocks; again at four times the budget, where the void ones are not attacked either.
    assert len(inner.computed) == 2 * 8 * 3


def confirm_folder(inner: Inner) -> Path:
    """The folder of the last confirm run."""
    return max((inner.path / ".gia" / "runs").glob("*-confirm"))


def test_reach_labels_every_drawn_setting_and_finds_what_moves_it(inner: Inner) -> None:
    """A verdict in the median setting would be taken for one everywhere."""
    tests = """
def by_activation(level, block, *, cache=None):
    slope = {"relu": 2.0, "silu": 0.0}[block.setting["activation"]]
    return measure(replace(level, slope=slope), block)

@pytest.mark.claim("toy.a")
def test_a(claims):
    level = Level(vary={"activation": ("relu", "silu"), "width": (1, 2, 3)}, control=fails_at_first, void=2)
    claims.trend("toy.a", level, levels=(1, 2, 4), change=batch, x=math.log2, measure=by_activation)
"""
    other = """
@pytest.mark.claim("toy.n")
def test_n(claims):
    claims.count("toy.n", Level(), levels=(1,), change=batch, claimed=20)
"""
    inner.write(row("toy.a"), row("toy.n", "count"), tests=tests + other)
    result = inner.run("--gia-lane=reach")
    result.assert_outcomes(passed=1, skipped=1)
    found = inner.records("reach")["toy.a"]
    assert sum(each["count"] for each in found["shares"].values()) == len(found["draws"]) == 24
    assert found["shares"]["void"]["count"] == 2
    for draw in found["draws"][2:]:
        assert draw["label"] == {"relu": "holds", "silu": "no effect"}[draw["setting"]["activation"]]
    assert found["factor"]["factor"] == "activation"
    assert found["factor"]["p"] < 0.01
    assert found["stability"]["settings"] == 16
    assert inner.verdicts["toy.a"]["pictures"] == ["images/toy.a-reach.png"]
    # Void settings are not attacked; the first 16 settings are drawn again in other blocks.
    assert [line for line in inner.computed if line.endswith(" 1")] == [
        *(f"toy.a {index} 1" for index in range(2, 24)),
        *(f"toy.a {1000 + index} 1" for index in range(16)),
    ]
    result = inner.run()
    result.stdout.fnmatch_lines(["*reach: holds *of all settings*"])


def test_a_setting_without_room_at_any_level_is_dead_whatever_its_effect(inner: Inner) -> None:
    """Settings where nothing leaks would count as settings where the factor has no effect."""
    tests = """
def by_activation(level, block, *, cache=None):
    alive = block.setting["activation"] == "relu"
    return Result({"leak": 6.0 + math.log2(level.size) if alive else 0.0})

@pytest.mark.claim("toy.a")
def test_a(claims):
    level = Level(vary={"activation": ("relu", "silu")})
    claims.trend("toy.a", level, levels=(1, 2, 4), change=batch, x=math.log2, measure=by_activation)
"""
    inner.write(row("toy.a", metric="leak"), tests=tests)
    inner.run("--gia-lane=reach").assert_outcomes(passed=1)
    for draw in inner.records("reach")["toy.a"]["draws"]:
        assert draw["label"] == {"relu": "reversed", "silu": "dead"}[draw["setting"]["activation"]]


def test_reach_asks_about_the_blocks_of_the_announced_confirm_run_and_measures_no_row_twice(inner: Inner) -> None:
    """Verdict and reach would be of two samples, and blocks that are stored would be computed again."""
    tests = """
@pytest.mark.claim("toy.{id}")
def test_{id}(claims):
    claims.trend("toy.{id}", Level(vary={"width": (1, 2)}), levels=(1, 2, 4), change=batch, x=math.log2)
"""
    inner.write(row("toy.a"), row("toy.b"), tests="".join(tests.replace("{id}", id) for id in "ab"))
    announce(inner)
    inner.run(CONFIRM, "-k", "test_a").assert_outcomes(passed=1, deselected=1)
    assert len(inner.computed) == 8 * 3
    inner.run("--gia-lane=reach", "-k", "test_a").assert_outcomes(passed=1, deselected=1)
    assert len(inner.computed) == (24 + 16) * 3
    assert "dead" not in inner.records("reach")["toy.a"]["shares"]  # this row is not about a leak
    inner.run(CONFIRM).assert_outcomes(passed=1, skipped=1)  # what reach wrote is no change of the code
    again = inner.run("--gia-lane=reach")
    again.assert_outcomes(passed=1, skipped=1)
    again.stdout.fnmatch_lines(["NOT toy.a: no verdict, reach is on record (*): holds *"])


def test_a_confirm_run_of_another_protocol_than_the_announced_one_is_not_made(inner: Inner) -> None:
    """The ledger would announce one experiment, and confirm.json would hold another one's verdict."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    result = inner.run(CONFIRM, "--gia-data=elsewhere")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*not confirmed yet: announced with another protocol*"])
    assert inner.computed == []
    inner.run(CONFIRM).assert_outcomes(passed=1)


def test_reach_decides_each_setting_as_the_row_does_and_leaves_out_rows_that_it_cannot(inner: Inner) -> None:
    """A row of two tables would be labelled by levels that it does not judge, or would end in an error."""
    tests = """
from gia.harness.decide import verdicts

VARIED = Level(vary={"width": (1, 2)})

def by_width(level, block, *, cache=None):
    return Result({"leak": 10.0 / level.size if block.setting.get("width", 1) == 1 else 0.0})

def decided(claims, id, base):
    def decide(table, look):
        return verdicts.trend(claims.claim(id), [0, 1], table.values("leak"), look=look, room=table.room("leak"))
    def measured(n):
        return claims.table(id, base, levels=(1, 2), change=batch, blocks=n, measure=by_width)
    return claims.look(measured, decide)

@pytest.mark.claim("toy.tables")
def test_tables(claims):
    def measured(n):
        each = lambda size: claims.table(
            "toy.tables", VARIED, levels=(size,), change=batch, blocks=n, measure=by_width
        )
        return {size: each(size) for size in (1, 2)}
    def decide(tables, look):
        a, b = (tables[size].values("leak")[:, 0] for size in (1, 2))
        return verdicts.paired(claims.claim("toy.tables"), a, b, look=look, room=[a.mean(), b.mean()])
    verdict, tables = claims.look(measured, decide)
    claims.record(verdict, tables=list(tables.values()))

@pytest.mark.claim("toy.apart")
def test_apart(claims):
    found = [decided(claims, "toy.apart", VARIED) for _ in range(2)]
    claims.record(found[0][0], tables=[table for _, table in found])

@pytest.mark.claim("toy.fixed")
def test_fixed(claims):
    verdict, table = decided(claims, "toy.fixed", Level())
    claims.record(verdict, tables=[table])
"""
    rows = [row("toy.tables", "paired", metric="leak"), row("toy.apart", metric="leak")]
    inner.write(*rows, row("toy.fixed", metric="leak"), tests=tests)
    result = inner.run("--gia-lane=reach")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "NOT toy.apart: no verdict, no reach: this row is decided on several tables, each of other settings",
            "NOT toy.fixed: no verdict, no reach: this row compares no levels in a space of settings",
        ]
    )
    assert set(inner.records("reach")) == {"toy.tables"}
    for draw in inner.records("reach")["toy.tables"]["draws"]:
        assert draw["label"] == {1: "holds", 2: "dead"}[draw["setting"]["width"]]


def test_a_ledger_that_was_edited_stops_the_run(inner: Inner) -> None:
    """A history could be made more pleasant."""
    inner.write(row("toy.a"), tests=trend("toy.a"))
    announce(inner)
    ledger = inner.path / "claims" / "ledger.toml"
    ledger.write_text(ledger.read_text(encoding="utf-8").replace('kind = "opened"', 'kind = "past"'), encoding="utf-8")
    result = inner.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ledger.toml: entry 1*got an edited or moved one*"])
