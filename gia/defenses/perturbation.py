"""Defenses that change a finished answer: noise, clipping, pruning and quantization of what is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gia.errors import expected_one_of
from gia.federated.observation import Observation

__all__ = ["clip", "noise", "prune", "quantize"]


@dataclass(frozen=True)
class noise:
    """Independent noise on every entry (Zhu et al., NeurIPS 2019, Sec. 5.1).

    Args:
        std: standard deviation of the noise on each entry, in the unit of the gradient; 0 or more.
        kind: "gaussian", or "laplace" with the scale std / sqrt(2), which has the same deviation.

    Raises ValueError for another kind or a deviation that is negative or not finite; when called, without a generator.

    >>> import torch, gia
    >>> observation = gia.Observation({"w": torch.zeros(10_000)}, image_shape=(1, 1, 1), batch_size=1)
    >>> noisy = gia.defenses.noise(std=0.5)(observation, generator=torch.Generator().manual_seed(0))
    >>> round(float(noisy.gradients["w"].std()), 2)
    0.5
    """

    std: float
    kind: Literal["gaussian", "laplace"] = "gaussian"

    def __post_init__(self) -> None:
        _check_number("std", self.std, at_least=0.0)
        if self.kind not in ("gaussian", "laplace"):
            raise ValueError(expected_one_of("kind", self.kind, ("gaussian", "laplace")))

    def __call__(self, observation: Observation, *, generator: torch.Generator | None = None) -> Observation:
        """The observation with noise from `generator`."""
        drawn = checked_generator(generator)

        def noisy(gradient: Tensor) -> Tensor:
            # On the CPU and in float64, so that one seed gives the same noise for every device and dtype.
            normal = torch.randn(gradient.shape, generator=drawn, dtype=torch.float64)
            if self.kind == "laplace":
                # A normal number times the root of an exponential one: Laplace with variance 1.
                exponential = torch.empty(gradient.shape, dtype=torch.float64, device="cpu").exponential_(
                    generator=drawn
                )
                normal = normal * exponential.sqrt()
            return gradient + self.std * normal.to(gradient)

        return _changed(observation, noisy)


@dataclass(frozen=True)
class clip:
    """Scaling down to a norm, over all tensors together (Abadi et al., CCS 2016, Alg. 1, without its noise).

    Args:
        norm: the largest 2-norm that is shared; above 0.

    Raises ValueError for a norm that is not positive and finite.

    >>> import torch, gia
    >>> observation = gia.Observation({"w": torch.tensor([3.0, 4.0])}, image_shape=(1, 1, 1), batch_size=1)
    >>> gia.defenses.clip(norm=1.0)(observation).gradients["w"]
    tensor([0.6000, 0.8000])
    """

    norm: float

    def __post_init__(self) -> None:
        _check_number("norm", self.norm, above=0.0)

    def __call__(self, observation: Observation, *, generator: torch.Generator | None = None) -> Observation:
        """The observation, scaled if it is longer than `norm`; `generator` is not used."""
        length = math.sqrt(sum(float(g.double().square().sum()) for g in observation.gradients.values()))
        if length <= self.norm:
            return observation
        return _changed(observation, lambda gradient: gradient * (self.norm / length))


@dataclass(frozen=True)
class prune:
    """Gradient compression: each tensor keeps the entries with the largest absolute values; the others are zero.

    Top-k sparsification as in Deep Gradient Compression (Lin et al., ICLR 2018), the defense of Zhu et al. (2019).

    Args:
        keep: the share of entries that is kept, above 0 and at most 1. A tensor keeps at least one entry; of n entries
            it keeps round(keep * n).

    Raises ValueError for a share outside this range.

    >>> import torch, gia
    >>> observation = gia.Observation({"w": torch.tensor([1.0, -3.0, 2.0, 0.5])}, image_shape=(1, 1, 1), batch_size=1)
    >>> gia.defenses.prune(keep=0.5)(observation).gradients["w"]
    tensor([ 0., -3.,  2.,  0.])
    """

    keep: float

    def __post_init__(self) -> None:
        _check_number("keep", self.keep, above=0.0, at_most=1.0)

    def __call__(self, observation: Observation, *, generator: torch.Generator | None = None) -> Observation:
        """The observation with exactly this share of the entries of each tensor; `generator` is not used."""

        def pruned(gradient: Tensor) -> Tensor:
            flat = gradient.flatten()
            # Sorted, not by a threshold: of equal entries no more than the share is kept.
            order = flat.abs().argsort(descending=True, stable=True)[: max(1, round(self.keep * flat.numel()))]
            return torch.zeros_like(flat).index_copy(0, order, flat[order]).view_as(gradient)

        return _changed(observation, pruned)


@dataclass(frozen=True)
class quantize:
    """Fewer bits for each entry: signs, or evenly spaced levels with unbiased rounding.

    Args:
        bits: 1 shares each entry's sign times the tensor's mean absolute value (Bernstein et al., ICML 2018, scaled as
            in Karimireddy et al., ICML 2019). From 2 to 16, entries are rounded at random to 2**bits - 1 evenly spaced
            levels from -max|g| to max|g|, which keeps their mean (QSGD: Alistarh et al., NeurIPS 2017).

    Raises ValueError for another number of bits; when called, from 2 bits on, without a generator.

    >>> import torch, gia
    >>> observation = gia.Observation({"w": torch.tensor([1.0, -3.0, 2.0])}, image_shape=(1, 1, 1), batch_size=1)
    >>> gia.defenses.quantize(bits=1)(observation).gradients["w"]
    tensor([ 2., -2.,  2.])
    """

    bits: int

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(1, 17):
            raise ValueError(f"bits: expected a whole number from 1 to 16, got {self.bits!r}")

    def __call__(self, observation: Observation, *, generator: torch.Generator | None = None) -> Observation:
        """The observation with 2**bits - 1 different values in each tensor at most, or three for signs."""
        if self.bits == 1:
            return _changed(observation, lambda gradient: gradient.sign() * gradient.abs().mean())
        drawn = checked_generator(generator)
        largest_level = 2 ** (self.bits - 1) - 1

        def rounded(gradient: Tensor) -> Tensor:
            largest = gradient.abs().max()
            if largest == 0:
                return gradient
            level = gradient / largest * largest_level
            chance = torch.rand(gradient.shape, generator=drawn, dtype=torch.float64).to(gradient)
            whole = level.floor() + (chance < level - level.floor()).to(level)
            values: Tensor = whole / largest_level * largest
            return values

        return _changed(observation, rounded)


def checked_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator. Raises ValueError for None, since a defense never draws from the global random state.

    >>> from gia.defenses.perturbation import checked_generator
    >>> checked_generator(None)
    Traceback (most recent call last):
    ValueError: generator: expected a torch.Generator, got None; Client(defense_generator=...) gives one
    """
    if generator is None:
        raise ValueError("generator: expected a torch.Generator, got None; Client(defense_generator=...) gives one")
    return generator


def _changed(observation: Observation, change: Callable[[Tensor], Tensor]) -> Observation:
    return replace(observation, gradients={name: change(g) for name, g in observation.gradients.items()})


def _check_number(
    name: str, value: float, *, above: float = -math.inf, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    if not (math.isfinite(value) and above < value and at_least <= value <= at_most):
        limits = [f"above {above:g}"] * (above > -math.inf) + [f"from {at_least:g} on"] * (at_least > -math.inf)
        limits += [f"at most {at_most:g}"] * (at_most < math.inf)
        raise ValueError(f"{name}: expected a number {' and '.join(limits)}, got {value!r}")
