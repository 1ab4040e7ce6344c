"""CMA-ES as an update rule: a search by the objective alone, built on the `cma` package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gia.attacks.matching.updates import Evaluate, Resumable, Step
from gia.errors import not_installed


@dataclass(frozen=True)
class CMA:
    """Covariance matrix adaptation (Hansen, 2016, "The CMA Evolution Strategy: A Tutorial"), one strategy per trial.

    The start is the first mean. It is not evaluated: the variable moves to the first candidate immediately. Each step
    evaluates the current candidate and moves to the next, so s steps and the loop's last evaluation spend a budget of
    s + 1. Gradients in the `Point` are not read.

    Args:
        deviation: standard deviation of the first generation, in every entry.
        population: candidates of a generation.
        bound: every entry of a candidate lies in [-bound, bound], by the package's smooth transform; None for no bound.
        generators: one per trial, the only source of randomness.

    >>> import torch
    >>> from gia.attacks.matching import Point, minimize
    >>> rule = CMA(1.0, population=8, bound=None, generators=[torch.Generator().manual_seed(0)])
    >>> def evaluate(variables, trials):
    ...     return Point(variables[0].square().sum(1), [])
    >>> bool(minimize(evaluate, [torch.ones(1, 2)], steps=100, update=rule).values < 0.1)
    True
    """

    deviation: float
    population: int
    bound: float | None
    generators: Sequence[torch.Generator]

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Step:
        (variable,) = variables
        strategies = [
            _Strategy(self, mean, generator) for mean, generator in zip(variable, self.generators[trials], strict=True)
        ]

        def move() -> None:
            candidates = torch.from_numpy(np.stack([strategy.candidate for strategy in strategies]))
            variable.copy_(candidates.view_as(variable))

        def step(evaluate: Evaluate, factor: float) -> None:
            values = evaluate(variables, slice(None)).values.tolist()
            for strategy, value in zip(strategies, values, strict=True):
                strategy.tell(value)
            told.append(values)
            move()

        def state() -> dict[str, Any]:
            return {"told": torch.tensor(told, dtype=torch.float64)}

        def load(stored: dict[str, Any]) -> None:
            """Tell the values again: the package's own state is a pickle, which runs code when it is loaded."""
            last = variable.clone()
            for values in stored["told"].tolist():
                for strategy, value in zip(strategies, values, strict=True):
                    strategy.tell(value)
                told.append(values)
            move()
            if not torch.equal(variable, last):
                raise ValueError("its values lead the evolution to other candidates")

        told: list[list[float]] = []
        move()
        return Resumable(step, state, load)


class _Strategy:
    """The search of one trial; `candidate` is the next point to evaluate."""

    def __init__(self, rule: CMA, mean: Tensor, generator: torch.Generator) -> None:
        try:
            import cma  # imported here, since it takes a second (mostly matplotlib)
        except ModuleNotFoundError as error:
            raise not_installed("cma", "the CMA-ES search of ggl", "cma>=4.0") from error

        def normal(*shape: int) -> np.ndarray:
            drawn: np.ndarray = torch.randn(
                shape, generator=generator, device=generator.device, dtype=torch.float64
            ).numpy(force=True)
            return drawn

        options: dict[str, Any] = {
            "popsize": rule.population,
            "randn": normal,
            "seed": np.nan,  # does not touch numpy's global state
            "verbose": -10,  # does not read a file of signals
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
        """Record the value of the candidate; the last value of a generation starts the next one."""
        self._values.append(value)
        if len(self._values) == len(self._asked):
            self._strategy.tell(self._asked, self._values)
            self._asked, self._values = self._strategy.ask(), []
