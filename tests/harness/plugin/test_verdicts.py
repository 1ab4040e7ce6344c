"""The plugin from outside: what becomes of planted claims, whatever their outcome."""

from __future__ import annotations

import pytest

from tests.harness.plugin.inner_project import Inner, row, trend

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("slope", "outcome"), [(2.0, "supported"), (0.0, "refuted"), (-2.0, "refuted")], ids=["true", "null", "reversed"]
)
@pytest.mark.parametrize("says", ["supported", "refuted", "nothing"])
def test_without_a_record_no_outcome_fails_whatever_the_paper_says(
    inner: Inner, slope: float, outcome: str, says: str
) -> None:
    """A refuted claim of the paper would turn the run red, and somebody would look for settings that turn it green."""
    inner.write(row("toy.trend", more=f'paper_says = "{says}"'), tests=trend("toy.trend", slope))
    result = inner.run()
    result.assert_outcomes(passed=1)
    assert inner.verdicts["toy.trend"]["outcome"] == outcome
    words = outcome if says in (outcome, "nothing") else f"{outcome} (paper: {says})"
    result.stdout.fnmatch_lines([f"ok  toy.trend  {words}:*", "*first run: nothing to compare with*"])


def test_this_lane_takes_one_look(inner: Inner) -> None:
    """Looking until it is green would make every null hypothesis significant."""
    inner.write(
        row("toy.late"), row("toy.early"), tests=trend("toy.late", measure="one_undecided") + trend("toy.early")
    )
    inner.run().assert_outcomes(passed=2)
    found = {id: (v["outcome"], v["look"], v["blocks"], v["cached"]) for id, v in inner.verdicts.items()}
    assert found == {"toy.early": ("supported", 1, 8, 0), "toy.late": ("inconclusive", 1, 8, 0)}


def test_void_blocks_are_left_out_and_shown(inner: Inner) -> None:
    """Dead networks would enter the statistic, or vanish from the report."""
    inner.write(
        row("toy.void"),
        tests="""
@pytest.mark.claim("toy.void")
def test_void(claims):
    base = Level(control=fails_at_first, void=3)
    claims.trend("toy.void", base, levels=(1, 2), change=batch, x=math.log2)
""",
    )
    result = inner.run()
    result.assert_outcomes(passed=1)
    verdict = inner.verdicts["toy.void"]
    assert (verdict["outcome"], verdict["blocks"], verdict["void"], verdict["look"]) == ("supported", 8, 3, 1)
    (table,) = verdict["tables"]
    assert table["void"] == {"0": "planted", "1": "planted", "2": "planted"}
    assert table["medians"]["psnr"] == pytest.approx([20.05, 18.05], abs=0.05)
    result.stdout.fnmatch_lines(["*8 blocks, 3 void*", '*conditional on "the path works"*'])


def test_only_void_blocks_decide_nothing(inner: Inner) -> None:
    """A claim without one living network would be supported, or crash."""
    inner.write(
        row("toy.void"),
        tests="""
@pytest.mark.claim("toy.void")
def test_void(claims):
    base = Level(control=fails_at_first, void=99)
    claims.trend("toy.void", base, levels=(1, 2), change=batch, x=math.log2)
""",
    )
    inner.run().assert_outcomes(passed=1)
    verdict = inner.verdicts["toy.void"]
    assert (verdict["outcome"], verdict["blocks"], verdict["void"]) == ("inconclusive", 0, 8)


@pytest.mark.parametrize("kind", ["paired", "affected", "equivalence", "count"])
def test_every_kind_of_block_claim_reaches_its_verdict(inner: Inner, kind: str) -> None:
    """A kind would be wired to another's statistic."""
    more = ", claimed=(20.0, 18.0)" if kind == "count" else ""
    inner.write(
        row("toy.kind", kind),
        tests=f"""
@pytest.mark.claim("toy.kind")
def test_kind(claims):
    claims.{kind}("toy.kind", Level(), levels=(1, 2), change=batch{more})
""",
    )
    inner.run().assert_outcomes(passed=1)
    expected = "refuted" if kind == "equivalence" else "supported"
    assert (inner.verdicts["toy.kind"]["kind"], inner.verdicts["toy.kind"]["outcome"]) == (kind, expected)


