"""Planted claims of every kind: how often the harness supports what is false, and what it takes to support the true.

The rates are measured over simulated tables with both looks: eight blocks, and eight more after an inconclusive first
look. They are attached to each test's report (JUnit properties). "False support" is support where

- trend, paired, affected: the median effect over blocks is 0 (also for a dead attack: the blind guess plus noise);
- equivalence: some level's median difference is exactly the margin;
- count: the median is just beyond the margin from the claimed number;
- universal, exact: 5 % of the inputs, somewhere, are counterexamples.

What the rules give for tables of any law is enumerated below: .54 % at most for trend, paired and equivalence, but
1.09 % for affected, which looks at both sides, where the noise is far above the margin; there the rule as written
misses the aim of 1 %. The null speaks of medians: effects with mean 0 but a median beyond the margin are no null.
"""

import itertools

import numpy as np
import pytest
from hypothesis import strategies as st

from gia.harness.decide.counterexamples import exact, universal
from gia.harness.decide.register import Claim
from gia.harness.decide.statistics import (
    binomial_interval,
    decide_affected,
    decide_count,
    decide_directed,
    decide_equivalence,
    detectable_effect,
    interval_rank,
    median_interval,
    slopes,
)
from gia.harness.decide.verdicts import affected, count, equivalence, needs_second_look, paired, trend

TABLES = 20_000
LEVELS = np.arange(4.0)
MARGIN = 1.0

#: Noise of a block with median 0: light and heavy tails, skewed either way, and with many exact ties.
NOISE = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy": lambda rng, shape: rng.standard_t(2, shape),
    "skewed": lambda rng, shape: np.exp(rng.standard_normal(shape)) - 1,
    "mirrored": lambda rng, shape: 1 - np.exp(rng.standard_normal(shape)),
    "tied": lambda rng, shape: np.rint(rng.standard_normal(shape)),
}
SPREADS = (0.3, 1.0, 3.0, 30.0)  # in margins
noises = pytest.mark.parametrize("noise", NOISE)


def claim(kind, name="c.x", margin=MARGIN, number=None):
    """A row of the register of this kind; trends and pairs say "better", so that effects keep their sign."""
    direction = "better" if kind in ("trend", "paired") else None
    margin = None if kind == "universal" else margin
    return Claim(name, "It is so.", kind, "psnr", "dB", margin, direction, "Fig. 1", "1 to 2", {}, number=number)


def two_looks(effects, decide, margin=MARGIN):
    """Outcomes of many tables: eight of the (16, tables, ...) blocks, and all of them where these are inconclusive."""
    first, second = (decide(median_interval(effects[:blocks]), margin) for blocks in (8, 16))
    return np.where(first == "inconclusive", second, first)


def upper(outcomes, outcome="supported"):
    """The rate of an outcome in percent, and its one-sided exact upper bound at 99 %."""
    hits = int((outcomes == outcome).sum())
    return 100 * hits / outcomes.size, 100 * float(binomial_interval(hits, outcomes.size, alternative="less")[1])


def scores(rng, noise, spread, effect=0.0):
    """(16, TABLES, 4) scores: a block's own offset, and at each level the blind guess's 10 dB plus noise and effect."""
    offsets = 5 * rng.standard_normal((16, TABLES, 1))
    return 10 + offsets + effect * LEVELS + spread * NOISE[noise](rng, (16, TABLES, 4))


# What the rules give for any law of the noise.


@pytest.mark.parametrize(("decide", "limit"), [(decide_directed, 1.0), (decide_affected, 1.1)])
def test_no_law_with_median_zero_is_supported_more_often_than_the_signs_allow(decide, limit, record_property):
    """If this fails, false support exceeds what the design says, however the blocks are distributed.

    Support needs an interval clear of 0, which the signs of the blocks alone decide, and signs are fair coins. With a
    margin near 0 all else is met. Exact over all patterns: (256 + 100) / 65536 = .543 % for one side, twice that for
    two: affected misses the aim of 1 % by .09, and only where the noise dwarfs the margin.
    """
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=16))).T
    outcomes = two_looks(signs, decide, margin=1e-9)
    sides = 2 if decide is decide_affected else 1
    assert (outcomes == "supported").sum() == 356 * sides
    record_property("false support at most, %", float(100 * 356 * sides / 65536))
    assert 100 * 356 * sides / 65536 <= limit


