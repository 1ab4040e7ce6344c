"""The search for counterexamples: what refutes, what supports, what is an error, and what is reported."""

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument, Unsatisfiable

from gia.harness.decide.counterexamples import ClaimRefuted, exact, universal
from gia.harness.decide.register import Claim

X = {"x": st.floats(0, 100)}
FEW = {"minimum": 20}  # where the number of examples is not the point
XY = {"x": st.integers(0, 1000), "y": st.integers(0, 1000)}


def claim(kind="universal", *, margin=None, name="c.x"):
    """A row of the register of this kind."""
    return Claim(name, "It always is.", kind, "slack", "relative", margin, None, "Thm 1", "a bound")


def test_a_true_statement_is_supported_by_at_least_200_distinct_examples():
    """If this fails, a claim stands on fewer examples than the design says, or on none."""
    verdict = universal(claim(), lambda x: x * x + 0.5, X)
    assert verdict.outcome == "supported"
    assert verdict.blocks >= 200
    assert (verdict.effect, verdict.interval, verdict.void, verdict.p) == (0.5, None, 0, None)
    assert verdict.detail["worst"] == {"margin": 0.5, "example": "x=0.0"}
    assert verdict.measured == "worst margin 0.5 at x=0.0"


def test_one_counterexample_refutes_and_both_the_worst_and_the_smallest_are_reported():
    """If this fails, a refutation shows only the shrunk example, which fails by a hair, or only a large ugly one."""
    verdict = universal(claim(), lambda x, y: 900 - x, XY)
    assert verdict.outcome == "refuted"
    assert verdict.detail["counterexample"] == {"margin": -1, "example": "x=901, y=0"}
    assert verdict.effect == verdict.detail["worst"]["margin"] < -50
    assert "fails at x=901, y=0 (margin -1); worst margin" in verdict.measured


def test_a_refutation_raised_by_the_check_counts_as_one():
    """If this fails, checks that raise and checks that return are judged differently."""

    def check(x):
        if x > 50:
            raise ClaimRefuted(50 - x)
        return 1.0

    verdict = universal(claim(), check, X)
    assert verdict.outcome == "refuted"
    assert verdict.detail["counterexample"] == {"margin": -1.0, "example": "x=51.0"}
    assert verdict.effect <= -49


def test_two_ways_of_failing_are_one_refutation():
    """If this fails, Hypothesis takes two lines that refute for two bugs and their group passes for a crash."""

    def check(x):
        if x > 90:
            raise ClaimRefuted(-2.0)
        if x < 10:
            raise ClaimRefuted(-1.0)
        return 50 - x

    assert universal(claim(), check, X).outcome == "refuted"


@pytest.mark.parametrize("kind", ["universal", "exact"])
@pytest.mark.parametrize("error", [KeyError, AssertionError, ZeroDivisionError])
def test_a_crash_in_the_check_is_an_error_even_beside_a_counterexample(kind, error):
    """If this fails, a bug in the code under test passes for evidence about the paper."""

    def check(x):
        if x > 75:
            raise error("broken")
        return 100.0 if x > 50 and kind == "exact" else 50.0 - x if kind == "universal" else 0.0

    with pytest.raises(error, match="broken"):
        {"universal": universal, "exact": exact}[kind](claim(kind), check, X)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["universal", "exact"])
def test_a_margin_that_is_not_finite_is_an_error(kind, value):
    """If this fails, a check that divides by zero supports everything: NaN is never below 0."""
    with pytest.raises(ValueError, match=r"check: expected"):
        {"universal": universal, "exact": exact}[kind](claim(kind), lambda x: value, X)


def test_too_few_distinct_examples_are_inconclusive():
    """If this fails, the same 51 cases, or cases that differ in nothing, support a statement about every input."""
    verdict = universal(claim(), lambda n: 1.0, {"n": st.integers(0, 50)})
    assert (verdict.outcome, verdict.blocks) == ("inconclusive", 51)
    assert verdict.detail["reason"] == "only 51 distinct valid examples, and 200 are needed"
    repeated = universal(claim(), lambda n: 1.0, {"n": st.integers(0, 10**6).map(lambda n: n % 3)}, **FEW)
    assert (repeated.outcome, repeated.blocks) == ("inconclusive", 3)
    tensors = {"t": st.integers(0, 10**6).map(lambda n: torch.tensor([float(n % 3)]))}
    assert universal(claim(), lambda t: 1.0, tensors, **FEW).blocks == 3
    assert universal(claim(), lambda n: 1.0, {"n": st.integers(0, 50)}, minimum=51).outcome == "supported"


def test_rejected_examples_do_not_count():
    """If this fails, a check that assumes nearly everything away is supported by what it never looked at."""

    def check(n):
        assume(n % 8 == 0)
        return 1.0

    verdict = universal(claim(), check, {"n": st.integers(0, 799)}, minimum=101)
    assert verdict.outcome == "inconclusive"
    assert 0 < verdict.blocks <= 100


def test_a_check_that_rejects_everything_is_an_error():
    """If this fails, an impossible assumption passes for a statement that holds."""
    with pytest.raises(Unsatisfiable):
        universal(claim(), lambda x: assume(x > 100), X, **FEW)


def test_explicit_examples_come_first_and_can_refute_alone():
    """If this fails, a counterexample once found is lost as soon as another version draws other examples."""
    tried = []

    def check(n):
        tried.append(n)
        return -3.0 if n == 123_456_789 else 1.0

    space = {"n": st.integers(0, 10**9)}
    verdict = universal(claim(), check, space, examples=[{"n": 5}, {"n": 123_456_789}], **FEW)
    assert tried[:2] == [5, 123_456_789]
    assert len(set(tried)) > 20  # the search goes on
    assert verdict.outcome == "refuted"
    assert verdict.detail["counterexample"] == {"margin": -3.0, "example": "n=123456789"}


