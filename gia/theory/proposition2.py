"""Proposition 2: how many images of a batch an imprint module is expected to reveal exactly."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Literal

from gia.errors import expected_one_of


def expected_exact_recoveries(batch_size: int, bins: int, *, model: Literal["paper", "independent"] = "paper") -> float:
    """Expected number of images that are alone in their bin, for n images and k bins.

    "paper" is the formula of arXiv 2503.11514, Proposition 2 (after Fowl et al., ICLR 2022), in exact integers::

        [ sum_{i=1}^{n-2} i C(k,i) sum_{j=1}^{(n-i)//2} C(k-i,j) C(n-i-j-1,j-1) + n C(k,n) ] / C(k+n-1,k-1) - n/k

    It gives the same weight to every way to write n as a sum over the bins. "independent" lets every image fall into
    a bin independently of the others, with equal probabilities: n (1 - 1/k)^(n-1), without the term n/k.

    Args:
        batch_size: n, at least 1.
        bins: k, at least 1.
        model: "paper" or "independent".

    Returns:
        The expected number, at most `batch_size`; with few bins, "paper" is negative, by up to n/k.

    Raises:
        ValueError: an argument out of range; the message names it.

    >>> import gia
    >>> round(gia.theory.expected_exact_recoveries(64, 1000), 2)
    56.57
    >>> round(gia.theory.expected_exact_recoveries(64, 1000, model="independent"), 2)
    60.09
    """
    for name, value in (("batch_size", batch_size), ("bins", bins)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected an int of at least 1, got {value!r}")
    n, k = batch_size, bins
    if model == "independent":
        return float(n * (1 - Fraction(1, k)) ** (n - 1))
    if model != "paper":
        raise ValueError(expected_one_of("model", model, ("paper", "independent")))
    return float(Fraction(_alone(n, k), comb(k + n - 1, k - 1)) - Fraction(n, k))


def _alone(n: int, k: int) -> int:
    """The number of bins with exactly one ball, summed over all ways to put n identical balls into k bins."""
    some = sum(
        i * comb(k, i) * sum(comb(k - i, j) * comb(n - i - j - 1, j - 1) for j in range(1, (n - i) // 2 + 1))
        for i in range(1, min(n - 2, k) + 1)
    )
    return some + n * comb(k, n)
