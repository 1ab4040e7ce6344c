"""Exact small-sample statistics for tables of blocks: intervals, p-values, the rules on intervals, and their power."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]
Outcomes = NDArray[np.str_]
Alternative = Literal["greater", "less", "two-sided"]

#: Least coverage of every interval that decides.
COVERAGE = 0.99


class MedianInterval(NamedTuple):
    """Median over blocks between the two order statistics that bound it; arrays if several tables were given."""

    low: Array
    median: Array
    high: Array
    coverage: float


def slopes(levels: ArrayLike, values: ArrayLike) -> Array:
    """Least-squares slope of each block over the levels.

    Args:
        levels: (levels,), at least two different ones. Pass log2 of the batch size for a slope per doubling.
        values: (..., levels).

    Returns:
        (...,) in units of `values` per unit of `levels`.

    Raises:
        ValueError: if the shapes disagree or all levels are equal.
    """
    x = np.asarray(levels, dtype=float)
    y = np.asarray(values, dtype=float)
    if x.ndim != 1 or y.shape[-1:] != x.shape:
        raise ValueError(f"values must have shape (..., levels) for levels (levels,), but are {y.shape} and {x.shape}")
    centred = x - x.mean()
    spread = (centred**2).sum()
    if spread == 0:
        raise ValueError(f"levels must hold at least two different numbers, but are {x.tolist()}")
    return np.asarray(y @ centred / spread)


def coverage_of_rank(count: int, rank: int) -> float:
    """Probability that the median of a law lies between the `rank`-th smallest and largest of `count` draws.

    Exact for every continuous law and a lower bound for others: 1 - 2 P(Binomial(count, 1/2) < rank) (David and
    Nagaraja, Order Statistics, section 7.1).

    Examples:
        >>> round(coverage_of_rank(8, 1), 4), round(coverage_of_rank(16, 3), 4), round(coverage_of_rank(7, 1), 4)
        (0.9922, 0.9958, 0.9844)
    """
    if not 1 <= rank <= (count + 1) // 2:
        raise ValueError(f"rank must lie between 1 and {(count + 1) // 2} for {count} values, but is {rank}")
    outside = 2 * sum(math.comb(count, below) for below in range(rank))
    return 1 - math.ldexp(outside, -count)


def interval_rank(count: int, coverage: float = COVERAGE) -> int | None:
    """The largest rank whose interval of the median still has the coverage, or None if not even min..max has it.

    Examples:
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
        ValueError: if the blocks are too few for the coverage.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=0)
    count = len(ordered)
    rank = interval_rank(count, coverage)
    if rank is None:
        raise ValueError(f"values must have enough blocks for coverage {coverage:g}, but has {count}")
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return MedianInterval(ordered[rank - 1], middle, ordered[count - rank], coverage_of_rank(count, rank))


def page_p(values: ArrayLike, *, decreasing: bool) -> float | None:
    """p of Page's test (1963) that the values of a block rise (or fall) with the level; None below three levels.

    Exact up to 12 blocks of 8 levels, by the normal law beyond.

    Args:
        values: (blocks, levels), the levels in order; at least two blocks.
    """
    table = np.asarray(values, dtype=float)
    if table.shape[1] < 3 or len(table) < 2:
        return None
    return float(stats.page_trend_test(-table if decreasing else table).pvalue)


def wilcoxon_p(differences: ArrayLike, *, alternative: Alternative) -> float:
    """Exact p of Wilcoxon's signed-rank test that the differences centre on 0: the law of the ranks under random signs.

    Zero differences are left out (Wilcoxon 1945) and ties take their mean rank; scipy's exact law knows neither.

    Args:
        differences: (blocks,), finite.
    """
    d = np.asarray(differences, dtype=float)
    d = d[d != 0]
    doubled = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)  # whole numbers, with ties too
    law = np.ones(1)  # law[w]: probability that the doubled ranks of the positive differences sum to w
    for rank in doubled:
        law = (np.pad(law, (0, rank)) + np.pad(law, (rank, 0))) / 2
    observed = int(doubled[d > 0].sum())
    above, below = float(law[observed:].sum()), float(law[: observed + 1].sum())
    return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]


