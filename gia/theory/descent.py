"""Gradient descent with wrong gradients, measured as Theorem 1 speaks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gia.theory.bounds import corrected_bound, theorem1_bound
from gia.theory.landscapes import Field, StronglyConvex, Vector

#: Rounding of a run, relative to the lengths in its bounds: far above float64's 1e-16 a step, far below any effect.
_ROUNDING = 1e-12


def worst_error(kappa: float, minimizer: Vector) -> Field:
    """The gradient error of norm kappa that keeps descent furthest away: -kappa (x-x*)/||x-x*||.

    At the minimizer itself, where every direction is as bad, it points along the first axis.
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
    """A descent as Theorem 1 speaks of it: what its bounds are made of, and how far from x* it ended.

    `mu`, `smoothness` and the distances are those of the function descended on, `kappa` is the largest 2-norm of the
    gradient error at x_0 .. x_{I-1}. `rounding` is a length: what float64 may have added to `final_error`.
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
        """1 - ||x_I - x*|| / `corrected_bound`: negative where the bound is broken by more than rounding."""
        return self._slack(corrected_bound(step_size=self.step_size, **self._constants()))

    def printed_slack(self, *, batch_size: int, image_shape: Sequence[int]) -> float:
        """1 - ||x_I - x*|| / `theorem1_bound`: negative where the bound is broken by more than rounding."""
        return self._slack(theorem1_bound(batch_size=batch_size, image_shape=image_shape, **self._constants()))

    def attained(self) -> float:
        """||x_I - x*|| / `corrected_bound`, rounding granted, at most 1: 1 where the bound cannot be improved."""
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
    """Descend from `start` (n,) along `followed` (default: the gradient itself) and measure the run against `function`.

    `followed` stands for one round's gradient where `function` is the mean over the rounds.
    """
    followed = function.gradient if followed is None else followed
    path = _descend(followed, start, step_size=step_size, iterations=iterations)
    distances = np.linalg.norm(path - function.minimizer, axis=1)
    kappa = max((float(np.linalg.norm(followed(x) - function.gradient(x))) for x in path[:-1]), default=0.0)
    reach = float(distances[0] + np.linalg.norm(function.minimizer)) + kappa / function.mu  # where a bound can hold
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
    """`run` along the gradient plus the worst error of norm kappa."""
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
        raise ValueError(f"step_size must be positive, but is {step_size!r}")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, but is {iterations!r}")
    path = [np.array(start, dtype=np.float64)]
    for _ in range(iterations):
        path.append(path[-1] - step_size * gradient(path[-1]))
    return np.stack(path)