@pytest.mark.parametrize("kind", ["paired", "affected"])
def test_further_levels_of_a_pair_are_measured_and_decide_nothing(inner: Inner, kind: str) -> None:
    """A third condition would be refused, or would take the place of the second in the verdict."""
    inner.write(
        row("toy.further", kind),
        tests=f"""
@pytest.mark.claim("toy.further")
def test_further(claims):
    claims.{kind}("toy.further", Level(), levels=(2, 4, 1), change=batch)
""",
    )
    inner.run().assert_outcomes(passed=1)
    verdict = inner.verdicts["toy.further"]
    (table,) = verdict["tables"]
    assert table["levels"] == ["2", "4", "1"]
    assert verdict["effect"] == pytest.approx(2.0 if kind == "paired" else -2.0, abs=0.1)


def test_levels_that_an_equivalence_only_shows_do_not_decide_it(inner: Inner) -> None:
    """What is only drawn would refute "no effect", or a level that matters would be left out."""
    tests = """
@pytest.mark.claim("toy.{shown}")
def test_shown_{shown}(claims):
    claims.compare("toy.{shown}", Level(slope=0.0), levels=(1, 2, 4), shown={shown}, change=last)
"""
    last = "def last(level, size):\n    return replace(level, size=size, slope=4.0 * (size == 4))\n"
    rows = [row("toy.1", "equivalence"), row("toy.0", "equivalence")]
    inner.write(*rows, tests=last + "".join(tests.format(shown=shown) for shown in (1, 0)))
    inner.run().assert_outcomes(passed=2)
    assert inner.verdicts["toy.1"]["tables"][0]["levels"] == ["1", "2", "4"]
    assert {id: verdict["outcome"] for id, verdict in inner.verdicts.items()} == {
        "toy.1": "supported",
        "toy.0": "refuted",
    }


def test_two_metrics_of_one_level_are_compared_as_levels_are(inner: Inner) -> None:
    """One attack would run twice to compare its result with two images, or a column would be compared with itself."""
    tests = """
def measured(level, block, *, cache):
    return Result({"psnr": 20.0 + block.index, "psnr_other": 15.0 + block.index})

@pytest.mark.claim("toy.two")
def test_two(claims):
    same = lambda level, label: level
    claims.paired("toy.two", Level(), levels=["one"], change=same, value=("psnr", "psnr_other"), measure=measured)

@pytest.mark.claim("toy.levels")
def test_levels(claims):
    claims.compare("toy.levels", Level(), levels=[1, 2], change=batch, value=("psnr", "rmse"))

@pytest.mark.claim("toy.count")
def test_count(claims):
    claims.compare("toy.count", Level(), levels=[1], change=batch)
"""
    inner.write(
        row("toy.two", kind="paired"), row("toy.levels", kind="paired"), row("toy.count", kind="count"), tests=tests
    )
    result = inner.run()
    result.assert_outcomes(passed=1, failed=2)
    assert inner.verdicts["toy.two"]["effect"] == 5.0
    result.stdout.fnmatch_lines(
        [
            "*value: expected one metric for 2 levels, got *'psnr', 'rmse'*",
            "*id: expected a claim that compares levels, got 'toy.count' of kind 'count'*",
        ]
    )


def test_a_crash_inside_a_claim_is_a_failure_without_a_verdict(inner: Inner) -> None:
    """A bug would count as evidence."""
    inner.write(row("toy.crash"), row("toy.fine"), tests=trend("toy.crash", measure="crashing") + trend("toy.fine"))
    result = inner.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*ZeroDivisionError: planted in block 3*", "*NOT toy.crash: no verdict, its test failed*"]
    )
    assert set(inner.verdicts) == {"toy.fine"}


def test_an_interrupted_run_keeps_the_verdicts_that_are_finished(inner: Inner) -> None:
    """Ctrl-C in the last claim would cost the whole night."""
    stop = """
@pytest.mark.claim("toy.second")
def test_second(claims):
    raise KeyboardInterrupt
"""
    inner.write(row("toy.first"), row("toy.second"), tests=trend("toy.first") + stop)
    result = inner.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert set(inner.verdicts) == {"toy.first"}
    assert "toy.first" in (inner.folder / "report.md").read_text(encoding="utf-8")
    result.stdout.fnmatch_lines(
        ["*toy.first*supported*", "*NOT toy.second: no verdict, its test did not run to its end*"]
    )