def binomial_interval(
    successes: ArrayLike, trials: int, *, coverage: float = COVERAGE, sides: Literal["both", "upper"] = "both"
) -> tuple[Array, Array]:
    """Exact (Clopper and Pearson 1934) interval of the rate of independent trials.

    Args:
        successes: Count or array of counts, between 0 and `trials`.
        trials: At least 1.
        sides: "both" cuts (1 - coverage)/2 off each tail; "upper" gives (0, upper bound) that spends it all above.

    Returns:
        (low, high), each of the shape of `successes`. No success among n trials gives the upper bound
        1 - (1 - coverage)^(1/n): 299 trials bound the rate by 1 % at 95 %, 459 at 99 %.

    Raises:
        ValueError: if trials < 1 or a count lies outside 0..trials.
    """
    k = np.asarray(successes, dtype=float)
    if trials < 1 or (k < 0).any() or (k > trials).any():
        raise ValueError(f"successes must lie between 0 and trials >= 1, but are {successes!r} of {trials}")
    tail = 1 - coverage if sides == "upper" else (1 - coverage) / 2
    high = np.where(k == trials, 1.0, stats.beta.ppf(1 - tail, k + 1, np.maximum(trials - k, 1)))
    if sides == "upper":
        return np.zeros_like(high), high
    return np.where(k == 0, 0.0, stats.beta.ppf(tail, np.maximum(k, 1), trials - k + 1)), high


def decide_directed(interval: MedianInterval, margin: float) -> Outcomes:
    """trend, paired: supported if low > 0 and the median >= margin; refuted if high < margin.

    This rule and the next three take the interval of one table or of many, so that error rates can be measured.
    """
    low, median, high = interval[:3]
    return _outcomes((low > 0) & (median >= margin), high < margin)


def decide_affected(interval: MedianInterval, margin: float) -> Outcomes:
    """affected: supported if [low, high] excludes 0 and |median| >= margin; refuted if it lies in (-margin, margin)."""
    low, median, high = interval[:3]
    return _outcomes(((low > 0) | (high < 0)) & (np.abs(median) >= margin), (low > -margin) & (high < margin))


def decide_equivalence(interval: MedianInterval, margin: float) -> Outcomes:
    """equivalence: supported if every [low, high] is in (-margin, margin), refuted if one is all beyond it.

    The last axis holds the levels after the first.
    """
    low, _, high = interval[:3]
    inside, beyond = (low > -margin) & (high < margin), (low > margin) | (high < -margin)
    return _outcomes(inside.all(axis=-1), beyond.any(axis=-1))


def decide_count(interval: MedianInterval, margin: float, *, claimed: ArrayLike) -> Outcomes:
    """count: supported if claimed +- margin contains every [low, high], refuted if it is disjoint from one.

    The last axis holds the levels.
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

    An effect is supported when the low end of the interval exceeds 0 and the median reaches the margin. In units of the
    standard deviation of a block's effect, for normal blocks and power .9:

    | margin | 8 blocks | 16 blocks |
    |--------|----------|-----------|
    | 0      | 2.22     | 1.47      |
    | 0.5    | 2.22     | 1.47      |
    | 1      | 2.23     | 1.54      |
    | 2      | 2.61     | 2.39      |

    Args:
        blocks: Number of valid blocks, at least 8.
        noise_sd: Factor on `noise`, in the unit of the effect.
        noise: A frozen scipy law with median 0; the standard normal by default.

    Raises:
        ValueError: if the blocks are too few, or noise_sd, margin or power are out of range.
    """
    rank = interval_rank(blocks)
    if rank is None:
        raise ValueError(f"blocks must be at least 8, but is {blocks}")
    if not (noise_sd > 0 and margin >= 0 and 0 < power < 1):
        raise ValueError(f"need noise_sd > 0, margin >= 0, 0 < power < 1, but got {noise_sd}, {margin}, {power}")
    target = margin / noise_sd
    step = 1.0
    while _power(step, target, blocks, rank, noise) < power:
        step *= 2
    return noise_sd * float(optimize.brentq(lambda d: _power(d, target, blocks, rank, noise) - power, 0.0, step))


def _power(effect: float, margin: float, blocks: int, rank: int, noise: Any) -> float:
    """P(rank-th smallest > 0 and median >= margin), by the quantile u of the lower of the two middle values.

    Given u, the values below it are independent draws from the law cut off above it, and likewise those above it.
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
