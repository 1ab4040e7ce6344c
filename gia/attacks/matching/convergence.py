"""Searches that end when they have converged: each trial's own schedule, and the evaluation of those still running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gia.attacks.matching.updates import Evaluate, Point, Resumable, Step, UpdateRule, Walk, Walking, runs, walk

#: Steps between two checks. On an accelerator each check waits for the device.
_CHECK_EVERY = 5


class Trials:
    """The trials of a search under `minimize(converged=...)`, each with its own schedule.

    The update rule is made once per trial, so the step sizes and bits of a trial do not depend on the others. All
    trials that still run are evaluated together.

    Args:
        update: the rule.
        variables: the search variables, each (R, ...), moved in place.
        share: a trial has converged when its best data term fell by less than this share over the last fifth of its
            steps, or is at rounding: eps squared of the dtype, relative to the first data term.
        steps: the cap.
        least: steps before the first check.
        together: neighbours that share one schedule, which ends when all of them have converged.

    Raises ValueError for a share that is not between 0 and 1, and for `least` below 5.
    """

    def __init__(
        self,
        update: UpdateRule,
        variables: Sequence[Tensor],
        *,
        share: float,
        steps: int,
        least: int,
        together: int,
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"converged: expected a share between 0 and 1, or None, got {share}")
        if least < _CHECK_EVERY:
            raise ValueError(f"least: expected at least {_CHECK_EVERY}, got {least}")
        self._variables, self._share, self._least = variables, share, least
        self._latest = steps - steps // 4  # the decay takes a third of the steps before it
        self._steps = steps
        count = len(variables[0])
        self._groups = [_Group(slice(first, first + together)) for first in range(0, count, together)]
        for group in self._groups:
            group.move = update([variable[group.trials] for variable in variables], group.trials)
        self._best = variables[0].new_full((count,), torch.inf)
        self._history: list[Tensor] = []  # the best data terms after each step's evaluation
        self._rounding = torch.finfo(variables[0].dtype).eps ** 2

    @property
    def converged(self) -> list[bool]:
        """For each trial, whether its constant phase ended by the rule and not by the cap, and its decay is done."""
        return [group.converged and group.finished for group in self._groups for _ in range(group.size)]

    def go_on(self, done: int) -> bool:
        """Set each schedule for the step after `done` steps. False where no trial moves any more."""
        for group in self._groups:
            group.plan(done)
        waiting = [group for group in self._groups if group.turn is None]
        if waiting and done >= self._least and (done % _CHECK_EVERY == 0 or done == self._latest):
            first, before, now = (self._history[place] for place in (0, -1 - done // 5, -1))
            still = (before - now < self._share * before) | (now <= self._rounding * first)
            for group, ended in zip(self._groups, _all(still, self._groups), strict=True):
                if ended and group.turn is None:
                    group.decay(done, self._steps, converged=True)
        for group in waiting:
            if group.turn is None and done >= self._latest:
                group.decay(done, self._steps, converged=False)
        return any(group.factor is not None for group in self._groups)

    def step(self, evaluate: Evaluate) -> None:
        """Evaluate the trials that run, and move each by its own step size."""
        if len(self._groups) > 1 and all(isinstance(group.move, Walking) for group in self._groups):
            self._walk(evaluate)
        else:
            for group, point in self.evaluate(evaluate):
                if group.factor is not None:
                    group.move(_served(point, self._noting(evaluate), group.trials), group.factor)
        for group in self._groups:
            group.finished |= group.factor is None
        self._history.append(self._best.clone())

    def evaluate(self, evaluate: Evaluate) -> list[tuple[_Group, Point]]:
        """The points of the trials that run; neighbours are evaluated in one call."""
        noting, points = self._noting(evaluate), []
        running = {group.trials.start: group for group in self._groups if not group.finished}
        for trials in runs([trial for group in running.values() for trial in group.numbers]):
            point = noting([variable[trials] for variable in self._variables], trials)
            own = [running[first] for first in range(trials.start, trials.stop) if first in running]
            points += [
                (group, point.of(slice(group.trials.start - trials.start, group.trials.stop - trials.start)))
                for group in own
            ]
        return points

    def _walk(self, evaluate: Evaluate) -> None:
        """Let all trials that run walk at once; those at their last point only ask for its value."""
        walks: dict[int, Walk] = {}
        for group in self._groups:
            if not group.finished:
                own = [_last() for _ in range(group.size)] if group.factor is None else group.walks(group.factor)
                walks |= zip(group.numbers, own, strict=True)
        walk(walks, self._variables, self._noting(evaluate))

    def finish(self, evaluate: Evaluate) -> None:
        """Evaluate the last points."""
        for group, _ in self.evaluate(evaluate):
            group.finished = group.factor is None

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint needs of this search, None where its rule cannot be stored."""
        groups = [group.state_dict() for group in self._groups]
        if None in groups:
            return None
        history = torch.stack(self._history) if self._history else self._best[None][:0]
        return {"best": self._best, "history": history, "groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self._best.copy_(state["best"])
        self._history = list(state["history"].to(self._best))
        for group, its_state in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(its_state)

    def _noting(self, evaluate: Evaluate) -> Evaluate:
        def noted(variables: Sequence[Tensor], trials: slice) -> Point:
            point = evaluate(variables, trials)
            own = self._best[trials]
            own.copy_(torch.minimum(own, point.values if point.data is None else point.data))
            return point

        return noted


class _Group:
    """Trials with one schedule.

    Attributes:
        move: the update rule's step on their variables.
        factor: on the step size, None where they do not move any more.
        turn: number of steps of the constant phase, None before its end is known.
        converged: whether the rule ended that phase.
        finished: whether the last point is evaluated.
    """

    move: Step
    _SCHEDULE = ("factor", "turn", "converged", "finished", "_decay")

    def __init__(self, trials: slice) -> None:
        self.trials, self.size = trials, trials.stop - trials.start
        self.numbers = range(trials.start, trials.stop)
        self.factor: float | None = 1.0
        self.turn: int | None = None
        self.converged = self.finished = False
        self._decay = 0

    def walks(self, factor: float) -> list[Walk]:
        """The next step of its trials, for a rule whose trials walk."""
        assert isinstance(self.move, Walking)
        return self.move.walks(factor)

    def decay(self, done: int, cap: int, *, converged: bool) -> None:
        """Start the decay now, for a third of the steps so far."""
        self.turn, self.converged = done, converged
        self._decay = min(-(-done // 3), cap - done)
        self.plan(done)

    def plan(self, done: int) -> None:
        """Set the factor of the step after `done` steps."""
        if self.turn is not None:
            since = done - self.turn
            self.factor = float(f"1e-{1 + 3 * since // self._decay}") if since < self._decay else None

    def state_dict(self) -> dict[str, Any] | None:
        if not isinstance(self.move, Resumable):
            return None
        return {"schedule": [getattr(self, name) for name in self._SCHEDULE], "move": self.move.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert isinstance(self.move, Resumable)
        for name, value in zip(self._SCHEDULE, state["schedule"], strict=True):
            setattr(self, name, value)
        self.move.load_state_dict(state["move"])


def _all(trials: Tensor, groups: Sequence[_Group]) -> list[bool]:
    """Whether a condition holds for all trials of each group."""
    holds: list[bool] = trials.view(len(groups), -1).all(1).tolist()
    return holds


def _last() -> Walk:
    yield


def _served(point: Point, evaluate: Evaluate, group: slice) -> Evaluate:
    """The evaluation of a group's trials for its rule. The first of each is known, since a rule starts where it is."""
    unserved = set(range(group.stop - group.start))

    def served(variables: Sequence[Tensor], trials: slice) -> Point:
        chosen = range(group.stop - group.start)[trials]
        if unserved.issuperset(chosen):
            unserved.difference_update(chosen)
            return point.of(trials)
        return evaluate(variables, slice(group.start + chosen.start, group.start + chosen.stop))

    return served
