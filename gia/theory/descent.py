"""Gradient descent with wrong gradients on functions whose strong convexity, smoothness and minimizer are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia.theory.bounds import corrected_bound, theorem1_bound

Vector = NDArray[np.float64]
Field = Callable[[Vector], Vector]

#: Rounding of a run, relative to the largest length in it: far above float64's 1e-16 a step, far below any effect.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class StronglyConvex:
    """A function given by its gradient (n,) -> (n,), with its minimizer (n,) and exact or safe constants mu <= L."""

    gradient: Field
    minimizer: Vector
    mu: float
    smoothness: float


def quadratic(hessian: Vector, minimizer: Vector) -> StronglyConvex:
    """(x-m)'H(x-m)/2 for a symmetric positive definite H (n, n) and m (n,); mu and L are the extreme eigenvalues.

    Raises:
        ValueError: if H is not symmetric positive definite or the shapes disagree.
    """
    hessian, minimizer = np.array(hessian, dtype=np.float64), np.array(minimizer, dtype=np.float64)
    if hessian.shape != (minimizer.size, minimizer.size) or not np.array_equal(hessian, hessian.T):
        raise ValueError(f"hessian must be symmetric and fit minimizer {minimizer.shape}, but has {hessian.shape}")
    values = np.linalg.eigvalsh(hessian)
    if not values[0] > 0:
        raise ValueError(f"hessian must be positive definite, but its smallest eigenvalue is {values[0]:g}")
    return StronglyConvex(lambda x: hessian @ (x - minimizer), minimizer, float(values[0]), float(values[-1]))


def softened(mu: float, smoothness: float, *, sharpness: float, shift: Vector, minimizer: Vector) -> StronglyConvex:
    """A function that is not quadratic: mu||u||^2/2 + (L-mu)/s^2 sum_i log cosh(s u_i + b_i) - linear, with u = x - m.

    Its curvature along each axis runs between mu and L, reaching L where s u_i + b_i = 0; the linear term puts the
    minimizer at m. The larger s > 0, the nearer it comes to a kink. `shift` is b, (n,).

    Raises:
        ValueError: if not 0 < mu <= L and s > 0.
    """
    if not 0 < mu <= smoothness:
        raise ValueError(f"mu must lie in (0, smoothness = {smoothness!r}], but is {mu!r}")
    if not sharpness > 0:
        raise ValueError(f"sharpness must be positive, but is {sharpness!r}")
    shift, minimizer = np.array(shift, dtype=np.float64), np.array(minimizer, dtype=np.float64)
    weight = (smoothness - mu) / sharpness

    def gradient(x: Vector) -> Vector:
        offset = x - minimizer
        return mu * offset + weight * (np.tanh(sharpness * offset + shift) - np.tanh(shift))

    return StronglyConvex(gradient, minimizer, mu, smoothness)


def mean_of_quadratics(hessians: Sequence[Vector], minimizers: Sequence[Vector]) -> StronglyConvex:
    """The mean of T quadratics, one per training round: a quadratic with the mean Hessian and its own minimizer.

    Raises:
        ValueError: as `quadratic`, or if the numbers of Hessians and minimizers differ.
    """
    rounds = [quadratic(hessian, minimizer) for hessian, minimizer in zip(hessians, minimizers, strict=True)]
    mean = np.mean(np.array(hessians, dtype=np.float64), axis=0)
    pull = np.mean([-each.gradient(np.zeros_like(each.minimizer)) for each in rounds], axis=0)
    return quadratic(mean, np.linalg.solve(mean, pull))


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
    scale = float(np.abs(path).max() + np.linalg.norm(function.minimizer)) + kappa / function.mu
    return Run(
        mu=function.mu,
        smoothness=function.smoothness,
        step_size=step_size,
        iterations=iterations,
        initial_error=float(distances[0]),
        kappa=kappa,
        final_error=float(distances[-1]),
        rounding=_ROUNDING * scale,
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
