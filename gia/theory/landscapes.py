"""Functions whose strong convexity, smoothness and minimizer are known, to try Theorem 1 on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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


def draw_function(
    kind: Literal["quadratic", "softened"], *, mu: float, smoothness: float, size: int, rng: np.random.Generator
) -> StronglyConvex:
    """A random mu-strongly convex, L-smooth function of `size` variables, with curvatures as far apart as that allows.

    Raises:
        ValueError: as `quadratic` and `softened`, or for another kind.
    """
    minimizer = rng.normal(size=size)
    if kind == "softened":
        sharpness = float(10 ** rng.uniform(-1, 2))
        return softened(mu, smoothness, sharpness=sharpness, shift=rng.normal(size=size), minimizer=minimizer)
    if kind != "quadratic":
        raise ValueError(f"kind must be 'quadratic' or 'softened', but is {kind!r}")
    made = quadratic(_draw_hessian(mu, smoothness, size, rng), minimizer)
    return StronglyConvex(made.gradient, minimizer, mu, smoothness)  # one variable has one curvature of the two


def draw_rounds(
    rounds: int, *, mu: float, smoothness: float, size: int, rng: np.random.Generator
) -> tuple[StronglyConvex, StronglyConvex]:
    """The first of T random quadratics and the mean of all: what is descended on, and what Theorem 1 is about."""
    hessians = [_draw_hessian(mu, smoothness, size, rng) for _ in range(rounds)]
    minimizers = [rng.normal(size=size) for _ in range(rounds)]
    return quadratic(hessians[0], minimizers[0]), mean_of_quadratics(hessians, minimizers)


def _draw_hessian(mu: float, smoothness: float, size: int, rng: np.random.Generator) -> Vector:
    curvatures = rng.uniform(mu, smoothness, size)
    ends = rng.permutation([mu, smoothness])[:size]
    curvatures[: len(ends)] = ends
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    hessian = basis @ (curvatures[:, None] * basis.T)
    symmetric: Vector = (hessian + hessian.T) / 2
    return symmetric
