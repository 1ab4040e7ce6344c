"""How far from the minimizer gradient descent with wrong gradients can end: Theorem 1, printed and corrected."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Relative rounding error that is allowed when a step size is compared with the end of its range.
_ROUNDING = 1e-12


def theorem1_bound(
    *,
    mu: float,
    smoothness: float,
    iterations: int,
    initial_error: float,
    kappa: float,
    batch_size: int,
    image_shape: Sequence[int],
) -> float:
    """The right-hand side of arXiv 2503.11514, Theorem 1, as printed.

    It is `(1 - mu/(mu+L))^I ||x_0 - x*|| + sqrt(2*B*C*H*W*(mu+L))/mu * kappa`. The paper states it for all step sizes
    `eta <= sqrt(2/(mu+L))`; for some of them it is false. It is true, because of `corrected_bound`, if
    1/(mu+L) <= eta <= 2/(mu+L), 2*B*C*H*W*(mu+L) >= 1, and mu, L and x* belong to the mean of the rounds' objectives.

    Args:
        mu: strong convexity, > 0.
        smoothness: L, the Lipschitz constant of the gradient, >= mu.
        iterations: I, the number of steps, >= 0.
        initial_error: ||x_0 - x*||_2, >= 0.
        kappa: upper bound of the 2-norm of the gradient error, >= 0.
        batch_size: B, >= 1.
        image_shape: (C, H, W), each >= 1.

    Returns:
        The upper bound of ||x_I - x*||_2.

    Raises:
        ValueError: an argument out of range; the message names it.

    >>> import gia
    >>> constants = {"mu": 1.0, "smoothness": 1.0, "iterations": 2, "initial_error": 4.0, "kappa": 3.0}
    >>> gia.theory.theorem1_bound(**constants, batch_size=1, image_shape=(1, 1, 1))
    7.0
    >>> gia.theory.theorem1_bound(**constants, batch_size=4, image_shape=(1, 1, 1))
    13.0
    """
    _check(mu, smoothness, iterations, initial_error, kappa)
    if not _whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size: expected an int of at least 1, got {batch_size!r}")
    if len(image_shape) != 3 or not all(_whole(size) and size >= 1 for size in image_shape):
        raise ValueError(f"image_shape: expected (C, H, W), each an int of at least 1, got {image_shape!r}")
    contraction = 1 - mu / (mu + smoothness)
    entries = batch_size * math.prod(image_shape)
    return contraction**iterations * initial_error + math.sqrt(2 * entries * (mu + smoothness)) / mu * kappa


def corrected_bound(
    *, mu: float, smoothness: float, step_size: float, iterations: int, initial_error: float, kappa: float
) -> float:
    """The bound that Theorem 1 should state: `(1-eta*mu)^I ||x_0 - x*|| + (kappa/mu) (1 - (1-eta*mu)^I)`.

    It holds for an objective F that is mu-strongly convex and L-smooth with minimizer x*, and for steps
    `x_{i+1} = x_i - eta (grad F(x_i) + e_i)` with ||e_i||_2 <= kappa and 0 < eta <= 2/(mu+L). A step contracts the
    distance to x* by 1 - eta*mu and adds at most eta*kappa; summing the geometric series gives the bound.
    F = mu||x||^2/2 with e = -kappa*x/||x|| attains it, so no smaller bound holds.

    Departs from arXiv 2503.11514, Theorem 1, which drops factors of eta and L from the contraction and carries a
    sqrt(2*B*C*H*W*(mu+L)) that kappa, a bound on the 2-norm, already covers.

    Args:
        mu, smoothness, iterations, initial_error, kappa: as in `theorem1_bound`.
        step_size: eta in (0, 2/(mu+L)].

    Returns:
        The upper bound of ||x_I - x*||_2.

    Raises:
        ValueError: an argument out of range; the message names it.

    >>> import gia
    >>> constants = {"mu": 1.0, "smoothness": 3.0, "iterations": 2, "initial_error": 4.0, "kappa": 3.0}
    >>> gia.theory.corrected_bound(**constants, step_size=0.5)
    3.25
    """
    _check(mu, smoothness, iterations, initial_error, kappa)
    limit = 2 / (mu + smoothness)
    if not 0 < step_size <= limit * (1 + _ROUNDING):
        raise ValueError(f"step_size: expected a number in (0, 2/(mu+L)] = (0, {limit:g}], got {step_size!r}")
    shrunk = max(1 - step_size * mu, 0.0) ** iterations
    return shrunk * initial_error + kappa / mu * (1 - shrunk)


def _check(mu: float, smoothness: float, iterations: int, initial_error: float, kappa: float) -> None:
    if not (math.isfinite(mu) and mu > 0):
        raise ValueError(f"mu: expected a positive finite number, got {mu!r}")
    if not (math.isfinite(smoothness) and smoothness >= mu):
        raise ValueError(f"smoothness: expected a finite number of at least mu = {mu!r}, got {smoothness!r}")
    if not _whole(iterations) or iterations < 0:
        raise ValueError(f"iterations: expected an int of at least 0, got {iterations!r}")
    for name, value in (("initial_error", initial_error), ("kappa", kappa)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