def test_void_blocks_do_not_raise_the_limit():
    """If this fails, a run that loses blocks to its controls supports what is false more often than a full one."""
    for second in range(8, 17):
        signs = np.array(list(itertools.product([-1, 1], repeat=second))).T
        positive = {blocks: (signs[:blocks] > 0).sum(axis=0) for blocks in range(9)}
        late = (signs > 0).sum(axis=0) > second - interval_rank(second)
        for first in range(max(0, second - 8), 9):  # of each look's eight blocks, this many are valid
            early = positive[first] == first if interval_rank(first) else np.zeros(len(late), dtype=bool)
            assert (early | late).mean() <= 0.01, (first, second)


# False support over simulated tables.


@noises
def test_a_trend_or_pair_without_effect_is_rarely_supported(noise, record_property):
    """If this fails, noise, or the spread of a dead attack around the blind guess, passes for an effect."""
    rng = np.random.default_rng(1)
    for spread in SPREADS:
        dead = scores(rng, noise, spread)
        skewed = spread * NOISE[noise](rng, (16, TABLES))  # the effect itself varies from block to block, around 0
        for name, effects in {
            "trend": slopes(LEVELS, dead),
            "paired": dead[..., 1] - dead[..., 0],
            "paired, varied effect": skewed,
        }.items():
            rate, bound = upper(two_looks(effects, decide_directed))
            record_property(f"false support, {name}, {noise} noise of {spread} margins, %", float(rate))
            assert bound <= 1.0, (name, spread, rate)


@noises
def test_affected_without_effect_stays_at_its_limit(noise, record_property):
    """If this fails, the two-sided rule is worse than the 1.09 % that its two sides cost."""
    rng = np.random.default_rng(2)
    for spread in SPREADS:
        rate, bound = upper(two_looks(spread * NOISE[noise](rng, (16, TABLES)), decide_affected))
        record_property(f"false support, affected, {noise} noise of {spread} margins, %", float(rate))
        assert rate <= 100 * 712 / 65536 + 0.3, (spread, rate)  # four standard errors
        if spread <= 1:
            assert bound <= 1.0, (spread, rate)


@noises
def test_equivalence_at_the_margin_is_rarely_supported(noise, record_property):
    """If this fails, a difference as large as the margin passes for none."""
    rng = np.random.default_rng(3)
    for spread in SPREADS:
        shifted = MARGIN + spread * NOISE[noise](rng, (16, TABLES, 1))
        values = scores(rng, noise, spread)
        several = values[..., 1:] - values[..., :1] + np.array([0.0, 0.0, MARGIN])
        for name, effects in {"one level": shifted, "last of three": several}.items():
            rate, bound = upper(two_looks(effects, decide_equivalence))
            record_property(f"false support, equivalence, {name}, {noise} noise of {spread} margins, %", float(rate))
            assert bound <= 1.0, (name, spread, rate)


def test_a_false_refutation_of_equivalence_is_bounded_by_the_number_of_levels(record_property):
    """If this fails, equal levels are called different more often than 1.09 % per level that is compared."""
    rng = np.random.default_rng(4)
    for spread in SPREADS:
        values = scores(rng, "normal", spread)
        rate, _ = upper(two_looks(values[..., 1:] - values[..., :1], decide_equivalence), "refuted")
        record_property(f"false refutation, equivalence, 3 levels, normal noise of {spread} margins, %", float(rate))
        assert rate <= 3 * 100 * 712 / 65536


@noises
def test_a_count_beyond_the_margin_is_rarely_supported(noise, record_property):
    """If this fails, a number that differs by more than the margin passes for the claimed one."""
    rng = np.random.default_rng(5)
    for spread in SPREADS:
        numbers = 60 + spread * NOISE[noise](rng, (16, TABLES, 1))
        beyond = 60 + MARGIN * 1.001  # claimed, where the median is 60

        def decide(interval, margin, claimed=beyond):
            return decide_count(interval, margin, claimed=claimed)

        rate, bound = upper(two_looks(numbers, decide))
        record_property(f"false support, count, {noise} noise of {spread} margins, %", float(rate))
        assert bound <= 1.0, (spread, rate)


