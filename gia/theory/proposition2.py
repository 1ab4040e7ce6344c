"""Proposition 2: how many images of a batch an imprint block is expected to give away exactly."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Literal


def expected_exact_recoveries(batch_size: int, bins: int, *, model: Literal["paper", "independent"] = "paper") -> float:
    """Expected number of images that are alone in their bin, for n images and k bins.

    "paper" is the formula of arXiv 2503.11514, Proposition 2 (after Fowl et al., ICLR 2022), in exact integers::

        [ sum_{i=1}^{n-2} i C(k,i) sum_{j=1}^{(n-i)//2} C(k-i,j) C(n-i-j-1,j-1) + n C(k,n) ] / C(k+n-1,k-1) - n/k

    It weighs every way to write n as a sum over the bins equally. "independent" lets every image fall into a bin by
    itself, each bin as likely: n (1 - 1/k)^(n-1), no n/k taken off.

    Args:
        batch_size: n, at least 1.
        bins: k, at least 1.

    Returns the expected number, out of `batch_size`; "paper" falls below 0 by up to n/k where bins are few.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    for name, value in (("batch_size", batch_size), ("bins", bins)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, but is {value!r}")
    n, k = batch_size, bins
    if model == "independent":
        return float(n * (1 - Fraction(1, k)) ** (n - 1))
    if model != "paper":
        raise ValueError(f"model must be 'paper' or 'independent', but is {model!r}")
    return float(Fraction(_alone(n, k), comb(k + n - 1, k - 1)) - Fraction(n, k))


def _alone(n: int, k: int) -> int:
    """The sum over all occupancies of k bins by n like balls of the number of bins that hold exactly one."""
    some = sum(
        i * comb(k, i) * sum(comb(k - i, j) * comb(n - i - j - 1, j - 1) for j in range(1, (n - i) // 2 + 1))
        for i in range(1, min(n - 2, k) + 1)
    )
    return some + n * comb(k, n)
