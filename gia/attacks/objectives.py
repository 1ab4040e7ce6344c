"""How well two gradients agree: the matching terms of gradient inversion.

Every objective is a function of a few sums per parameter, `Agreement`. An engine is therefore free in how it computes
the sums, and the derivative with respect to a gradient g is always a*g + b*t, with the target t and scalars a and b per
parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from gia.errors import expected_one_of


class Agreement:
    """Sums over the entries of each parameter's gradient g and its target t, as tensors of shape (..., parameters).

    Args:
        names: the shared parameters.
        gradients, targets: one tensor per name.

    >>> import torch
    >>> Agreement(["weight"], [torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 0.0])]).inner.tolist()
    [1.0]
    """

    def __init__(self, names: Sequence[str], gradients: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        self.names = tuple(names)
        self._gradients, self._targets = gradients, targets

    @cached_property
    def inner(self) -> Tensor:
        """Sum of g*t."""
        pairs = zip(self._gradients, self._targets, strict=True)
        return torch.stack([(gradient * target).sum() for gradient, target in pairs], -1)

    @cached_property
    def squared(self) -> Tensor:
        """Sum of g*g."""
        return torch.stack([gradient.square().sum() for gradient in self._gradients], -1)

    @cached_property
    def target_squared(self) -> Tensor:
        """Sum of t*t."""
        return torch.stack([target.square().sum() for target in self._targets], -1)

    @cached_property
    def difference(self) -> Tensor:
        """Sum of (g-t)*(g-t). A separate sum, since squared - 2*inner + target_squared cancels near a match."""
        pairs = zip(self._gradients, self._targets, strict=True)
        return torch.stack([(gradient - target).square().sum() for gradient, target in pairs], -1)


#: Agreement with sums (..., P) -> values (...,); smaller is better.
Objective = Callable[[Agreement], Tensor]


@dataclass(frozen=True)
class Cosine:
    """1 - cos(g, t), one cosine over the whole gradient (Geiping et al., 2020, "Inverting Gradients", Eq. 4).

    Args:
        weights: factor per parameter name in all three sums, 1 where not given.
        layers: only parameters whose name starts with one of these; None takes all.

    Raises ValueError, when called, for a weight of an unknown parameter or layers that match none.

    >>> import torch
    >>> Cosine()(Agreement(["weight"], [torch.tensor([1.0, 2.0])], [torch.tensor([2.0, 4.0])])).item()
    0.0
    """

    weights: Mapping[str, float] | None = None
    layers: Collection[str] | None = None

    #: The value does not change with the size of either gradient, so that tiny ones may be scaled.
    scale_free: ClassVar[bool] = True

    def __call__(self, agreement: Agreement) -> Tensor:
        factors = _factors(agreement, self.weights, self.layers)
        inner = (factors * agreement.inner).sum(-1)
        # Two roots, not the root of the product, which would underflow for small gradients so that the clamp decides.
        norms = [_root((factors * sums).sum(-1)) for sums in (agreement.squared, agreement.target_squared)]
        return 1 - inner / norms[0] / norms[1]


@dataclass(frozen=True)
class SquaredDifferences:
    """scale * sum of (g - t)^2 (Zhu et al., 2019, "Deep Leakage from Gradients", Eq. 4).

    Args:
        scale: factor on the sum.
        weights, layers: as in `Cosine`.

    >>> import torch
    >>> SquaredDifferences(0.5)(Agreement(["weight"], [torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 4.0])])).item()
    2.0
    """

    scale: float = 1.0
    weights: Mapping[str, float] | None = None
    layers: Collection[str] | None = None

    def __call__(self, agreement: Agreement) -> Tensor:
        factors = _factors(agreement, self.weights, self.layers)
        return self.scale * (factors * agreement.difference).sum(-1)


def _root(squared: Tensor) -> Tensor:
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def _factors(agreement: Agreement, weights: Mapping[str, float] | None, layers: Collection[str] | None) -> Tensor:
    if isinstance(layers, str):
        raise TypeError(f"layers: expected a collection of prefixes such as ({layers!r},), got a string")
    sums = agreement.target_squared
    chosen = None if layers is None else tuple(layers)
    return _tensor_of_factors(agreement.names, tuple((weights or {}).items()), chosen, sums.dtype, sums.device)


@lru_cache(maxsize=64)  # made once, not at every step, since the copy to an accelerator blocks
def _tensor_of_factors(
    names: tuple[str, ...],
    weights: tuple[tuple[str, float], ...],
    layers: tuple[str, ...] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    chosen = [layers is None or any(name.startswith(prefix) for prefix in layers) for name in names]
    if not any(chosen):
        raise ValueError(f"layers: expected prefixes of shared parameters {names}, got {layers}")
    given = dict(weights)
    if unknown := [name for name in given if name not in names]:
        raise ValueError(expected_one_of("weights", unknown[0], names))
    factors = [given.get(name, 1.0) if take else 0.0 for name, take in zip(names, chosen, strict=True)]
    return torch.tensor(factors, dtype=dtype, device=device)
