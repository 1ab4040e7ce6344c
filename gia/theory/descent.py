"""Gradient descent with wrong gradients, described by the quantities of Theorem 1 (arXiv 2503.11514)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gia.theory.bounds import corrected_bound, theorem1_bound
from gia.theory.landscapes import Field, StronglyConvex, Vector

#: Rounding error of a run relative to the lengths in its bounds: far more than 1e-16 per step, far less than an effect.
_ROUNDING = 1e-12


def worst_error(kappa: float, minimizer: Vector) -> Field:
    """The gradient error of norm kappa that keeps descent furthest from the minimizer: -kappa (x-x*)/||x-x*||.

    At the minimizer itself all directions are equally bad, and it points along the first axis.

    Args:
        kappa: the 2-norm of the error, >= 0.
        minimizer: x*, (n,).

    Returns:
        A function x -> error, (n,) -> (n,).

    >>> import numpy as np
    >>> from gia.theory.descent import worst_error
    >>> worst_error(2.0, np.zeros(2))(np.array([3.0, 4.0])).round(3).tolist()
    [-1.2, -1.6]
    """
    first = np.zeros_like(minimizer)
    first[0] = 1.0

    def error(x: Vector) -> Vector:
        offset = x - minimizer
        norm = np.linalg.norm(offset)
        return -kappa * (offset / norm if norm > 0 else first)

    return error


@dataclass(frozen=True)
class Run:
    """A finished descent: the constants of its bounds, and how far from x* it ended.

    Attributes:
        mu, smoothness: strong convexity and smoothness L of the function.
        step_size: eta.
        iterations: I, the number of steps.
        initial_error: ||x_0 - x*||_2.
        kappa: the largest 2-norm of the gradient error at x_0 .. x_{I-1}.
        final_error: ||x_I - x*||_2.
        rounding: the largest length that rounding in float64 may have added to `final_error`.

    >>> import numpy as np
    >>> from gia.theory import descent, landscapes
    >>> parabola = landscapes.quadratic(np.eye(1), np.zeros(1))
    >>> seen = descent.perturbed(parabola, np.array([4.0]), step_size=0.5, iterations=2, kappa=1.0)
    >>> seen.final_error, round(seen.attained(), 6)
    (1.75, 1.0)
    """

    mu: float
    smoothness: float
    step_size: float
    iterations: int
    initial_error: float
    kappa: float
    final_error: float
    rounding: float

    def corrected_slack(self) -> float:
        """1 - ||x_I - x*|| / `corrected_bound`: negative if the bound is violated by more than rounding."""
        return self._slack(corrected_bound(step_size=self.step_size, **self._constants()))

    def printed_slack(self, *, batch_size: int, image_shape: Sequence[int]) -> float:
        """1 - ||x_I - x*|| / `theorem1_bound`: negative if the bound is violated by more than rounding."""
        return self._slack(theorem1_bound(batch_size=batch_size, image_shape=image_shape, **self._constants()))

    def attained(self) -> float:
        """||x_I - x*|| / `corrected_bound`, at most 1: 1 if, up to rounding, no smaller bound holds."""
        bound = corrected_bound(step_size=self.step_size, **self._constants())
        return 1.0 if bound <= self.rounding else min(1.0, (self.final_error + self.rounding) / bound)

    def _constants(self) -> dict[str, Any]:
        names = ("mu", "smoothness", "iterations", "initial_error", "kappa")
        return {name: getattr(self, name) for name in names}

    def _slack(self, bound: float) -> float:
        allowed = bound + self.rounding
        return 1 - self.final_error / allowed if allowed > 0 else -self.final_error


def run(
    function: StronglyConvex, start: Vector, *, step_size: float, iterations: int, followed: Field | None = None
) -> Run:
    """Run gradient descent and measure the quantities of Theorem 1.

    Args:
        function: the function whose minimizer and constants count.
        start: x_0, (n,).
        step_size: eta, > 0.
        iterations: I, the number of steps, >= 0.
        followed: the field along which descent steps, (n,) -> (n,); None is the gradient of `function`. It is the
            gradient of one round if `function` is the mean over the rounds.

    Raises:
        ValueError: `step_size` or `iterations` is out of range.

    >>> import numpy as np
    >>> from gia.theory import descent, landscapes
    >>> parabola = landscapes.quadratic(np.eye(1), np.zeros(1))
    >>> descent.run(parabola, np.array([4.0]), step_size=0.5, iterations=2).final_error
    1.0
    """
    followed = function.gradient if followed is None else followed
    path = _descend(followed, start, step_size=step_size, iterations=iterations)
    distances = np.linalg.norm(path - function.minimizer, axis=1)
    kappa = max((float(np.linalg.norm(followed(x) - function.gradient(x))) for x in path[:-1]), default=0.0)
    reach = (
        float(distances[0] + np.linalg.norm(function.minimizer)) + kappa / function.mu
    )  # the largest length in a bound
    return Run(
        mu=function.mu,
        smoothness=function.smoothness,
        step_size=step_size,
        iterations=iterations,
        initial_error=float(distances[0]),
        kappa=kappa,
        final_error=float(distances[-1]),
        rounding=_ROUNDING * reach,
    )


def perturbed(function: StronglyConvex, start: Vector, *, step_size: float, iterations: int, kappa: float) -> Run:
    """As `run`, along the gradient plus the `worst_error` of norm kappa.

    Args:
        function, start, step_size, iterations: as in `run`.
        kappa: the 2-norm of the gradient error, >= 0.

    Raises:
        ValueError: as `run`.

    >>> import numpy as np
    >>> from gia.theory import descent, landscapes
    >>> parabola = landscapes.quadratic(np.eye(1), np.zeros(1))
    >>> descent.perturbed(parabola, np.array([4.0]), step_size=0.5, iterations=2, kappa=1.0).final_error
    1.75
    """
    error = worst_error(kappa, function.minimizer)
    return run(
        function,
        start,
        step_size=step_size,
        iterations=iterations,
        followed=lambda x: function.gradient(x) + error(x),
    )


def _descend(gradient: Field, start: Vector, *, step_size: float, iterations: int) -> Vector:
    """x_0 .. x_I, (I+1, n): x_{i+1} = x_i - eta * gradient(x_i)."""
    if not step_size > 0:
        raise ValueError(f"step_size: expected a positive number, got {step_size!r}")
    if iterations < 0:
        raise ValueError(f"iterations: expected at least 0, got {iterations!r}")
    path = [np.array(start, dtype=np.float64)]
    for _ in range(iterations):
        path.append(path[-1] - step_size * gradient(path[-1]))
    return np.stack(path)
