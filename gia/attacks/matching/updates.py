"""Update rules: how a search moves. Each is torch's own optimizer, told apart by what it is fed, or noise on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Point(NamedTuple):
    """Objective (R,) at the variables, and its gradient with respect to each of them.

    Attributes:
        data: the matching term of the objective (R,), without priors; None where the objective has no priors.
    """

    values: Tensor
    gradients: Sequence[Tensor]
    data: Tensor | None = None


#: (variables, each (R, ...); trials) -> the objective and its gradients there.
Evaluate = Callable[[Sequence[Tensor], slice], Point]
#: One step with a factor on the step size; moves the variables in place.
Step = Callable[[Evaluate, float], None]


@dataclass(frozen=True)
class Resumable:
    """A step whose state can be stored, as a checkpoint of its search needs it (`gia.attacks.checkpointing`).

    Args:
        move: the step.
        state_dict: its state between two steps: tensors and plain values in dicts and lists.
        load_state_dict: puts such a state into the step of a search from the same start, with the generators as they
            were there. The variables hold the stored values already, and the search puts the generators of the attack
            and those in an attribute `generators` of the rule where they were. Raises ValueError where it cannot.
    """

    move: Step
    state_dict: Callable[[], dict[str, Any]]
    load_state_dict: Callable[[dict[str, Any]], object]

    def __call__(self, evaluate: Evaluate, factor: float) -> None:
        self.move(evaluate, factor)


class UpdateRule(Protocol):
    """The search variables of some trials -> a step function that holds the rule's state.

    A step's first evaluation of a trial is at its variables as they are. `trials` says which trials of the search the
    variables belong to; the step function counts them from 0. A search has checkpoints if its step is `Resumable`.
    """

    def __call__(self, variables: Sequence[Tensor], trials: slice = ..., /) -> Step: ...


@dataclass(frozen=True)
class Adam:
    """Adam on the gradient or, if `signed`, on its sign (Geiping et al., 2020, Sec. 4). Trials never mix: Adam is
    elementwise."""

    lr: float
    signed: bool

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Step:
        optimizer = torch.optim.Adam(variables, lr=self.lr)

        def step(evaluate: Evaluate, factor: float) -> None:
            gradients = evaluate(variables, slice(None)).gradients
            for variable, gradient in zip(variables, gradients, strict=True):
                # Contiguous, as the variable is: an optimizer that reads raw memory would move other pixels silently.
                variable.grad = (gradient.sign() if self.signed else gradient).contiguous()
            for group in optimizer.param_groups:
                group["lr"] = self.lr * factor
            optimizer.step()

        return Resumable(step, optimizer.state_dict, optimizer.load_state_dict)


@dataclass(frozen=True)
class Langevin:
    """A rule, and noise after each of its steps (Yin et al., 2021, the final update): x += step size * noise * N(0, 1).

    Args:
        rule: moves first.
        deviation: standard deviation of the noise where the schedule's factor is 1; it shrinks with the step size.
        generators: one per trial.
    """

    rule: UpdateRule
    deviation: float
    generators: Sequence[torch.Generator]

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Step:
        move, generators = self.rule(variables, trials), self.generators[trials]

        def step(evaluate: Evaluate, factor: float) -> None:
            move(evaluate, factor)
            for variable in variables:
                # In float32 where the generator lives, then moved: the same noise on every device and in every dtype.
                drawn = [
                    torch.randn(variable.shape[1:], generator=g, device=g.device, dtype=torch.float32)
                    for g in generators
                ]
                variable.add_(torch.stack(drawn).to(variable), alpha=factor * self.deviation)

        if not isinstance(move, Resumable):
            return step
        return Resumable(step, move.state_dict, move.load_state_dict)


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS without line search, one per trial (Zhu et al., 2019, Sec. 4: lr 1, history 100, 20 inner steps)."""

    lr: float = 1.0
    history: int = 100
    inner_steps: int = 20

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Step:
        each = [slice(trial, trial + 1) for trial in range(len(variables[0]))]
        parts = [[variable[trial] for variable in variables] for trial in each]  # views: moved in place
        optimizers = [
            torch.optim.LBFGS(part, lr=self.lr, history_size=self.history, max_iter=self.inner_steps) for part in parts
        ]

        def step(evaluate: Evaluate, factor: float) -> None:
            for trial, part, optimizer in zip(each, parts, optimizers, strict=True):

                def closure(trial: slice = trial, part: list[Tensor] = part) -> float:
                    point = evaluate(part, trial)
                    for variable, gradient in zip(part, point.gradients, strict=True):
                        variable.grad = gradient.contiguous()
                    return float(point.values)

                for group in optimizer.param_groups:
                    group["lr"] = self.lr * factor
                optimizer.step(closure)  # type: ignore[no-untyped-call]

        def state() -> dict[str, Any]:
            return {"trials": [optimizer.state_dict() for optimizer in optimizers]}

        def load(stored: dict[str, Any]) -> None:
            for optimizer, its_state in zip(optimizers, stored["trials"], strict=True):
                optimizer.load_state_dict(its_state)

        return Resumable(step, state, load)
