"""The search loop: every iterative attack minimizes its objective here, over all of its trials at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gia.attacks.identity import searching
from gia.attacks.matching.convergence import Trials
from gia.attacks.matching.parts import Parts
from gia.attacks.matching.updates import Evaluate, Point, Resumable, UpdateRule
from gia.attacks.reconstruction import NothingFound
from gia.attacks.schedules import Schedule, constant, own_schedule
from gia.numerics.checkpoints import Checkpoint

#: Steps between checks of the objective on an accelerator, where each check waits for the device.
_CHECK_EVERY = 100

#: Steps before the first check of convergence. The best of a search with steps of constant size falls by chance: over
#: fewer than 20 steps, the last fifth, it often stands still.
LEAST = 100


class Interrupted(UserWarning):
    """A search was interrupted from the keyboard and returned its best point so far."""


class Progress(NamedTuple):
    """What a callback gets before each step.

    Attributes:
        step: number of the next step, from 0.
        steps: number of steps.
        best: (R,) least objective so far; infinite before the first step.
        variables: the search variables as they are, each (R, ...).
    """

    step: int
    steps: int
    best: Tensor
    variables: Sequence[Tensor]


class Found(NamedTuple):
    """The best point of each trial by its own objective: values (R,) and variables (R, ...).

    Attributes:
        converged: for each trial, whether it ended before the cap; None for a fixed number of steps.
        lost: for each trial, whether its objective was not finite at some point. Its value is then infinite.
    """

    values: Tensor
    variables: list[Tensor]
    converged: list[bool] | None = None
    lost: list[bool] | None = None


class Stateful(Protocol):
    """What an evaluation counts and chooses on the way, such as `Matching`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...

    def halve(self) -> bool:
        """Hold about half as much memory at once from now on; False where that cannot be."""
        ...


def minimize(
    evaluate: Evaluate,
    start: Sequence[Tensor],
    *,
    steps: int,
    update: UpdateRule,
    schedule: Schedule = constant,
    converged: float | None = None,
    least: int = LEAST,
    together: int = 1,
    constraint: Callable[[Sequence[Tensor]], None] | None = None,
    callback: Callable[[Progress], None] | None = None,
    problem: Stateful | None = None,
) -> Found:
    """Search from `start` for `steps` steps and return, per trial, the best point that was evaluated.

    With `converged` each trial has its own schedule, and `steps` is the most that it may take. The step size is
    constant until the trial's best data term fell by less than this share over the last fifth of its steps, or is at
    rounding: 1.4e-14 of its first value in float32, 4.9e-32 in float64, the square of the dtype's eps. This is checked
    every 5 steps from step `least` on. Then the step size decays over a further third of these steps in three stages,
    x0.1, x0.01 and x0.001, and the trial is finished and not evaluated any more. The constant phase ends after 3/4 of
    `steps` at the latest, so that the decay fits. A trial's result does not depend on the other trials.

    In an attack under `gia.attacks.checkpointing` the search goes on from its checkpoint, if there is one, and stores
    its state from time to time. The callback then begins at the stored step. Where memory does not suffice for all
    trials at once, they are evaluated in parts (`gia.attacks.matching.parts`).

    Args:
        evaluate: objective and gradients of the chosen trials. The last point is evaluated too, so zero steps cost one
            evaluation and return the start.
        start: search variables, each (R, ...); not changed.
        update: the rule that moves them.
        schedule: (step, steps) -> factor on the step size.
        converged: a share such as 0.01; None takes all steps, by the schedule.
        least: number of steps before the first check of `converged`.
        together: neighbours among the trials that depend on each other. They have one schedule, which decays when all
            of them have converged, and are evaluated together.
        constraint: applied in place after each step, such as the clamp to a box.
        callback: called before each step.
        problem: what `evaluate` asks, whose counts belong to a checkpoint too, and which may hold less memory at once.

    Returns the best points. Raises ValueError for negative `steps`, a share that is not between 0 and 1, and a schedule
    beside `converged`. A trial whose objective is not finite is lost: the others go on, and `NothingFound` is raised
    once all of them are lost. A keyboard interrupt ends the search with the warning `Interrupted`; the best points so
    far are then returned.

    >>> import torch
    >>> from gia.attacks.matching import Adam, Point, minimize
    >>> def evaluate(variables, trials):
    ...     return Point(variables[0].square().sum(1), [2 * variables[0]])
    >>> best = minimize(evaluate, [torch.ones(1, 3)], steps=50, update=Adam(0.1, signed=False))
    >>> bool(best.values < 1e-2)
    True
    >>> minimize(evaluate, [torch.ones(1, 3)], steps=900, update=Adam(0.1, signed=False), converged=0.01).converged
    [True]
    """
    if steps < 0:
        raise ValueError(f"steps: expected at least 0, got {steps}")
    own_schedule(schedule, constant, converged)

    def begin() -> _State:
        variables = [variable.detach().clone(memory_format=torch.contiguous_format) for variable in start]
        search = (
            _Fixed(update, variables, schedule, steps)
            if converged is None
            else Trials(update, variables, share=converged, steps=steps, least=least, together=together)
        )
        parts = Parts(evaluate, together=together, halve=None if problem is None else problem.halve)
        return _State(variables, _Best(variables), search, parts, problem, generators)

    now = searching()
    checkpoint = None if now is None else now.checkpoint(start, steps)
    generators = [] if now is None else _distinct([*now.generators, *getattr(update, "generators", ())])
    state, done, finished = _resumed(begin, checkpoint, generators)
    variables, best, search = state.variables, state.best, state.search

    def scored(at: Sequence[Tensor], trials: slice) -> Point:
        point = state.parts(at, trials)
        best.offer(point.values, at, trials)
        return point

    try:
        while not finished and search.go_on(done):
            if callback is not None:
                callback(Progress(done, steps, best.values.clone(), variables))
            search.step(scored)
            if constraint is not None:
                constraint(variables)
            if best.cheap_to_check or done % _CHECK_EVERY == 0:
                best.check(done)
            done += 1
            if checkpoint is not None and checkpoint.due():
                state.store(checkpoint, done)
        if not finished:
            search.finish(scored)
            if checkpoint is not None and checkpoint.stored:
                state.store(checkpoint, done, finished=True)
    except KeyboardInterrupt:
        if checkpoint is not None:
            checkpoint.keep()
        warnings.warn(f"interrupted at step {done} of {steps}: the best so far is returned", Interrupted, stacklevel=2)
    best.check(done)
    return best.found(search.converged)


