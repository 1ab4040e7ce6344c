"""Intervals, tests and power against published values, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gia.harness.decide.statistics import (
    RANKS,
    binomial_interval,
    coverage_of_rank,
    decide_paired,
    detectable_effect,
    median_interval,
    page_p,
    power,
    slopes,
    steepest_slope,
    steps,
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


def test_steps_are_the_slopes_between_neighbours():
    """If this fails, a reversal is judged by the difference of levels that lie far apart. Slopes of two levels each."""
    levels, values = np.array([0.0, 1.0, 3.0]), np.random.default_rng(1).standard_normal((7, 3))
    expected = np.stack([slopes(levels[pair], values[:, pair]) for pair in (slice(2), slice(1, 3))], axis=1)
    np.testing.assert_allclose(steps(levels, values), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("levels", "values"),
    [([0, 1], [[1.0, 2.0, 3.0]]), ([[0, 1]], [[1.0, 2.0]]), ([2, 2], [[1.0, 2.0]]), ([2], [[1.0]])],
)
def test_steps_refuse_levels_without_a_step(levels, values):
    """If this fails, a mistaken table gives infinite steps or those of other numbers."""
    with pytest.raises(ValueError, match="levels"):
        steps(levels, values)


@pytest.mark.parametrize(("count", "share"), [(3, 0.5), (4, 0.4), (7, 3 / 14)])
def test_no_slope_of_values_between_zero_and_one_is_steeper_than_the_share_of_the_room(count, share):
    """If this fails, a row is judged where no effect of the margin fits. Shares: design, rule 2 (.5, .4, .214)."""
    levels = np.arange(count)
    assert steepest_slope(levels) == pytest.approx(share, rel=1e-12)
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=count)))  # a linear function is largest at a corner
    assert slopes(levels, corners).max() == pytest.approx(share, rel=1e-12)
    assert steepest_slope([1.0, 2.0, 4.0]) == pytest.approx(slopes([1.0, 2.0, 4.0], [0.0, 0.0, 1.0]), rel=1e-12)


def test_the_ranks_are_those_of_the_design():
    """If this fails, the verdicts' intervals are not the committed ones. Rule 8: .9922, .9995, .9979."""
    assert RANKS == {8: 1, 16: 2, 32: 8}
    coverages = [coverage_of_rank(blocks, rank) for blocks, rank in RANKS.items()]
    assert coverages[:2] == [254 / 256, 65502 / 65536]
    assert [round(coverage, 4) for coverage in coverages] == [0.9922, 0.9995, 0.9979]
    with pytest.raises(ValueError, match="rank: expected 1 to 4 for 8 values, got 5"):
        coverage_of_rank(8, 5)


def test_the_looks_together_err_as_rarely_as_the_design_says():
    """If this fails, "99 %" is only a word. Rule 8: .493 % on one side and .985 % on both, for any law."""
    for noise in (stats.norm(), stats.t(2)):
        one_sided = power(1.0, noise_sd=0.5, margin=1.0, noise=noise)
        assert 100 * one_sided == pytest.approx(0.493, abs=5e-4)
        assert 200 * one_sided == pytest.approx(0.985, abs=1e-3)
    assert power(1.0, noise_sd=0.5, margin=1.0, looks=1) == pytest.approx(1 / 256, rel=1e-12)


@pytest.mark.parametrize("blocks", [8, 16])
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
    np.testing.assert_array_equal(interval.low, np.sort(values, axis=0)[1])
    np.testing.assert_array_equal(interval.high, np.sort(values, axis=0)[14])


@pytest.mark.parametrize("blocks", [0, 7, 9, 15, 31, 33])
def test_other_numbers_of_blocks_give_no_interval(blocks):
    """If this fails, a look at another number of blocks errs more often than the three that are stated."""
    with pytest.raises(ValueError, match=f"values: expected 8, 16 or 32 blocks, got {blocks}"):
        median_interval(np.arange(float(blocks)))


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


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_detectable_effect_of_one_look_has_a_closed_form(margin):
    """If this fails, the power table lies: all eight blocks lie above the margin, each with the chance .9^(1/8)."""
    above = -2.0 * stats.norm.ppf(1 - 0.9 ** (1 / 8))
    assert detectable_effect(1, noise_sd=2.0, margin=margin) == pytest.approx(margin + above, rel=1e-6)


@pytest.mark.parametrize("noise", [stats.norm(), stats.t(3)], ids=["normal", "t3"])
@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_detectable_effect_is_supported_with_the_promised_power(looks, margin, noise):
    """If this fails, a claim is planned with too few blocks. 40,000 simulated tables, four standard errors."""
    effect = detectable_effect(looks, noise_sd=1.5, margin=margin, noise=noise)
    tables = 1.5 * noise.rvs(size=(32, 40_000, 1), random_state=np.random.default_rng(4)) + effect
    outcomes = np.full(40_000, "inconclusive")
    for blocks in list(RANKS)[:looks]:
        now = decide_paired(median_interval(tables[:blocks]), margin)
        outcomes = np.where(outcomes == "inconclusive", now, outcomes)
    assert (outcomes == "supported").mean() == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 40_000))


def test_the_power_table_in_the_documentation_is_the_computed_one():
    """If this fails, readers plan with numbers that the code does not give."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in detectable_effect.__doc__.splitlines()]
    for looks, blocks in ((1, "8"), (2, "8, 16"), (3, "8, 16, 32")):
        for margin in (0, 2):
            assert [str(looks), blocks, f"{detectable_effect(looks, noise_sd=1, margin=margin) - margin:.2f}"] in rows


@pytest.mark.parametrize(
    "change", [{"looks": 4}, {"noise_sd": 0.0}, {"margin": -1.0}, {"chance": 1.0}, {"chance": 0.0}]
)
def test_a_power_that_cannot_be_computed_is_refused(change):
    """If this fails, the search for the effect does not end."""
    with pytest.raises(ValueError, match=r"chance: expected between|noise_sd, margin, looks: expected > 0"):
        detectable_effect(**{"looks": 1, "noise_sd": 1.0} | change)
