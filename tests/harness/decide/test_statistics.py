"""Intervals, tests and power against published values, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gia.harness.decide.statistics import (
    binomial_interval,
    coverage_of_rank,
    detectable_effect,
    interval_rank,
    median_interval,
    page_p,
    slopes,
    wilcoxon_p,
)

unit = settings(settings.get_profile("unit"), max_examples=30)


def test_slopes_are_those_of_a_least_squares_line():
    """If this fails, the effect of a trend is not a slope per unit of the level. Reference: numpy.polyfit."""
    rng = np.random.default_rng(1)
    levels, values = np.array([0.0, 1.0, 2.0, 5.0]), rng.standard_normal((7, 4))
    np.testing.assert_allclose(slopes(levels, values), np.polyfit(levels, values.T, 1)[0], atol=1e-12)
    np.testing.assert_allclose(slopes([0, 1, 2, 3], [[24.0, 22.0, 20.0, 18.0]]), [-2.0], rtol=1e-15)


@pytest.mark.parametrize(
    ("levels", "values"), [([0, 1], [[1.0, 2.0, 3.0]]), ([[0, 1]], [[1.0, 2.0]]), ([2, 2], [[1.0, 2.0]])]
)
def test_slopes_refuse_levels_that_define_no_line(levels, values):
    """If this fails, a mistaken table gives infinite slopes or the slopes of other numbers."""
    with pytest.raises(ValueError, match="levels"):
        slopes(levels, values)


def test_the_ranks_are_those_of_the_design():
    """If this fails, the verdicts' intervals are not the committed ones.

    Coverages: 1 - 2 P(Binomial(n, 1/2) < rank); 8: 254/256, 16: 65262/65536, 7: 126/128, and 10: 1002/1024 at rank 2.
    """
    assert [interval_rank(blocks) for blocks in (0, 1, 7, 8, 9, 10, 11, 12, 15, 16)] == [None] * 3 + [
        1,
        1,
        1,
        1,
        2,
        3,
        3,
    ]
    assert coverage_of_rank(8, 1) == 254 / 256
    assert coverage_of_rank(16, 3) == 65262 / 65536
    assert coverage_of_rank(7, 1) == 126 / 128 < 0.99
    assert coverage_of_rank(10, 2) == 1002 / 1024


@pytest.mark.parametrize("blocks", [8, 9, 12, 16])
def test_the_interval_covers_the_median_as_often_as_it_says(blocks):
    """If this fails, "99 %" is only a word. Every pattern of blocks above and below a median of 0 is equally likely."""
    patterns = np.array(list(itertools.product([-1.0, 1.0], repeat=blocks))).T
    interval = median_interval(patterns * np.arange(1, blocks + 1)[:, None])
    covered = ((interval.low < 0) & (interval.high > 0)).mean()
    assert covered == interval.coverage >= 0.99


def test_the_median_of_an_even_number_is_the_middle_of_the_two():
    """If this fails, the effect leans to one side. Reference: numpy.median."""
    values = np.random.default_rng(2).standard_normal((16, 3))
    interval = median_interval(values)
    np.testing.assert_allclose(interval.median, np.median(values, axis=0), rtol=1e-15)
    np.testing.assert_array_equal(interval.low, np.sort(values, axis=0)[2])
    np.testing.assert_array_equal(interval.high, np.sort(values, axis=0)[13])


def test_seven_blocks_give_no_interval():
    """If this fails, an interval of 98.4 % passes for one of 99 %."""
    with pytest.raises(ValueError, match=r"enough blocks for a coverage of .*, got 7"):
        median_interval(np.arange(7.0))


def test_page_reproduces_a_published_example():
    """If this fails, the p of a trend is not Page's.

    Ten students rate tutorial, lecture and seminar (Statext, "Page's L trend test"): L = 133.5, and the exact p is
    0.0018191161948127822 in the documentation of scipy.stats.page_trend_test.
    """
    ratings = [
        [3, 4, 3],
        [2, 2, 4],
        [3, 3, 5],
        [1, 3, 2],
        [2, 3, 2],
        [2, 4, 5],
        [1, 2, 4],
        [3, 4, 4],
        [2, 4, 5],
        [1, 3, 4],
    ]
    assert page_p(ratings, decreasing=False) == pytest.approx(0.0018191161948127822, rel=1e-9)


def test_page_agrees_with_all_orders_of_three_blocks():
    """If this fails, the p is not the share of orders at least as ordered, or it looks the wrong way."""
    orders = list(itertools.permutations([1, 2, 3]))
    level = np.array([1, 2, 3])
    totals = [sum(int(level @ order) for order in table) for table in itertools.product(orders, repeat=3)]
    table = np.array([[1, 2, 3], [1, 3, 2], [2, 1, 3]])
    expected = np.mean([total >= int((table @ level).sum()) for total in totals])
    assert page_p(table, decreasing=False) == pytest.approx(expected, rel=1e-12)
    assert page_p(-table, decreasing=True) == pytest.approx(expected, rel=1e-12)


def test_page_is_silent_below_three_levels():
    """If this fails, a trend over two levels ends in an error of scipy's."""
    assert page_p(np.zeros((8, 2)), decreasing=True) is None
    assert page_p(np.zeros((1, 3)), decreasing=True) is None


def test_wilcoxon_reproduces_a_published_example():
    """If this fails, the p of a pair is not Wilcoxon's.

    Depression scores of nine patients, Hollander and Wolfe (1973), p. 29: V = 40, p = 0.01953 (R's ?wilcox.test).
    """
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert wilcoxon_p(before - after, alternative="greater") == 10 / 512 == pytest.approx(0.01953, abs=5e-6)


