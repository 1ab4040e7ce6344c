"""Theorem 1 put to the test: how much of each bound is left on a drawn function, from constants alone."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gia.theory.bounds import theorem1_bound
from gia.theory.descent import Run, perturbed, run
from gia.theory.landscapes import StronglyConvex, draw_function, draw_rounds

Kind = Literal["quadratic", "softened", "rounds"]
Shape = tuple[int, int, int]

#: How much of the corrected bound the worst case must reach.
TIGHTNESS = 0.999


def scaling_error(*, mu: float, ratio: float, kappa: float, batch_size: int, image_shape: Shape) -> float:
    """How far the printed bound is, after a million steps, from growing by sqrt(2) with B and by 2 with H and W.

    L is `ratio` times mu. Returns the larger of the two relative errors.
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
    sides = bound(batch_size, (channels, 2 * height, 2 * width)) / once
    return max(abs(batch / math.sqrt(2) - 1), abs(sides / 2 - 1))


def corrected_margin(
    *, kind: Kind, mu: float, ratio: float, share: float, iterations: int, kappa: float, size: int, seed: int
) -> float:
    """Slack of the corrected bound at eta = share * 2/(mu+L), negative where it is broken or not attained.

    The function is drawn: "quadratic" or "softened" with the worst gradient error, or the first of three "rounds"
    against their mean (kappa then follows from the run). Beside it, f = mu||x||^2/2 with the worst error must reach
    `TIGHTNESS` of the bound.
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
    """Slack of the printed bound where it holds: share in [1/2, 1] and 2*B*C*H*W*(mu+L) = excess >= 1.

    None where the mean of the rounds, which has constants of its own, leaves that range.
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

    The start is the vector of ones, the gradient error the worst of norm kappa.
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
