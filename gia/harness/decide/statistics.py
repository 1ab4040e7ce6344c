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

#: The least coverage of an interval that decides.
COVERAGE = 0.99


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


def coverage_of_rank(count: int, rank: int) -> float:
    """The probability that a distribution's median lies between the `rank`-th smallest and largest of `count` draws.

    It is 1 - 2 P(Binomial(count, 1/2) < rank): exact for continuous distributions, a lower bound for others (David and
    Nagaraja, Order Statistics, section 7.1).

    Raises:
        ValueError: if the rank is not in 1..(count + 1) // 2.

    >>> round(coverage_of_rank(8, 1), 4), round(coverage_of_rank(16, 3), 4), round(coverage_of_rank(7, 1), 4)
    (0.9922, 0.9958, 0.9844)
    """
    if not 1 <= rank <= (count + 1) // 2:
        raise ValueError(f"rank: expected 1 to {(count + 1) // 2} for {count} values, got {rank}")
    outside = 2 * sum(math.comb(count, below) for below in range(rank))
    return 1 - math.ldexp(outside, -count)


def interval_rank(count: int, coverage: float = COVERAGE) -> int | None:
    """The largest rank whose interval of the median has the coverage; None if not even the range has it.

    >>> [interval_rank(count) for count in (7, 8, 12, 16)]
    [None, 1, 2, 3]
    """
    ranks = range(1, (count + 1) // 2 + 1)
    return max((rank for rank in ranks if coverage_of_rank(count, rank) >= coverage), default=None)


def median_interval(values: ArrayLike, *, coverage: float = COVERAGE) -> MedianInterval:
    """The median over the first axis with its symmetric order-statistic interval.

    Args:
        values: (blocks, ...), finite. Further axes are further tables.

    Raises:
        ValueError: if there are too few blocks for the coverage.

    >>> low, median, high, coverage = median_interval([1, 2, 3, 4, 5, 6, 7, 8])
    >>> float(low), float(median), float(high), coverage
    (1.0, 4.5, 8.0, 0.9921875)
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=0)
    count = len(ordered)
    rank = interval_rank(count, coverage)
    if rank is None:
        raise ValueError(f"values: expected enough blocks for a coverage of {coverage:g}, got {count}")
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
    """trend, paired: supported if low > 0 and the median >= margin; refuted if high < margin.

    This rule and the next three take intervals of one table or of many, so that their error rates can be measured.

    >>> str(decide_directed(median_interval([1, 2, 3, 4, 5, 6, 7, 8]), margin=2.0))
    'supported'
    """
    low, median, high = interval[:3]
    return _outcomes((low > 0) & (median >= margin), high < margin)


def decide_affected(interval: MedianInterval, margin: float) -> Outcomes:
    """affected: supported if [low, high] excludes 0 and |median| >= margin; refuted if it lies in (-margin, margin).

    >>> str(decide_affected(median_interval([-1, -2, -3, -4, -5, -6, -7, -8]), margin=2.0))
    'supported'
    """
    low, median, high = interval[:3]
    return _outcomes(((low > 0) | (high < 0)) & (np.abs(median) >= margin), (low > -margin) & (high < margin))


def decide_equivalence(interval: MedianInterval, margin: float) -> Outcomes:
    """equivalence: supported if every [low, high] lies in (-margin, margin), refuted if one lies wholly outside.

    The last axis holds the levels after the first.

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


def detectable_effect(
    blocks: int, *, noise_sd: float, margin: float = 0.0, power: float = 0.9, noise: Any = stats.norm
) -> float:
    """The smallest true effect that one look at `blocks` blocks supports with probability `power` (trend and paired).

    An effect is supported if the low end of the interval exceeds 0 and the median reaches the margin. In units of the
    standard deviation of a block's effect, for normal blocks and a power of .9:

    | margin | 8 blocks | 16 blocks |
    |--------|----------|-----------|
    | 0      | 2.22     | 1.47      |
    | 0.5    | 2.22     | 1.47      |
    | 1      | 2.23     | 1.54      |
    | 2      | 2.61     | 2.39      |

    Args:
        blocks: number of valid blocks, at least 8.
        noise_sd: factor on `noise`, above 0, in the unit of the effect.
        margin: the claim's margin, at least 0, in the unit of the effect.
        power: between 0 and 1.
        noise: a frozen scipy distribution with median 0; the standard normal by default.

    Raises:
        ValueError: for too few blocks, or if noise_sd, margin or power is out of range.

    >>> round(detectable_effect(8, noise_sd=0.5, margin=0.5), 2)
    1.11
    """
    rank = interval_rank(blocks)
    if rank is None:
        raise ValueError(f"blocks: expected at least 8, got {blocks}")
    if not (noise_sd > 0 and margin >= 0 and 0 < power < 1):
        raise ValueError(
            f"noise_sd, margin, power: expected > 0, >= 0 and between 0 and 1, got {noise_sd}, {margin}, {power}"
        )
    target = margin / noise_sd
    step = 1.0
    while _power(step, target, blocks, rank, noise) < power:
        step *= 2
    return noise_sd * float(optimize.brentq(lambda d: _power(d, target, blocks, rank, noise) - power, 0.0, step))


def _power(effect: float, margin: float, blocks: int, rank: int, noise: Any) -> float:
    """P(rank-th smallest > 0 and median >= margin), by the quantile u of the lower of the two middle values.

    Given u, the values below it are independent draws from the distribution truncated there, and so are those above.
    """
    below = (blocks - 1) // 2
    above = blocks - 1 - below
    zero, kink = float(noise.cdf(-effect)), float(noise.cdf(margin - effect))

    total = 0.0
    for start, stop in ((kink, 1.0),) if blocks % 2 else ((zero, kink), (kink, 1.0)):
        u = start + (stop - start) * (_NODES + 1) / 2
        lower = u**below * stats.binom.cdf(rank - 1, below, zero / u)  # fewer than `rank` of those below are negative
        middle = noise.ppf(u) + effect
        partner = middle if blocks % 2 else np.maximum(2 * margin - middle, middle)  # their mean reaches the margin
        total += float((stop - start) / 2 * _WEIGHTS @ (lower * noise.sf(partner - effect) ** above))
    return blocks * math.comb(blocks - 1, below) * total


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(100)
