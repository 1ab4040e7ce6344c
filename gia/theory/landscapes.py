"""Functions with known strong convexity, smoothness and minimizer, on which Theorem 1 is tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia.errors import expected_one_of

Vector = NDArray[np.float64]
Field = Callable[[Vector], Vector]


@dataclass(frozen=True, eq=False)
class StronglyConvex:
    """A strongly convex function, given by its gradient.

    Attributes:
        gradient: x -> gradient, (n,) -> (n,).
        minimizer: x*, (n,).
        mu: strong convexity, exact or a lower bound, > 0.
        smoothness: L, exact or an upper bound, >= mu.

    >>> import numpy as np
    >>> from gia.theory.landscapes import StronglyConvex
    >>> parabola = StronglyConvex(gradient=lambda x: 2 * x, minimizer=np.zeros(1), mu=2.0, smoothness=2.0)
    >>> parabola.gradient(np.array([3.0])).tolist()
    [6.0]
    """

    gradient: Field
    minimizer: Vector
    mu: float
    smoothness: float


def quadratic(hessian: Vector, minimizer: Vector) -> StronglyConvex:
    """The function (x-m)'H(x-m)/2; mu and L are the extreme eigenvalues of H.

    Args:
        hessian: H, (n, n), symmetric and positive definite.
        minimizer: m, (n,).

    Raises:
        ValueError: H is not symmetric and positive definite, or the shapes disagree.

    >>> import numpy as np
    >>> from gia.theory.landscapes import quadratic
    >>> function = quadratic(np.diag([1.0, 3.0]), np.zeros(2))
    >>> function.mu, function.smoothness, function.gradient(np.ones(2)).tolist()
    (1.0, 3.0, [1.0, 3.0])
    """
    hessian, minimizer = np.array(hessian, dtype=np.float64), np.array(minimizer, dtype=np.float64)
    if hessian.shape != (minimizer.size, minimizer.size):
        raise ValueError(f"hessian: expected shape {(minimizer.size, minimizer.size)}, got {hessian.shape}")
    if not np.array_equal(hessian, hessian.T):
        asymmetry = np.abs(hessian - hessian.T).max()
        raise ValueError(f"hessian: expected a symmetric matrix, got max |H - H'| = {asymmetry:g}")
    values = np.linalg.eigvalsh(hessian)
    if not values[0] > 0:
        raise ValueError(f"hessian: expected a positive definite matrix, got the smallest eigenvalue {values[0]:g}")
    return StronglyConvex(lambda x: hessian @ (x - minimizer), minimizer, float(values[0]), float(values[-1]))


def softened(mu: float, smoothness: float, *, sharpness: float, shift: Vector, minimizer: Vector) -> StronglyConvex:
    """A function that is not quadratic: mu||u||^2/2 + (L-mu)/s^2 sum_i log cosh(s u_i + b_i) - linear, with u = x - m.

    Its curvature along each axis lies between mu and L and reaches L at s u_i + b_i = 0. The linear term puts the
    minimizer at m. A larger s makes it more similar to a function with a kink.

    Args:
        mu: strong convexity, in (0, L].
        smoothness: L.
        sharpness: s, > 0.
        shift: b, (n,).
        minimizer: m, (n,).

    Raises:
        ValueError: `mu` or `sharpness` is out of range.

    >>> import numpy as np
    >>> from gia.theory.landscapes import softened
    >>> function = softened(1.0, 2.0, sharpness=3.0, shift=np.zeros(1), minimizer=np.ones(1))
    >>> function.gradient(np.array([1.5])).round(4).tolist()
    [0.8017]
    """
    if not 0 < mu <= smoothness:
        raise ValueError(f"mu: expected a number in (0, smoothness = {smoothness!r}], got {mu!r}")
    if not sharpness > 0:
        raise ValueError(f"sharpness: expected a positive number, got {sharpness!r}")
    shift, minimizer = np.array(shift, dtype=np.float64), np.array(minimizer, dtype=np.float64)
    weight = (smoothness - mu) / sharpness

    def gradient(x: Vector) -> Vector:
        offset = x - minimizer
        return mu * offset + weight * (np.tanh(sharpness * offset + shift) - np.tanh(shift))

    return StronglyConvex(gradient, minimizer, mu, smoothness)


def mean_of_quadratics(hessians: Sequence[Vector], minimizers: Sequence[Vector]) -> StronglyConvex:
    """The mean of T quadratics, one per training round. It is a quadratic with the mean Hessian.

    Args:
        hessians: T matrices (n, n), each symmetric and positive definite.
        minimizers: T vectors (n,). The minimizer of the mean is in general not their mean.

    Raises:
        ValueError: as `quadratic`, or the numbers of Hessians and minimizers differ.

    >>> import numpy as np
    >>> from gia.theory.landscapes import mean_of_quadratics
    >>> mean = mean_of_quadratics([np.eye(1), 3 * np.eye(1)], [np.array([0.0]), np.array([1.0])])
    >>> mean.mu, mean.minimizer.tolist()
    (2.0, [0.75])
    """
    rounds = [quadratic(hessian, minimizer) for hessian, minimizer in zip(hessians, minimizers, strict=True)]
    mean = np.mean(np.array(hessians, dtype=np.float64), axis=0)
    pull = np.mean([-each.gradient(np.zeros_like(each.minimizer)) for each in rounds], axis=0)
    return quadratic(mean, np.linalg.solve(mean, pull))


def draw_function(
    kind: Literal["quadratic", "softened"], *, mu: float, smoothness: float, size: int, rng: np.random.Generator
) -> StronglyConvex:
    """A random mu-strongly convex, L-smooth function. With two variables or more, mu and L are among its curvatures.

    Args:
        kind: "quadratic" or "softened".
        mu: strong convexity, in (0, L].
        smoothness: L.
        size: number of variables, at least 1.
        rng: source of the random draws.

    Raises:
        ValueError: another kind; otherwise as `quadratic` and `softened`.

    >>> import numpy as np
    >>> from gia.theory.landscapes import draw_function
    >>> function = draw_function("quadratic", mu=1.0, smoothness=4.0, size=3, rng=np.random.default_rng(0))
    >>> bool(np.abs(function.gradient(function.minimizer)).max() < 1e-12)
    True
    """
    minimizer = rng.normal(size=size)
    if kind == "softened":
        sharpness = float(10 ** rng.uniform(-1, 2))
        return softened(mu, smoothness, sharpness=sharpness, shift=rng.normal(size=size), minimizer=minimizer)
    if kind != "quadratic":
        raise ValueError(expected_one_of("kind", kind, ("quadratic", "softened")))
    made = quadratic(_draw_hessian(mu, smoothness, size, rng), minimizer)
    return StronglyConvex(
        made.gradient, minimizer, mu, smoothness
    )  # a single variable has only one of the two curvatures


def draw_rounds(
    rounds: int, *, mu: float, smoothness: float, size: int, rng: np.random.Generator
) -> tuple[StronglyConvex, StronglyConvex]:
    """T random quadratics, one per training round: the first of them, and the mean of all.

    Theorem 1 is about the mean, while descent follows the gradient of one round.

    Args:
        rounds: T, at least 1.
        mu, smoothness, size, rng: as in `draw_function`.

    Returns:
        The first quadratic and the mean.

    >>> import numpy as np
    >>> from gia.theory.landscapes import draw_rounds
    >>> first, mean = draw_rounds(3, mu=1.0, smoothness=4.0, size=2, rng=np.random.default_rng(0))
    >>> round(first.mu, 6), round(first.smoothness, 6), 1 < mean.mu < mean.smoothness < 4
    (1.0, 4.0, True)
    """
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
