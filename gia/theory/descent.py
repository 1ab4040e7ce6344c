"""Gradient descent with wrong gradients on functions whose strong convexity, smoothness and minimizer are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Field = Callable[[Vector], Vector]


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


def descend(gradient: Field, start: Vector, *, step_size: float, iterations: int) -> Vector:
    """x_0 .. x_I of gradient descent, (I+1, n): x_{i+1} = x_i - eta * gradient(x_i).

    Raises:
        ValueError: if the step size is not positive or the number of iterations is negative.
    """
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, but is {step_size!r}")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, but is {iterations!r}")
    path = [np.array(start, dtype=np.float64)]
    for _ in range(iterations):
        path.append(path[-1] - step_size * gradient(path[-1]))
    return np.stack(path)


def gradient_gap(path: Vector, followed: Field, mean: Field) -> float:
    """kappa of a run: the largest ||followed(x) - mean(x)||_2 over x_0 .. x_{I-1}; 0 for a run without steps."""
    return max((float(np.linalg.norm(followed(x) - mean(x))) for x in path[:-1]), default=0.0)