class _State(NamedTuple):
    """All that changes during a search."""

    variables: list[Tensor]
    best: _Best
    search: _Fixed | Trials
    parts: Parts
    problem: Stateful | None
    generators: Sequence[torch.Generator]

    def store(self, checkpoint: Checkpoint, done: int, *, finished: bool = False) -> None:
        search = self.search.state_dict()
        if search is None:
            return
        checkpoint.save(
            {
                "done": done,
                "finished": finished,
                "variables": self.variables,
                "best": self.best.tensors(),
                "search": search,
                "at_once": self.parts.at_once,
                "problem": None if self.problem is None else self.problem.state_dict(),
                "generators": [generator.get_state() for generator in self.generators],
            }
        )

    def load(self, stored: dict[str, Any]) -> tuple[int, bool]:
        own, others = [*self.variables, *self.best.tensors()], [*stored["variables"], *stored["best"]]
        for tensor, other in zip(own, others, strict=True):
            tensor.copy_(other)
        self.search.load_state_dict(stored["search"])
        self.parts.at_once = stored["at_once"]
        if self.problem is not None:
            self.problem.load_state_dict(stored["problem"])
        _set(self.generators, stored["generators"])
        return stored["done"], stored["finished"]


def _resumed(
    begin: Callable[[], _State], checkpoint: Checkpoint | None, generators: Sequence[torch.Generator]
) -> tuple[_State, int, bool]:
    """The search at its start or, where it has a checkpoint, there; the steps done, and whether it has ended."""
    stored = None if checkpoint is None else checkpoint.load()
    if checkpoint is None or stored is None:
        return begin(), 0, False
    before = [generator.get_state() for generator in generators]
    state = begin()
    try:
        return state, *state.load(stored)
    except (ValueError, KeyError, RuntimeError) as error:
        checkpoint.refuse(str(error))
    _set(generators, before)
    return begin(), 0, False


def _distinct(generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Each generator once, since trials may share one."""
    return list({id(generator): generator for generator in generators}.values())


def _set(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


class _Fixed:
    """All trials for a fixed number of steps by one schedule; `Trials` is the search that ends when it converged."""

    converged = None

    def __init__(self, update: UpdateRule, variables: Sequence[Tensor], schedule: Schedule, steps: int) -> None:
        self._variables, self._schedule, self._steps = variables, schedule, steps
        self._step, self._done = update(variables), 0

    def go_on(self, done: int) -> bool:
        self._done = done
        return done < self._steps

    def step(self, evaluate: Evaluate) -> None:
        self._step(evaluate, self._schedule(self._done, self._steps))

    def finish(self, evaluate: Evaluate) -> None:
        evaluate(self._variables, slice(None))

    def state_dict(self) -> dict[str, Any] | None:
        return self._step.state_dict() if isinstance(self._step, Resumable) else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self._step, Resumable):
            self._step.load_state_dict(state)


class _Best:
    """The best point of each trial so far. Only `check` waits for an accelerator."""

    def __init__(self, variables: Sequence[Tensor]) -> None:
        self.variables = [variable.clone() for variable in variables]
        trials = len(variables[0])
        self.values = variables[0].new_full((trials,), torch.inf)
        self._broken = torch.zeros(trials, dtype=torch.bool, device=variables[0].device)
        self.cheap_to_check = variables[0].device.type == "cpu"

    def tensors(self) -> list[Tensor]:
        return [self.values, self._broken, *self.variables]

    def offer(self, values: Tensor, variables: Sequence[Tensor], trials: slice) -> None:
        self._broken[trials] |= ~values.isfinite()
        own = self.values[trials]
        better = values < own
        own.copy_(torch.where(better, values, own))
        for best, variable in zip(self.variables, variables, strict=True):
            mask, own = better.view(-1, *[1] * (variable.dim() - 1)), best[trials]
            own.copy_(torch.where(mask, variable, own))

    def check(self, step: int) -> None:
        if bool(self._broken.all()):
            trials = f"all {len(self._broken)} trials" if len(self._broken) > 1 else "its only trial"
            raise NothingFound(
                f"objective: expected a finite value, got none that is finite in {trials} by step {step}; a smaller "
                "step size (lr) or another start may help"
            )

    def found(self, converged: list[bool] | None) -> Found:
        values = torch.where(self._broken, torch.inf, self.values)
        return Found(values, self.variables, converged, self._broken.tolist())
