"""Exact small-sample statistics for tables of blocks: intervals, p-values, decision rules, and their power."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]
Outcomes = NDArray[np.str_]
Alternative = Literal["greater", "less", "two-sided"]
Bounds = Literal["two-sided", "less"]

#: The coverage of an interval of a rate.
COVERAGE = 0.99

#: Valid blocks of the three looks -> the rank of the order statistics that bound the median, from each end. A claim is
#: decided on no other number of blocks. All looks together err with .493 % on one side and .985 % on two (`power`).
RANKS = {8: 1, 16: 2, 32: 8}


class MedianInterval(NamedTuple):
    """The median over blocks and the two order statistics that bound it, each of the shape (...) of the other axes."""

    low: Array
    median: Array
    high: Array
    coverage: float


def slopes(levels: ArrayLike, values: ArrayLike) -> Array:
    """The least-squares slope of each block over the levels.

    Args:
        levels: (levels,), at least two of them different. Pass log2 of the batch size for a slope per doubling.
        values: (..., levels).

    Returns:
        (...,) in units of `values` per unit of `levels`.

    Raises:
        ValueError: if the shapes disagree or all levels are equal.

    >>> slopes([0, 1, 2], [[24.0, 22.0, 20.0], [20.0, 20.0, 20.0]]).tolist()
    [-2.0, 0.0]
    """
    x = np.asarray(levels, dtype=float)
    y = np.asarray(values, dtype=float)
    if x.ndim != 1 or y.shape[-1:] != x.shape:
        raise ValueError(f"values: expected shape (..., levels) for levels (levels,), got {y.shape} for {x.shape}")
    centred = x - x.mean()
    spread = (centred**2).sum()
    if spread == 0:
        raise ValueError(f"levels: expected at least two different numbers, got {x.tolist()}")
    return np.asarray(y @ centred / spread)


def steps(levels: ArrayLike, values: ArrayLike) -> Array:
    """The slope of each step between adjacent levels.

    Args:
        levels: (levels,), at least two, all different.
        values: (..., levels).

    Returns:
        (..., levels - 1) in units of `values` per unit of `levels`.

    Raises:
        ValueError: if the shapes disagree or adjacent levels are equal.

    >>> steps([0, 1, 3], [[24.0, 22.0, 20.0]]).tolist()
    [[-2.0, -1.0]]
    """
    x = np.asarray(levels, dtype=float)
    y = np.asarray(values, dtype=float)
    if x.ndim != 1 or y.shape[-1:] != x.shape:
        raise ValueError(f"values: expected shape (..., levels) for levels (levels,), got {y.shape} for {x.shape}")
    widths = np.diff(x)
    if len(x) < 2 or not widths.all():
        raise ValueError(f"levels: expected at least two, adjacent ones different, got {x.tolist()}")
    return np.asarray(np.diff(y, axis=-1) / widths)


def steepest_slope(levels: ArrayLike) -> float:
    """The steepest least-squares slope of values between 0 and 1: the share of the room that a slope can show.

    Args:
        levels: (levels,), at least two of them different.

    Returns:
        The sum of the positive centred levels over the sum of all their squares.

    Raises:
        ValueError: if all levels are equal.

    >>> [round(steepest_slope(range(count)), 3) for count in (2, 3, 4, 7)]
    [1.0, 0.5, 0.4, 0.214]
    """
    x = np.asarray(levels, dtype=float)
    return float(slopes(x, x > x.mean()))


def coverage_of_rank(count: int, rank: int) -> float:
    """The probability that a distribution's median lies between the `rank`-th smallest and largest of `count` draws.

    It is 1 - 2 P(Binomial(count, 1/2) < rank): exact for continuous distributions, a lower bound for others (David and
    Nagaraja, Order Statistics, section 7.1).

    Raises:
        ValueError: if the rank is not in 1..(count + 1) // 2.

    >>> [round(coverage_of_rank(count, rank), 4) for count, rank in RANKS.items()]
    [0.9922, 0.9995, 0.9979]
    """
    if not 1 <= rank <= (count + 1) // 2:
        raise ValueError(f"rank: expected 1 to {(count + 1) // 2} for {count} values, got {rank}")
    outside = 2 * sum(math.comb(count, below) for below in range(rank))
    return 1 - math.ldexp(outside, -count)


def median_interval(values: ArrayLike) -> MedianInterval:
    """The median over the first axis with its symmetric order-statistic interval.

    Args:
        values: (blocks, ...), finite, 8, 16 or 32 blocks. Further axes are further tables.

    Raises:
        ValueError: for another number of blocks.

    >>> low, median, high, coverage = median_interval([1, 2, 3, 4, 5, 6, 7, 8])
    >>> float(low), float(median), float(high), coverage
    (1.0, 4.5, 8.0, 0.9921875)
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=0)
    count = len(ordered)
    if count not in RANKS:
        raise ValueError(f"values: expected 8, 16 or 32 blocks, got {count}")
    rank = RANKS[count]
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return MedianInterval(ordered[rank - 1], middle, ordered[count - rank], coverage_of_rank(count, rank))


