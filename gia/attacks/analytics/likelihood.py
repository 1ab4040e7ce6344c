"""The image whose tokens most likely explain shared rows of gradients, which combine its tokens and carry rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gia.attacks.analytics.patches import assembled, cut, roughness

#: Rounding of a shared value, in units of eps and of its row's size; and of a token, in units of eps and of its size.
_OF_ROWS, _OF_TOKENS = 1.0, 1.5

#: Weight of a pixel's squared distance from gray: one over the variance of values that are uniform in [0, 1].
_GRAY = 12.0

#: Factor from one level of tolerance to the next, Gauss-Newton steps at each of them, and at the last one.
_TIGHTENING, _STEPS, _LAST = 0.3, 2, 20

#: Conjugate gradients of a step end after this number, or where the residual has fallen by this factor.
_CONJUGATE, _SOLVED = 60, 1e-2

#: Damping in units of the prior's weight: at first, at least, and the factor of a change.
_DAMPING, _LEAST, _CHANGE = 0.1, 1e-3, 8.0

#: Singular values of tokens below this part of the largest are zero.
SINGULAR = 1e-13


class View(NamedTuple):
    """Shared rows as one layer makes them: they combine what it sees of the tokens, less what is known of them.

    Attributes:
        strengths: (k,), singular values of the rows, in units in which the largest error of each row is alike.
        directions: (k, q), the right singular vectors.
        matrix, offsets: (q, C * p * p) and (n, q); token n is matrix @ patch n + offsets[n], up to a factor.
        seen: the same two before the known tokens are taken out, (w, C * p * p) and (n, w).
        known: (k,), what the known tokens contribute to each direction, as a sum of squares.
        of_rows: the error of an entry of a row, in these units.
        of_tokens: the error of an entry of a token of length 1.
        least: the error per entry that the weakest directions show, which no token explains.
    """

    strengths: Tensor
    directions: Tensor
    matrix: Tensor
    offsets: Tensor
    seen: tuple[Tensor, Tensor]
    known: Tensor
    of_rows: float
    of_tokens: float
    least: float


class _Span(NamedTuple):
    """Rows against the span of an image's tokens.

    Attributes:
        basis: (q, n), orthonormal.
        outside: (k, q), directions less their part in the span.
        coefficients: (k, n), of directions times strengths, in tokens.
    """

    basis: Tensor
    outside: Tensor
    coefficients: Tensor


def view_of(
    rows: Tensor, projection: Tensor, matrix: Tensor, offsets: Tensor, known: Tensor, *, eps: float, spread: float
) -> View | None:
    """A layer's view of the tokens; None where its rows say nothing of them but rounding.

    Args:
        rows: (m, w), shared; each combines the tokens that the layer sees.
        projection: (w, d), from tokens to what the layer sees; w is larger than the number of all tokens.
        matrix, offsets: (d, C * p * p) and (n, d); a token is parallel to matrix @ patch + offset, plus known tokens.
        known: (c, d), tokens that do not depend on the image.
        eps: of the dtype in which the rows were computed.
        spread: by how much the tokens may differ between rows, relative to their size.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> matrix, offsets, rows, known = (torch.randn(size, 8, generator=g).double() for size in (4, 2, 3, 0))
    >>> view = view_of(rows, torch.eye(8).double(), matrix.T, offsets, known, eps=1e-7, spread=0.0)
    >>> view.directions.shape, view.matrix.shape
    (torch.Size([3, 8]), torch.Size([8, 4]))
    """
    count, width = len(offsets), len(projection)
    rows = rows[rows.norm(dim=1) > 0]
    if not len(rows):
        return None
    rows = rows / rows.norm(dim=1, keepdim=True)
    fixed = known @ projection.T
    complete, _ = torch.linalg.qr(fixed.T, mode="complete")
    complement = complete[:, len(fixed) :]
    seen = projection @ matrix, offsets @ projection.T
    reduced = complement.T @ seen[0], seen[1] @ complement
    of_known = (rows @ torch.linalg.pinv(fixed)) * fixed.norm(dim=1)
    # A row whose parts cancel has errors of the size of its parts: they are taken at gray patches.
    left, strengths, directions = torch.linalg.svd(rows @ complement, full_matrices=False)
    above = strengths > eps
    gray = torch.full((count, matrix.shape[1]), 0.5, dtype=matrix.dtype)
    found = _span(strengths[above], directions[above], gray @ reduced[0].T + reduced[1])
    parts = (left[:, above] @ found.coefficients).square() @ _sizes(seen, gray) + of_known.square().sum(1)
    sizes = (parts + 1).sqrt()[:, None]
    left, strengths, directions = torch.linalg.svd(rows / sizes @ complement, full_matrices=False)
    fixed_parts = (left.T @ (of_known / sizes)).square().sum(1)
    error_of_rows = _OF_ROWS * eps / math.sqrt(width)
    # Rounding differs from token to token; what a block adds is much the same for all, so it does not average out.
    error_of_tokens = (_OF_TOKENS * eps + spread * math.sqrt(count)) / math.sqrt(width)
    noise = (error_of_rows**2 + error_of_tokens**2 * fixed_parts).sqrt()
    if not bool((strengths > noise * (math.sqrt(len(rows)) + math.sqrt(len(reduced[0])))).any()):
        return None
    spare = len(strengths) - count
    least = float((strengths[count:].square().sum() / (spare * (len(reduced[0]) - count))).sqrt()) if spare > 0 else 0.0
    return View(strengths, directions, *reduced, seen, fixed_parts, error_of_rows, error_of_tokens, least)


def most_likely(
    views: Sequence[View], shape: tuple[int, int, int], patch: int, smoothness: float, start: Tensor
) -> Tensor:
    """The most likely image (C, H, W), by Gauss-Newton steps from gray with a tolerance that falls to that of rounding.

    Each direction counts by its strength over its error: errors of rows, and of tokens times what the direction takes
    of them. Coefficients of tokens are free, so a misfit is what lies outside the span of the tokens (variable
    projection, by Kaufman's approximation).

    Args:
        views: of the layers that share something.
        shape, patch: of the image, and the side of a patch.
        smoothness: weight of squared differences of neighbouring pixels against squared misfits in units of the error.
        start: (C, H, W), another solution: it is refined and returned where it is more likely.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> sizes = ((9, 4), (4, 9), (4, 4), (0, 9))
    >>> matrix, offsets, mixing, known = (torch.randn(size, generator=g).double() for size in sizes)
    >>> image = torch.rand(1, 4, 4, generator=g).double()
    >>> rows = mixing @ (cut(image, 2) @ matrix.T + offsets)
    >>> view = view_of(rows, torch.eye(9).double(), matrix, offsets, known, eps=1e-12, spread=0.0)
    >>> found = most_likely([view], (1, 4, 4), 2, 1.0, torch.zeros(1, 4, 4).double())
    >>> bool((found - image).abs().max() < 1e-3)
    True
    """
    image, tolerance = torch.full(shape, 0.5, dtype=torch.float64), 1.0
    if not views:
        return image
    problem = _Problem(views, shape, patch, smoothness)
    while tolerance > 0:
        errors = problem.errors(image)
        image = problem.improved(image, errors, tolerance, _STEPS)
        tolerance *= _TIGHTENING
        if tolerance < _TIGHTENING * min(float(each.min()) for each in errors):
            tolerance = 0.0
    image = problem.improved(image, problem.errors(image), 0.0, _LAST)
    if problem.unlikely(start) < problem.unlikely(image):
        image = problem.improved(start, problem.errors(start), 0.0, _LAST)
    return image


class _Problem:
    def __init__(self, views: Sequence[View], shape: tuple[int, int, int], patch: int, smoothness: float) -> None:
        self.views, self.shape, self.patch, self.smoothness = views, shape, patch, smoothness
        self.prior = 4 * smoothness + _GRAY  # near the diagonal of its Hessian
        self.damping = _DAMPING * self.prior

    def errors(self, image: Tensor) -> list[Tensor]:
        """Per view and direction the standard deviation (k,) of an entry's error, were this the image."""
        patches, found = cut(image, self.patch), []
        for view in self.views:
            span = _span(view.strengths, view.directions, patches @ view.matrix.T + view.offsets)
            parts = span.coefficients.square() @ _sizes(view.seen, patches) + view.known
            found.append((view.of_rows**2 + view.of_tokens**2 * parts).sqrt().clamp(min=view.least))
        return found

    def unlikely(self, image: Tensor) -> float:
        """Minus twice the logarithm of the posterior, up to a constant."""
        errors = self.errors(image)
        spread = sum(
            2 * (len(view.matrix) - len(view.offsets)) * float(each.log().sum())
            for view, each in zip(self.views, errors, strict=True)
        )
        return spread + self.value(image, self.weights(errors, 0.0))

    def weights(self, errors: Sequence[Tensor], tolerance: float) -> list[Tensor]:
        return [
            view.strengths / (each.square() + tolerance**2).sqrt()
            for view, each in zip(self.views, errors, strict=True)
        ]

    def value(self, image: Tensor, weights: Sequence[Tensor]) -> float:
        """Squared misfits in units of the error, and the prior."""
        patches, apart = cut(image, self.patch), image - 0.5
        total = float((apart * self.pulled(apart)).sum())
        for view, weight in zip(self.views, weights, strict=True):
            span = _span(weight, view.directions, patches @ view.matrix.T + view.offsets)
            total += float((weight[:, None] * span.outside).square().sum())
        return total

    def pulled(self, apart: Tensor) -> Tensor:
        """Half the gradient of the prior at an image that is so far from gray."""
        return self.smoothness * roughness(apart) + _GRAY * apart

    def improved(self, image: Tensor, errors: Sequence[Tensor], tolerance: float, steps: int) -> Tensor:
        """The image after at most that many damped Gauss-Newton steps; one that does not help is damped more."""
        weights = self.weights(errors, tolerance)
        value = self.value(image, weights)
        for _ in range(steps):
            for _ in range(5):
                changed = image + self.step(image, weights)
                after = self.value(changed, weights)
                if after < value:
                    break
                self.damping *= _CHANGE
            else:
                return image
            image, value, before = changed, after, value
            self.damping = max(self.damping / _CHANGE, _LEAST * self.prior)
            if before - value < 1e-2 * value:
                break
        return image

    def step(self, image: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The change (C, H, W) of a damped Gauss-Newton step, by conjugate gradients.

        The misfit's Hessian is a sum over views of a product over positions times one within patches. Conjugate
        gradients run in the bases where these sums are diagonal, and start from the diagonal.
        """
        patches = cut(image, self.patch)
        gradient = cut(self.pulled(image - 0.5), self.patch)
        over, within = [], []
        for view, weight in zip(self.views, weights, strict=True):
            span = _span(weight, view.directions, patches @ view.matrix.T + view.offsets)
            gradient = gradient - span.coefficients.T @ (weight[:, None] * span.outside @ view.matrix)
            over.append(torch.linalg.qr(span.coefficients, mode="r")[1])
            within.append(torch.linalg.qr(view.matrix - span.basis @ (span.basis.T @ view.matrix), mode="r")[1])
        scales = [float(each.norm()) or 1.0 for each in within]
        positions, over = _diagonal(over, scales)
        pixels, within = _diagonal(within, [1 / each for each in scales])
        diagonal = sum(
            one.square().sum(0)[:, None] * other.square().sum(0) for one, other in zip(over, within, strict=True)
        )
        divided = 1 / (diagonal + self.prior + self.damping)

        def curved(change: Tensor) -> Tensor:
            moved = assembled(positions @ change @ pixels.T, self.shape, self.patch)
            result = positions.T @ cut(self.pulled(moved), self.patch) @ pixels + self.damping * change
            for one, other in zip(over, within, strict=True):
                result = result + one.T @ (one @ change @ other.T) @ other
            return result

        change, residual = torch.zeros_like(gradient), -positions.T @ gradient @ pixels
        direction = scaled = divided * residual
        product = first = (residual * scaled).sum()
        for _ in range(_CONJUGATE):
            along = curved(direction)
            curvature = (direction * along).sum()
            if not (float(product) > _SOLVED**2 * float(first) and float(curvature) > 0):
                break
            length = product / curvature
            change, residual = change + length * direction, residual - length * along
            scaled = divided * residual
            product, before = (residual * scaled).sum(), product
            direction = scaled + product / before * direction
        return assembled(positions @ change @ pixels.T, self.shape, self.patch)


def _span(strengths: Tensor, directions: Tensor, tokens: Tensor) -> _Span:
    left, values, right = torch.linalg.svd(tokens, full_matrices=False)
    rank = int((values > SINGULAR * values[0]).sum())
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    inside = directions @ right.T
    coefficients = (strengths[:, None] * inside / values) @ left.T
    return _Span(right.T, directions - inside @ right, coefficients)


def _sizes(seen: tuple[Tensor, Tensor], patches: Tensor) -> Tensor:
    """Squared lengths (n,) of the tokens that a layer sees."""
    return (patches @ seen[0].T + seen[1]).square().sum(1)


def _diagonal(factors: Sequence[Tensor], scales: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    """The basis in which the sum of the factors' squares is diagonal, and the factors in it."""
    stacked = torch.cat([scale * each for each, scale in zip(factors, scales, strict=True)])
    left, values, right = torch.linalg.svd(stacked, full_matrices=False)
    if len(right) < right.shape[1]:
        *_, right = torch.linalg.svd(stacked, full_matrices=True)
    rotated = torch.zeros_like(stacked)
    rotated[:, : len(values)] = left * values  # unlike a product with the basis, exact in weak directions too
    parts = torch.split(rotated, [len(each) for each in factors])
    return right.T, [each / scale for each, scale in zip(parts, scales, strict=True)]
