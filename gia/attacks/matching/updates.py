"""Update rules: how a search moves. Each is torch's own optimizer, told apart by what it is fed, or noise on top."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
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

    def of(self, trials: slice) -> Point:
        """The part of some trials."""
        data = None if self.data is None else self.data[trials]
        return Point(self.values[trials], [gradient[trials] for gradient in self.gradients], data)


#: (variables, each (R, ...); trials) -> the objective and its gradients there.
Evaluate = Callable[[Sequence[Tensor], slice], Point]
#: One step with a factor on the step size; moves the variables in place.
Step = Callable[[Evaluate, float], None]
#: A step of one trial that asks for several points: at each `yield` it gets the point at its variables as they are.
Walk = Generator[None, Point, None]


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


@dataclass(frozen=True)
class Walking(Resumable):
    """A step in which each trial asks for several points on its own way, so that trials can be evaluated together.

    Args:
        walks: factor on the step size -> one walk per trial.
    """

    walks: Callable[[float], list[Walk]]


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

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Walking:
        parts = [[variable[trial : trial + 1] for variable in variables] for trial in range(len(variables[0]))]
        optimizers = [
            torch.optim.LBFGS(part, lr=self.lr, history_size=self.history, max_iter=self.inner_steps) for part in parts
        ]

        def walks(factor: float) -> list[Walk]:
            return [self._walk(*own, factor) for own in zip(parts, optimizers, strict=True)]

        def state() -> dict[str, Any]:
            return {"trials": [optimizer.state_dict() for optimizer in optimizers]}

        def load(stored: dict[str, Any]) -> None:
            for optimizer, its_state in zip(optimizers, stored["trials"], strict=True):
                optimizer.load_state_dict(its_state)

        def step(evaluate: Evaluate, factor: float) -> None:
            if len(parts) == 1:  # torch's own loop, which costs less than one call for each inner step
                self._alone(parts[0], optimizers[0], evaluate, factor)
            else:
                walk(dict(enumerate(walks(factor))), variables, evaluate)

        return Walking(step, state, load, walks)

    def _alone(
        self, variables: Sequence[Tensor], optimizer: torch.optim.LBFGS, evaluate: Evaluate, factor: float
    ) -> None:
        """The inner steps of a single trial."""

        def closure() -> float:
            point = evaluate(variables, slice(0, 1))
            _lead(variables, point.gradients)
            return float(point.values)

        optimizer.param_groups[0].update(lr=self.lr * factor, max_iter=self.inner_steps)
        optimizer.step(closure)  # type: ignore[no-untyped-call]

    def _walk(self, variables: Sequence[Tensor], optimizer: torch.optim.LBFGS, factor: float) -> Walk:
        """The inner steps of one of several trials, which all can be evaluated between two of them.

        They end where those of `torch.optim.LBFGS(max_iter=inner_steps)` do.
        """
        optimizer.param_groups[0].update(lr=self.lr * factor, max_iter=1)
        state: dict[str, Any] = optimizer.state[variables[0]]
        tolerance, most = (optimizer.param_groups[0][name] for name in ("tolerance_change", "max_eval"))
        for inner in range(self.inner_steps):
            point = yield
            value, before = float(point.values), state.get("n_iter", 0)
            if inner > 0 and (
                inner + 1 >= most
                or state["d"].mul(state["t"]).abs().max() <= tolerance
                or abs(value - state["prev_loss"]) < tolerance
            ):
                return
            _lead(variables, point.gradients)
            optimizer.step(lambda value=value: value)  # type: ignore[no-untyped-call]
            # It has not moved where the gradient is zero, or its direction does not lead down.
            if state["n_iter"] == before or state["prev_flat_grad"].dot(state["d"]) > -tolerance:
                return


def walk(walks: Mapping[int, Walk], variables: Sequence[Tensor], evaluate: Evaluate) -> None:
    """Let trials walk at once: all that still ask are evaluated together, and each goes its own way.

    Args:
        walks: by the number of their trial.
        variables: of all trials, moved in place.
        evaluate: of the trials.
    """
    asking = {trial: each for trial, each in walks.items() if _asks(each, None)}
    while asking:
        for trials in runs(sorted(asking)):
            point = evaluate([variable[trials] for variable in variables], trials)
            for place, trial in enumerate(range(trials.start, trials.stop)):
                if not _asks(asking[trial], point.of(slice(place, place + 1))):
                    del asking[trial]


def runs(trials: Sequence[int]) -> list[slice]:
    """Numbers in ascending order as runs of neighbours.

    >>> runs([0, 1, 4])
    [slice(0, 2, None), slice(4, 5, None)]
    """
    found: list[slice] = []
    for trial in trials:
        if found and found[-1].stop == trial:
            found[-1] = slice(found[-1].start, trial + 1)
        else:
            found.append(slice(trial, trial + 1))
    return found


def _lead(variables: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Give the variables the gradients that torch's optimizer follows."""
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = gradient.contiguous()


def _asks(one: Walk, point: Point | None) -> bool:
    """Whether a walk that gets a point, or None at its start, asks for another one."""
    try:
        one.send(point)  # type: ignore[arg-type]  # a generator starts by None
    except StopIteration:
        return False
    return True