def page_p(values: ArrayLike, *, decreasing: bool) -> float | None:
    """The p of Page's test (1963) that a block's values rise (or fall) with the level.

    Exact up to 12 blocks of 8 levels; beyond that by the normal approximation.

    Args:
        values: (blocks, levels), the levels in order.

    Returns:
        The p, or None for fewer than three levels or two blocks.

    >>> page_p([[1, 2, 3], [1, 2, 3], [1, 3, 2]], decreasing=False)
    0.032407407407407406
    """
    table = np.asarray(values, dtype=float)
    if table.shape[1] < 3 or len(table) < 2:
        return None
    return float(stats.page_trend_test(-table if decreasing else table).pvalue)


def wilcoxon_p(differences: ArrayLike, *, alternative: Alternative) -> float:
    """The exact p of Wilcoxon's signed-rank test that the differences are symmetric about 0.

    Zero differences are left out (Wilcoxon 1945) and ties take their mean rank, neither of which scipy's exact method
    supports.

    Args:
        differences: (blocks,), finite.

    >>> wilcoxon_p([1.0, 2.0, 3.0, 4.0], alternative="greater")
    0.0625
    """
    d = np.asarray(differences, dtype=float)
    d = d[d != 0]
    doubled = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)  # whole numbers, with ties too
    law = np.ones(1)  # law[w] is the probability that the doubled ranks of the positive differences sum to w
    for rank in doubled:
        law = (np.pad(law, (0, rank)) + np.pad(law, (rank, 0))) / 2
    observed = int(doubled[d > 0].sum())
    above, below = float(law[observed:].sum()), float(law[: observed + 1].sum())
    return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]


def binomial_interval(
    successes: ArrayLike, trials: int, *, coverage: float = COVERAGE, alternative: Bounds = "two-sided"
) -> tuple[Array, Array]:
    """The exact interval (Clopper and Pearson 1934) of the success rate of independent trials.

    Args:
        successes: a count or an array of counts, between 0 and `trials`.
        trials: at least 1.
        alternative: as in `scipy.stats.binomtest`. "two-sided" leaves (1 - coverage)/2 out at each end; "less" gives
            (0, upper bound) and leaves out 1 - coverage above.

    Returns:
        (low, high), each of the shape of `successes`. No success in n trials gives the upper bound
        1 - (1 - coverage)^(1/n): 299 trials bound the rate by 1 % at a coverage of 95 %, 459 trials at 99 %.

    Raises:
        ValueError: if trials < 1 or a count is not in 0..trials.

    >>> low, high = binomial_interval(0, 299, coverage=0.95, alternative="less")
    >>> float(low), round(float(high), 6)
    (0.0, 0.009969)
    """
    k = np.asarray(successes, dtype=float)
    if trials < 1 or (k < 0).any() or (k > trials).any():
        raise ValueError(f"successes: expected 0 to trials, and trials >= 1, got {successes!r} of {trials}")
    tail = 1 - coverage if alternative == "less" else (1 - coverage) / 2
    high = np.where(k == trials, 1.0, stats.beta.ppf(1 - tail, k + 1, np.maximum(trials - k, 1)))
    if alternative == "less":
        return np.zeros_like(high), high
    return np.where(k == 0, 0.0, stats.beta.ppf(tail, np.maximum(k, 1), trials - k + 1)), high


def decide_directed(interval: MedianInterval, margin: float) -> Outcomes:
    """One effect in the claimed direction: supported if low > margin, refuted if high < margin.

    This rule and the next five take intervals of one table or of many, so that their error rates can be measured.

    >>> str(decide_directed(median_interval([3, 4, 4, 4, 5, 5, 5, 6]), margin=2.0))
    'supported'
    """
    low, _, high = interval[:3]
    return _outcomes(low > margin, high < margin)


def decide_paired(interval: MedianInterval, margin: float) -> Outcomes:
    """paired: supported if every comparison is supported by `decide_directed`, refuted if one is refuted.

    The last axis holds the comparisons.

    >>> str(decide_paired(median_interval([[3, 1], [4, 1], [5, 1], [6, 1]] * 2), margin=2.0))
    'refuted'
    """
    each = decide_directed(interval, margin)
    return _outcomes((each == "supported").all(axis=-1), (each == "refuted").any(axis=-1))


def decide_trend(slope: MedianInterval, margin: float, *, steps: MedianInterval) -> Outcomes:
    """trend: the slope decides as in `decide_directed`, and no step between adjacent levels may reverse.

    Supported only if every step's low > -margin, and refuted if one step's high < -margin. All effects are signed so
    that the claimed direction is positive, and steps are slopes.

    Args:
        slope: of the shape (...).
        steps: of the shape (..., levels - 1).

    >>> table = np.array([[0.0, 5.0, 1.0]]) + np.arange(8)[:, None] / 100  # rises by 5, then falls by 4
    >>> slope, each = median_interval(slopes(range(3), table)), median_interval(steps(range(3), table))
    >>> str(decide_trend(slope, 0.25, steps=each))
    'refuted'
    """
    directed = decide_directed(slope, margin)
    ordered, reversed_ = (steps.low > -margin).all(axis=-1), (steps.high < -margin).any(axis=-1)
    return _outcomes((directed == "supported") & ordered, (directed == "refuted") | reversed_)