def test_a_rate_beyond_the_margin_is_rarely_supported_but_by_the_95_percent_of_the_alarm_claim(record_property):
    """If this fails, detectors that raise false alarms at 1 % pass for better ones more often than stated.

    At a true rate of 1 % none of 459 is seen with .99^459 = .99 %; none of 299, the register's 95 %, with 4.95 %.
    """
    rng = np.random.default_rng(6)
    for trials, coverage, limit in ((459, 0.99, 1.0), (299, 0.95, 5.0)):
        alarms = rng.binomial(trials, 0.01, TABLES)
        interval = median_interval(np.zeros((8, TABLES, 1)))
        low, high = binomial_interval(alarms[:, None], trials, coverage=coverage, alternative="less")
        outcomes = decide_count(interval._replace(low=low, high=high), 0.01, claimed=0.0)
        rate, _ = upper(outcomes)
        record_property(f"false support, rate, none of {trials}, %", float(rate))
        assert rate == pytest.approx(100 * 0.99**trials, abs=0.5)
        assert 100 * 0.99**trials <= limit


SQUARE = {"x": st.floats(0, 1), "y": st.floats(0, 1)}


def test_counterexamples_that_fill_a_twentieth_of_the_inputs_are_rarely_missed(record_property):
    """If this fails, a search supports statements that are false in plain sight.

    Four searches of 400 examples, each held against 5,000 statements that fail inside some square box.
    """
    rng = np.random.default_rng(12)
    searches = []
    for number in range(4):
        drawn = []
        universal(claim("universal", f"planted.{number}"), lambda x, y, to=drawn: to.append((x, y)) or 1.0, SQUARE)
        searches.append(np.array(drawn))
    for share in (0.01, 0.02, 0.05, 0.1):
        side = share**0.5
        missed = []
        for drawn in searches:
            corner = rng.uniform(0, 1 - side, (5000, 1, 2))
            missed.append(~((corner <= drawn) & (drawn <= corner + side)).all(axis=2).any(axis=1))
        rate, bound = upper(np.where(np.array(missed), "supported", "refuted"))
        record_property(f"false support, universal and exact, {share:.0%} of the inputs refute, %", float(rate))
        if share >= 0.05:
            assert bound <= 1.0, (share, rate)


@pytest.mark.parametrize("kind", ["universal", "exact"])
def test_a_search_refutes_what_fails_in_a_box_and_supports_what_holds(kind):
    """If this fails, the rate above is one of the draws but not of the verdicts."""
    decide = {"universal": universal, "exact": exact}[kind]
    for corner, outcome in (((0.4, 0.4), "refuted"), ((0.7, 0.1), "refuted"), ((2.0, 2.0), "supported")):

        def check(x, y, corner=corner):
            inside = corner[0] <= x <= corner[0] + 0.224 and corner[1] <= y <= corner[1] + 0.224
            return float(inside) if kind == "exact" else 0.5 - inside

        assert decide(claim(kind, margin=0.5), check, SQUARE).outcome == outcome


# Reversed, dead and true.


@noises
def test_a_reversed_effect_is_never_supported(noise):
    """If this fails, a claim of the wrong direction can pass. Effects of minus two margins, with the null's noise."""
    rng = np.random.default_rng(7)
    for spread in SPREADS:
        effects = slopes(LEVELS, scores(rng, noise, spread, effect=-2 * MARGIN))
        outcomes = two_looks(effects, decide_directed)
        assert upper(outcomes)[1] <= 1.0
        if spread <= 1 and noise != "heavy":
            assert (outcomes == "refuted").mean() > 0.99


def test_a_dead_attack_supports_equivalence_unless_its_blocks_are_void():
    """If this fails, controls do not do what they are for: dead levels are all equal, which only a control can tell."""
    dead = 10 + 0.1 * np.random.default_rng(8).standard_normal((16, 4))
    row = claim("equivalence")
    assert equivalence(row, dead[:8]).outcome == "supported"
    assert equivalence(row, dead[:0], void=8).outcome == "inconclusive"
    assert equivalence(row, dead[:0], void=16, look=2).outcome == "inconclusive"


