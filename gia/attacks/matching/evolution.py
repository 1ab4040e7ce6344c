"""CMA-ES: a search by the objective alone, built on the `cma` package, whose candidates are evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gia.attacks.matching.parts import Parts
from gia.attacks.matching.problem import Matching
from gia.attacks.matching.updates import Evaluate, Point, Resumable, Step
from gia.errors import not_installed

#: Images that are evaluated at once. More of them are hardly faster, and a system that gives memory on credit may end
#: the process instead of an error that could be caught.
_IMAGES = 64


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

    Attributes:
        strategies: the searches that run, by the number of their trial.

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
    strategies: dict[int, _Strategy] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Step:
        (variable,) = variables
        strategies = [
            _Strategy(self, mean, generator) for mean, generator in zip(variable, self.generators[trials], strict=True)
        ]
        self.strategies.update(zip(range(len(self.generators))[trials], strategies, strict=True))

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
            return {
                "told": torch.tensor(told, dtype=torch.float64),
                "ahead": [list(strategy.ahead) for strategy in strategies],
            }

        def load(stored: dict[str, Any]) -> None:
            """Tell the values again: the package's own state is a pickle, which runs code when it is loaded."""
            last = variable.clone()
            for values in stored["told"].tolist():
                for strategy, value in zip(strategies, values, strict=True):
                    strategy.tell(value)
                told.append(values)
            for strategy, values in zip(strategies, stored["ahead"], strict=True):
                strategy.ahead = list(values)
            move()
            if not torch.equal(variable, last):
                raise ValueError("its values lead the evolution to other candidates")

        told: list[list[float]] = []
        move()
        return Resumable(step, state, load)


class Generations:
    """An objective for `minimize` with `CMA` that evaluates the candidates of a generation together and keeps values.

    Each step reads the value of the current candidate, so steps, candidates and draws are those of a search that
    evaluates one at a time, and values agree up to the rounding of batched arithmetic. Where a generation does not fit
    into memory, it is evaluated in parts (`gia.attacks.matching.parts`), and in any case in parts of at most 64 images.

    Args:
        rule: of the same search.
        values: (candidates (P, ...), the number of their trial) -> objective (P,).
        budget: evaluations of a trial in all. The last generation is cut to the rest of it.
        problem: what `values` asks; its state is part of the state of this.
    """

    def __init__(self, rule: CMA, values: Callable[[Tensor, int], Tensor], *, budget: int, problem: Matching) -> None:
        self._rule, self._budget, self._problem = rule, budget, problem

        def evaluate(variables: Sequence[Tensor], _: slice) -> Point:
            candidates, trial = variables
            return Point(values(candidates, int(trial[0])), [])

        self._parts = Parts(evaluate, together=1, of="candidates")
        self._parts.at_once = max(1, _IMAGES // problem.batch_size)

    def __call__(self, variables: Sequence[Tensor], trials: slice) -> Point:
        """The objective of the chosen trials at their current candidates."""
        (variable,) = variables
        chosen = range(len(self._rule.generators))[trials]
        return Point(variable.new_tensor([self._value(t, at) for t, at in zip(chosen, variable, strict=True)]), [])

    def _value(self, trial: int, current: Tensor) -> float:
        strategy = self._rule.strategies[trial]
        if not strategy.ahead:
            left = torch.from_numpy(np.stack(strategy.candidates(self._budget)))
            candidates = left.to(current).view(-1, *current.shape)
            which = torch.full((len(candidates),), trial, device="cpu")
            strategy.ahead = self._parts([candidates, which], slice(0, len(candidates))).values.tolist()
        return strategy.ahead[0]

    def halve(self) -> bool:
        """As of the problem."""
        return self._problem.halve()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the problem's state, and how many candidates fit into memory."""
        return {"problem": self._problem.state_dict(), "at_once": self._parts.at_once}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self._problem.load_state_dict(state["problem"])
        self._parts.at_once = state["at_once"]


class _Strategy:
    """The search of one trial; `candidate` is the next point to evaluate.

    Attributes:
        ahead: values of the next candidates that are known already, that of `candidate` first.
    """

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
        self._told = 0
        self.ahead: list[float] = []

    @property
    def candidate(self) -> np.ndarray:
        return self._asked[len(self._values)]

    def candidates(self, budget: int) -> list[np.ndarray]:
        """The rest of this generation, from the current candidate on, as far as a budget of evaluations goes."""
        return self._asked[len(self._values) :][: budget - self._told]

    def tell(self, value: float) -> None:
        """Record the value of the candidate; the last value of a generation starts the next one."""
        self._values.append(value)
        self._told += 1
        del self.ahead[:1]
        if len(self._values) == len(self._asked):
            self._strategy.tell(self._asked, self._values)
            self._asked, self._values = self._strategy.ask(), []