def decide_affected(interval: MedianInterval, margin: float) -> Outcomes:
    """affected: supported if [low, high] lies wholly outside [-margin, margin], refuted if inside (-margin, margin).

    >>> str(decide_affected(median_interval([-3, -4, -4, -5, -6, -7, -7, -8]), margin=2.0))
    'supported'
    """
    low, _, high = interval[:3]
    return _outcomes((low > margin) | (high < -margin), (low > -margin) & (high < margin))


def decide_equivalence(interval: MedianInterval, margin: float) -> Outcomes:
    """equivalence: supported if every [low, high] lies in (-margin, margin), refuted if one lies wholly outside.

    Wholly outside is outside [-margin, margin]. The last axis holds the levels after the first.

    >>> str(decide_equivalence(median_interval([[0.1], [0.2], [0.3], [0.4], [0.5], [0.6], [0.7], [0.8]]), margin=1.0))
    'supported'
    """
    low, _, high = interval[:3]
    inside, beyond = (low > -margin) & (high < margin), (low > margin) | (high < -margin)
    return _outcomes(inside.all(axis=-1), beyond.any(axis=-1))


def decide_count(interval: MedianInterval, margin: float, *, claimed: ArrayLike) -> Outcomes:
    """count: supported if claimed +- margin contains every [low, high], refuted if it is disjoint from one.

    The last axis holds the levels.

    >>> str(decide_count(median_interval([[5], [5], [5], [6], [6], [6], [7], [7]]), margin=1.0, claimed=6))
    'supported'
    """
    low, _, high = interval[:3]
    least, most = np.subtract(claimed, margin), np.add(claimed, margin)
    inside, beyond = (least <= low) & (high <= most), (high < least) | (low > most)
    return _outcomes(inside.all(axis=-1), beyond.any(axis=-1))


def _outcomes(supported: Any, refuted: Any) -> Outcomes:
    return np.where(supported, "supported", np.where(refuted, "refuted", "inconclusive"))


def power(effect: float, *, noise_sd: float, margin: float = 0.0, looks: int = 3, noise: Any = stats.norm) -> float:
    """The probability that up to `looks` looks support a true effect (paired; a trend also needs its steps).

    Exact: an interval lies above the margin where fewer than its rank of blocks lie below, so that only their number
    counts. A look that refutes ends the run.

    Args:
        effect: the median of a block's effect, in the claimed direction.
        noise_sd: factor on `noise`, above 0, in the unit of the effect.
        margin: the claim's margin, at least 0, in the unit of the effect.
        looks: 1 to 3.
        noise: a frozen scipy distribution with median 0; the standard normal by default.

    Raises:
        ValueError: if noise_sd, margin or looks is out of range.

    >>> round(power(1.0, noise_sd=0.5, margin=1.0), 5)  # an effect of exactly the margin
    0.00493
    """
    if not (noise_sd > 0 and margin >= 0 and looks in (1, 2, 3)):
        raise ValueError(f"noise_sd, margin, looks: expected > 0, >= 0 and 1 to 3, got {noise_sd}, {margin}, {looks}")
    below = float(noise.cdf((margin - effect) / noise_sd))
    law, seen, supported = np.ones(1), 0, 0.0  # law[k] is the probability that k blocks lie below and no look decided
    for count, rank in list(RANKS.items())[:looks]:
        law = np.convolve(law, stats.binom.pmf(np.arange(count - seen + 1), count - seen, below))
        supported += float(law[:rank].sum())
        law[:rank] = law[count - rank + 1 :] = 0.0
        seen = count
    return supported


def detectable_effect(
    looks: int, *, noise_sd: float, margin: float = 0.0, chance: float = 0.9, noise: Any = stats.norm
) -> float:
    """The smallest true effect that up to `looks` looks support with probability `chance` (paired).

    It lies a multiple of the standard deviation of a block's effect above the margin. For normal blocks and a chance of
    .9 the multiples are:

    | looks | valid blocks | multiple |
    |-------|--------------|----------|
    | 1     | 8            | 2.22     |
    | 2     | 8, 16        | 1.76     |
    | 3     | 8, 16, 32    | 1.02     |

    Args:
        looks: 1 to 3.
        chance: between .01 and 1.
        noise_sd, margin, noise: as in `power`.

    Raises:
        ValueError: if noise_sd, margin, looks or chance is out of range.

    >>> round(detectable_effect(1, noise_sd=0.5, margin=0.5), 2)
    1.61
    """
    if not 0.01 < chance < 1:
        raise ValueError(f"chance: expected between .01 and 1, got {chance}")

    def missing(effect: float) -> float:
        return power(effect, noise_sd=noise_sd, margin=margin, looks=looks, noise=noise) - chance

    reach = noise_sd
    while missing(margin + reach) < 0:
        reach *= 2
    return float(optimize.brentq(missing, margin, margin + reach))