def test_a_dead_attack_is_refuted_where_something_is_claimed():
    """If this fails, a network that learns nothing, at one score for every level, confirms the paper."""
    floor = np.full((8, 4), 10.0)
    assert trend(claim("trend"), LEVELS, floor).outcome == "refuted"
    assert paired(claim("paired"), floor[:, 0], floor[:, 1]).outcome == "refuted"
    assert affected(claim("affected"), floor[:, 0], floor[:, 1]).outcome == "refuted"
    assert count(claim("count"), np.zeros(8), claimed=60).outcome == "refuted"
    zeros = exact(claim("exact", margin=1e-10), lambda x: x, {"x": st.floats(0, 1)}, minimum=20)
    assert zeros.outcome == "refuted"


@pytest.mark.parametrize("blocks", [8, 16])
def test_a_detectable_effect_is_detected(blocks, record_property):
    """If this fails, the table of detectable effects promises a power that the two looks do not have."""
    rng = np.random.default_rng(9)
    for spread in (0.3, 1.0, 2.0):
        effect = detectable_effect(blocks, noise_sd=spread, margin=MARGIN)
        record_property(f"detected by {blocks} blocks with power 90 %, noise of {spread} margins", float(effect))
        effects = effect + spread * rng.standard_normal((16, TABLES))
        single = decide_directed(median_interval(effects[:blocks]), MARGIN) == "supported"
        both = two_looks(effects, decide_directed) == "supported"
        record_property(f"power of both looks at this effect, noise of {spread} margins, %", float(100 * both.mean()))
        assert single.mean() == pytest.approx(0.9, abs=0.01)
        assert both.mean() >= 0.89


def test_true_claims_of_the_other_kinds_are_supported(record_property):
    """If this fails, equivalence, counts and affected claims cannot be supported at any affordable noise."""
    rng = np.random.default_rng(10)
    noise = rng.standard_normal((16, TABLES, 3))
    planted = {
        "equivalence, three levels, noise of a quarter margin": two_looks(noise / 4, decide_equivalence),
        "equivalence, three levels, noise of half a margin": two_looks(noise / 2, decide_equivalence),
        "affected by three margins, noise of one": two_looks(noise[..., 0] - 3, decide_affected),
        "count, noise of half a margin": two_looks(
            noise[..., :1] / 2, lambda interval, margin: decide_count(interval, margin, claimed=0.0)
        ),
    }
    for name, outcomes in planted.items():
        record_property(f"power, {name}, %", float(100 * (outcomes == "supported").mean()))
        assert (outcomes == "supported").mean() >= (0.7 if "half a margin" in name else 0.97), name


def test_the_simulated_looks_are_those_of_the_verdicts():
    """If this fails, the rates above belong to other rules than those that judge claims."""
    rng = np.random.default_rng(11)
    tables = scores(rng, "normal", 1.0, effect=0.8)[:, :60]
    differences = tables[..., 1:] - tables[..., :1]
    kinds = {
        "trend": (slopes(LEVELS, tables), decide_directed, lambda c, t, **look: trend(c, LEVELS, t, **look)),
        "paired": (differences[..., 0], decide_directed, lambda c, t, **look: paired(c, t[:, 0], t[:, 1], **look)),
        "affected": (differences[..., 0], decide_affected, lambda c, t, **look: affected(c, t[:, 0], t[:, 1], **look)),
        "equivalence": (differences / 4, decide_equivalence, lambda c, t, **look: equivalence(c, t / 4, **look)),
    }
    for kind, (effects, decide, judge) in kinds.items():
        seen = set()
        for number, simulated in enumerate(two_looks(effects, decide)):
            verdict = judge(claim(kind), tables[:8, number])
            if needs_second_look(verdict):
                verdict = judge(claim(kind), tables[:, number], look=2)
            assert verdict.outcome == simulated, (kind, number)
            seen.add((verdict.outcome, verdict.look))
        assert len(seen) > 2, kind  # the agreement is not one of a single outcome