@unit
@given(differences=st.lists(st.integers(-4, 4), max_size=9))
def test_wilcoxon_is_the_share_of_sign_patterns_even_with_ties_and_zeros(differences):
    """If this fails, ties or zeros, which floors and clipped metrics give, spoil the p. Reference: all patterns."""
    d = np.array([float(x) for x in differences if x])
    ranks = stats.rankdata(np.abs(d))
    sums = np.array([np.sum(ranks * signs) for signs in itertools.product([0, 1], repeat=len(d))])
    observed = np.sum(ranks[d > 0])
    greater, less = np.mean(sums >= observed), np.mean(sums <= observed)
    assert wilcoxon_p(differences, alternative="greater") == pytest.approx(greater, rel=1e-12)
    assert wilcoxon_p(differences, alternative="less") == pytest.approx(less, rel=1e-12)
    assert wilcoxon_p(differences, alternative="two-sided") == pytest.approx(min(1, 2 * min(greater, less)), rel=1e-12)


def test_wilcoxon_agrees_with_scipy_on_sixteen_blocks():
    """If this fails, the recursion is wrong at the size that the second look has."""
    d = np.random.default_rng(3).standard_normal(16) + 0.3
    for alternative in ("greater", "less", "two-sided"):
        reference = stats.wilcoxon(d, alternative=alternative, method="exact").pvalue
        assert wilcoxon_p(d, alternative=alternative) == pytest.approx(reference, rel=1e-12)


def test_the_binomial_interval_reproduces_a_published_example():
    """If this fails, a rate's interval is not Clopper and Pearson's.

    682 of 925 plants, Mendel's, in Conover (1971), p. 97: 95 % interval .7076683 to .7654066 (R's ?binom.test).
    """
    low, high = binomial_interval(682, 925, coverage=0.95)
    assert (float(low), float(high)) == (pytest.approx(0.7076683, abs=5e-8), pytest.approx(0.7654066, abs=5e-8))


@pytest.mark.parametrize("trials", [1, 8, 30])
def test_the_binomial_interval_covers_every_rate(trials):
    """If this fails, some rate is missed more often than one time in a hundred. Sum over all counts, 201 rates."""
    low, high = binomial_interval(np.arange(trials + 1), trials)
    rates = np.linspace(0, 1, 201)[:, None]
    chance = stats.binom.pmf(np.arange(trials + 1), trials, rates)
    assert (chance * ((low <= rates) & (rates <= high))).sum(axis=1).min() >= 0.99
    assert (low[0], high[-1]) == (0.0, 1.0)


def test_no_alarm_in_299_bounds_the_rate_by_one_percent():
    """If this fails, the false-alarm claim asks for another number of models than it says. 1 - .05^(1/299) = .00997."""
    low, high = binomial_interval(0, 299, coverage=0.95, alternative="less")
    assert (float(low), float(high)) == (0.0, pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-12))
    assert high <= 0.01 < binomial_interval(0, 298, coverage=0.95, alternative="less")[1]
    assert binomial_interval(0, 459, coverage=0.99, alternative="less")[1] <= 0.01


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 8), (9, 8)])
def test_counts_outside_the_trials_are_refused(successes, trials):
    """If this fails, an interval is NaN and every comparison with it false."""
    with pytest.raises(ValueError, match="successes: expected 0 to trials"):
        binomial_interval(successes, trials)


@pytest.mark.parametrize("blocks", [8, 12, 16])
def test_without_margin_the_detectable_effect_has_a_closed_form(blocks):
    """If this fails, the power table lies: fewer than `rank` blocks may be negative, a quantile of a beta law."""
    rank = interval_rank(blocks)
    share = stats.beta.ppf(0.1, rank, blocks - rank + 1)
    assert detectable_effect(blocks, noise_sd=2.0) == pytest.approx(-2.0 * stats.norm.ppf(share), rel=1e-6)


@pytest.mark.parametrize("noise", [stats.norm(), stats.t(3)], ids=["normal", "t3"])
@pytest.mark.parametrize("blocks", [8, 9, 16])
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_detectable_effect_is_supported_with_the_promised_power(blocks, margin, noise):
    """If this fails, a claim is planned with too few blocks. 40,000 simulated tables, four standard errors."""
    effect = detectable_effect(blocks, noise_sd=1.5, margin=margin, noise=noise)
    tables = 1.5 * noise.rvs(size=(blocks, 40_000), random_state=np.random.default_rng(4)) + effect
    interval = median_interval(tables)
    supported = ((interval.low > 0) & (interval.median >= margin)).mean()
    assert supported == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 40_000))


def test_the_power_table_in_the_documentation_is_the_computed_one():
    """If this fails, readers plan with numbers that the code does not give."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in detectable_effect.__doc__.splitlines()]
    for margin in (0, 0.5, 1, 2):
        effects = [f"{detectable_effect(blocks, noise_sd=1, margin=margin):.2f}" for blocks in (8, 16)]
        assert [str(margin), *effects] in rows


@pytest.mark.parametrize("change", [{"blocks": 7}, {"noise_sd": 0.0}, {"margin": -1.0}, {"power": 1.0}])
def test_a_power_that_cannot_be_computed_is_refused(change):
    """If this fails, the search for the effect does not end."""
    with pytest.raises(ValueError, match=r"blocks: expected at least 8|noise_sd, margin, power: expected > 0"):
        detectable_effect(**{"blocks": 8, "noise_sd": 1.0} | change)