def test_an_explicit_example_that_tests_nothing_is_an_error():
    """If this fails, a stored counterexample is skipped in silence once the assumptions change, or its name."""

    def check(x):
        assume(x > 50)
        return 1.0

    with pytest.raises(ValueError, match=r"examples: expected ones that the check's assumptions allow, got x=3.0"):
        universal(claim(), check, X, examples=[{"x": 3.0}])
    with pytest.raises(InvalidArgument):
        universal(claim(), check, X, examples=[{"z": 60.0}])


def test_the_claims_id_alone_seeds_the_search():
    """If this fails, a verdict can be rerun until it is green, or changes on CI, where another profile is loaded."""

    def tried(name, profile="default"):
        values = []
        before = settings.get_current_profile_name()
        settings.load_profile(profile)
        try:
            universal(claim(name=name), lambda x: values.append(x) or 1.0, X, **FEW)
        finally:
            settings.load_profile(before)
        return values

    settings.register_profile("hostile", max_examples=3, deadline=1e-3, derandomize=True, suppress_health_check=())
    assert tried("a.x") == tried("a.x") == tried("a.x", "ci") == tried("a.x", "hostile")
    assert tried("a.x") != tried("b.x")


def test_health_checks_do_not_stop_a_slow_or_choosy_claim():
    """If this fails, a claim over large inputs or with many rejections ends as an error on a slow machine."""
    settings.register_profile("strict", suppress_health_check=(), deadline=1)
    before = settings.get_current_profile_name()
    settings.load_profile("strict")
    try:
        large = st.lists(st.integers(), min_size=500, max_size=500).filter(lambda x: sum(x) % 4 == 0)
        assert universal(claim(), lambda x: 1.0, {"x": large}, minimum=3).outcome == "supported"
    finally:
        settings.load_profile(before)
    assert set(settings.get_profile("claims").suppress_health_check) == set(HealthCheck)


def test_exact_reports_the_largest_error_and_holds_it_to_the_margin():
    """If this fails, equality is judged by another tolerance than the committed one."""
    sums = {"x": st.floats(0, 1), "y": st.floats(0, 1)}
    check = lambda x, y: abs((x + y) - y - x)  # noqa: E731
    verdict = exact(claim("exact", margin=1e-12), check, sums, **FEW)
    assert verdict.outcome == "supported"
    assert 0 < verdict.effect <= 2**-52
    assert verdict.detail["worst"]["error"] == verdict.effect
    assert exact(claim("exact"), check, sums, **FEW).outcome == "refuted"  # no margin: exactly equal
    assert exact(claim("exact"), lambda x, y: 0, sums, **FEW).outcome == "supported"


def test_an_error_at_the_tolerance_is_within_it():
    """If this fails, the border belongs to the other side: an error of exactly the margin is allowed."""
    assert exact(claim("exact", margin=0.5), lambda x: 0.5, X, **FEW).outcome == "supported"
    refuted = exact(claim("exact", margin=0.5), lambda x: 0.75, X, **FEW)
    assert refuted.outcome == "refuted"
    assert refuted.effect == 0.75
    assert refuted.measured == "fails at x=0.0 (error 0.75); worst error 0.75 at x=0.0"


def test_a_negative_error_is_refused():
    """If this fails, a check that returns a margin where an error is due is always supported."""
    with pytest.raises(ValueError, match=r"check: expected an error >= 0, got -0.1 for x=0.0"):
        exact(claim("exact", margin=1.0), lambda x: -0.1, X)


@pytest.mark.parametrize("margin", [0.0, 1.0, math.nan, -math.inf])
def test_a_refutation_carries_a_negative_finite_margin(margin):
    """If this fails, a counterexample that is none, or is of infinite weight, hides the worst one."""
    with pytest.raises(ValueError, match="margin: expected a negative finite number"):
        ClaimRefuted(margin)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: universal(claim("exact"), len, X), ValueError, "kind: expected 'universal' for this verdict"),
        (lambda: exact(claim(), len, X), ValueError, "kind: expected 'exact' for this verdict"),
        (lambda: universal(claim(), len, X, minimum=0), ValueError, "minimum: expected at least 1, got 0"),
        (lambda: universal(claim(), len, {}), ValueError, "strategies: expected at least one"),
        (
            lambda: universal(claim(), lambda f: 1.0, {"f": st.just(lambda: 1)}),
            TypeError,
            "can be pickled, got f=",
        ),
    ],
)
def test_a_call_that_does_not_fit_is_refused(call, error, message):
    """If this fails, a slip in a claim module surfaces as a verdict."""
    with pytest.raises(error, match=message):
        call()


def test_a_refutation_prints_nothing(capsys):
    """If this fails, expected refutations fill the log with falsifying examples that look like failures."""
    universal(claim(), lambda x: 50 - x, X, **FEW)
    assert capsys.readouterr() == ("", "")


def test_what_shrinking_tries_does_not_count():
    """Shrinking ends by the clock: if this fails, a slow machine reports another worst example for the same draws."""
    seen = []

    def check(x, y):
        seen.append((x, y))
        return -2.0 if (x, y) in shrunk else -1.0 if x > 500 else 1.0

    shrunk = set()
    first = universal(claim(), check, XY, minimum=20)
    shrunk = set(seen[-3:]) - set(seen[:40])  # only shrinking tries these
    assert shrunk
    again = universal(claim(), check, XY, minimum=20)
    assert (again.effect, again.blocks) == (first.effect, first.blocks) == (-1.0, len(set(seen[:40])))
