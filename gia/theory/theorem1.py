"""Tests of Theorem 1 (arXiv 2503.11514): the slack of its bounds on functions that follow from a few constants."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gia.theory.bounds import theorem1_bound
from gia.theory.descent import Run, perturbed, run
from gia.theory.landscapes import StronglyConvex, draw_function, draw_rounds

Kind = Literal["quadratic", "softened", "rounds"]
Shape = tuple[int, int, int]

#: The share of the corrected bound that the worst case must reach.
TIGHTNESS = 0.999


def scaling_error(*, mu: float, ratio: float, kappa: float, batch_size: int, image_shape: Shape) -> float:
    """How far the printed bound is from growing by sqrt(2) when B doubles, and by 2 when H and W double.

    The bound is taken after a million steps, so that only its second term counts.

    Args:
        mu: strong convexity, > 0.
        ratio: L/mu, >= 1.
        kappa: upper bound of the gradient error, > 0.
        batch_size: B, >= 1.
        image_shape: (C, H, W), each >= 1.

    Returns:
        The larger of the two relative errors.

    >>> from gia.theory.theorem1 import scaling_error
    >>> scaling_error(mu=0.5, ratio=7.0, kappa=2.0, batch_size=3, image_shape=(3, 4, 5)) < 1e-14
    True
    """
    channels, height, width = image_shape

    def bound(batch_size: int, image_shape: Shape) -> float:
        return theorem1_bound(
            mu=mu,
            smoothness=ratio * mu,
            iterations=10**6,
            initial_error=1.0,
            kappa=kappa,
            batch_size=batch_size,
            image_shape=image_shape,
        )

    once = bound(batch_size, image_shape)
    batch = bound(2 * batch_size, image_shape) / once
    size = bound(batch_size, (channels, 2 * height, 2 * width)) / once
    return max(abs(batch / math.sqrt(2) - 1), abs(size / 2 - 1))


def corrected_margin(
    *, kind: Kind, mu: float, ratio: float, share: float, iterations: int, kappa: float, size: int, seed: int
) -> float:
    """Slack of the corrected bound at eta = share * 2/(mu+L) on a drawn function.

    In addition, f = mu||x||^2/2 with the worst gradient error must reach `TIGHTNESS` of the bound.

    Args:
        kind: the function: "quadratic" or "softened" with the worst gradient error, or the mean of three "rounds" while
            descent follows the first of them (kappa then follows from the run).
        mu: strong convexity, > 0.
        ratio: L/mu, >= 1.
        share: step size as a share of 2/(mu+L), in (0, 1].
        iterations: number of steps, >= 0.
        kappa: 2-norm of the gradient error, >= 0.
        size: number of variables, >= 1.
        seed: of the draws.

    Returns:
        The smaller of the slack and of what the tight case reaches above `TIGHTNESS`; negative if the bound is violated
        or not attained.

    Raises:
        ValueError: an argument out of range.

    >>> from gia.theory.theorem1 import corrected_margin
    >>> constants = {"mu": 1.0, "ratio": 4.0, "share": 0.5, "iterations": 10, "kappa": 1.0, "size": 3, "seed": 0}
    >>> corrected_margin(kind="quadratic", **constants) >= 0
    True
    """
    rng = np.random.default_rng(seed)
    slack = _drawn(kind, mu, ratio * mu, share, iterations, kappa, size, rng).corrected_slack()
    step = share * 2 / (mu + ratio * mu)
    worst = _isotropic(mu, mu, ratio * mu, size)
    attained = perturbed(worst, rng.normal(size=size), step_size=step, iterations=iterations, kappa=kappa).attained()
    return min(slack, attained - TIGHTNESS)


def repaired_margin(
    *,
    kind: Kind,
    excess: float,
    ratio: float,
    share: float,
    iterations: int,
    kappa: float,
    batch_size: int,
    image_shape: Shape,
    seed: int,
) -> float | None:
    """Slack of the printed bound under conditions that make it true: share >= 1/2 and 2*B*C*H*W*(mu+L) >= 1.

    Args:
        kind, ratio, share, iterations, kappa, seed: as in `corrected_margin`, with share in [1/2, 1].
        excess: 2*B*C*H*W*(mu+L), >= 1, from which mu follows.
        batch_size: B, >= 1.
        image_shape: (C, H, W), each >= 1.

    Returns:
        The slack, negative if the bound is violated. None if the mean of the "rounds", whose mu and L differ from those
        that were asked for, does not meet the second condition.

    Raises:
        ValueError: an argument out of range.

    >>> from gia.theory.theorem1 import repaired_margin
    >>> constants = {"kind": "quadratic", "ratio": 1.0, "iterations": 20, "seed": 1, "excess": 1.0, "kappa": 0.0}
    >>> shape = {"batch_size": 1, "image_shape": (1, 1, 1)}
    >>> repaired_margin(share=0.5, **constants, **shape) >= 0, repaired_margin(share=0.4, **constants, **shape) >= 0
    (True, False)
    """
    size = batch_size * math.prod(image_shape)
    mu = excess / (2 * size * (1 + ratio))
    seen = _drawn(kind, mu, ratio * mu, share, iterations, kappa, size, np.random.default_rng(seed))
    if kind == "rounds" and 2 * size * (seen.mu + seen.smoothness) < 1:
        return None
    return seen.printed_slack(batch_size=batch_size, image_shape=image_shape)


def printed_margin(
    *,
    mu: float,
    ratio: float,
    curvature: float,
    share: float,
    iterations: int,
    kappa: float,
    batch_size: int,
    image_shape: Shape,
) -> float:
    """Slack of the printed bound at eta = share * sqrt(2/(mu+L)), for f = c||x||^2/2 with c = mu + curvature*(L-mu).

    Descent starts at the vector of ones and has the worst gradient error of norm kappa.

    Args:
        mu: strong convexity, > 0.
        ratio: L/mu, >= 1.
        curvature: where c lies between mu (0) and L (1).
        share: step size as a share of the largest one for which the paper states the bound, in (0, 1].
        iterations: number of steps, >= 0.
        kappa: 2-norm of the gradient error, >= 0.
        batch_size: B, >= 1.
        image_shape: (C, H, W), each >= 1.

    Returns:
        The slack, negative if the bound is violated.

    Raises:
        ValueError: an argument out of range.

    >>> from gia.theory.theorem1 import printed_margin
    >>> constants = {"mu": 1.0, "ratio": 1.0, "curvature": 0.0, "iterations": 1, "kappa": 0.0}
    >>> shape = {"batch_size": 1, "image_shape": (1, 1, 1)}
    >>> [round(printed_margin(share=share, **constants, **shape), 6) for share in (0.25, 0.75)]
    [-0.5, 0.5]
    """
    size, smoothness = batch_size * math.prod(image_shape), ratio * mu
    function = _isotropic(mu + curvature * (smoothness - mu), mu, smoothness, size)
    step = share * math.sqrt(2 / (mu + smoothness))
    seen = perturbed(function, np.ones(size), step_size=step, iterations=iterations, kappa=kappa)
    return seen.printed_slack(batch_size=batch_size, image_shape=image_shape)


def _drawn(
    kind: Kind,
    mu: float,
    smoothness: float,
    share: float,
    iterations: int,
    kappa: float,
    size: int,
    rng: np.random.Generator,
) -> Run:
    if kind == "rounds":
        first, function = draw_rounds(3, mu=mu, smoothness=smoothness, size=size, rng=rng)
    else:
        function = draw_function(kind, mu=mu, smoothness=smoothness, size=size, rng=rng)
    start = function.minimizer + rng.normal(size=size)
    step = share * 2 / (function.mu + function.smoothness)
    if kind == "rounds":
        return run(function, start, step_size=step, iterations=iterations, followed=first.gradient)
    return perturbed(function, start, step_size=step, iterations=iterations, kappa=kappa)


def _isotropic(curvature: float, mu: float, smoothness: float, size: int) -> StronglyConvex:
    return StronglyConvex(lambda x: curvature * x, np.zeros(size), mu, smoothness)
