"""CMA-ES as an update rule: a search that needs the objective alone, for the `cma` package's ask and tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gia.attacks.matching.updates import Evaluate, Step
from gia.errors import not_installed


@dataclass(frozen=True)
class CMA:
    """Covariance matrix adaptation (Hansen, 2016, "The CMA Evolution Strategy: A Tutorial"), one strategy per trial.

    The variable's value is the first mean and is not evaluated: the variable is moved to the first candidate at once. A
    step evaluates the candidates where the variables are and moves on to the next of their generation, so that s steps
    and the loop's last evaluation spend a budget of s + 1. Gradients in the `Point` are not read.

    Args:
        deviation: of the first generation, in every entry.
        population: candidates of a generation.
        bound: every entry of a candidate lies in [-bound, bound], by the package's smooth transform; None sets none.
        generators: one per trial; all of its randomness.
    """

    deviation: float
    population: int
    bound: float | None
    generators: Sequence[torch.Generator]

    def __call__(self, variables: Sequence[Tensor]) -> Step:
        (variable,) = variables
        strategies = [
            _Strategy(self, mean, generator) for mean, generator in zip(variable, self.generators, strict=True)
        ]

        def move() -> None:
            candidates = torch.from_numpy(np.stack([strategy.candidate for strategy in strategies]))
            variable.copy_(candidates.view_as(variable))

        def step(evaluate: Evaluate, factor: float) -> None:
            values = evaluate(variables, slice(None)).values.tolist()
            for strategy, value in zip(strategies, values, strict=True):
                strategy.tell(value)
            move()

        move()
        return step


class _Strategy:
    """The search of one trial; `candidate` is what it wants to have evaluated next."""

    def __init__(self, rule: CMA, mean: Tensor, generator: torch.Generator) -> None:
        try:
            import cma  # takes a second, of which most is matplotlib
        except ModuleNotFoundError as error:
            raise not_installed("cma", "the CMA-ES search of ggl", "ggl") from error

        def normal(*shape: int) -> np.ndarray:
            drawn: np.ndarray = torch.randn(
                shape, generator=generator, device=generator.device, dtype=torch.float64
            ).numpy(force=True)
            return drawn

        options: dict[str, Any] = {
            "popsize": rule.population,
            "randn": normal,
            "seed": np.nan,  # leaves numpy's global state alone
            "verbose": -10,  # and reads no file of signals
            "verb_log": 0,
        }
        if rule.bound is not None:
            options["bounds"] = [-rule.bound, rule.bound]
        start = mean.detach().double().flatten().numpy(force=True)
        self._strategy = cma.CMAEvolutionStrategy(start, rule.deviation, options)
        self._asked: list[np.ndarray] = self._strategy.ask()
        self._values: list[float] = []

    @property
    def candidate(self) -> np.ndarray:
        return self._asked[len(self._values)]

    def tell(self, value: float) -> None:
        """Of the candidate; the last of a generation makes the next one."""
        self._values.append(value)
        if len(self._values) == len(self._asked):
            self._strategy.tell(self._asked, self._values)
            self._asked, self._values = self._strategy.ask(), []
