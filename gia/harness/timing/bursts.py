"""What is run in which order to compare two costs: turns A B B A, each between two looks at a yardstick.

A yardstick is work of constant cost, whose time shows the speed of the machine. The order is a generator that asks for
bursts of calls and is sent their seconds, so that the same order times callables, searches and other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Literal, NamedTuple

MINIMUM_TURNS = 9
TURNS = 13  # the bootstrap interval of a median of 9 covers 83 %, of 13 the 90 % that it claims
MOST = 3  # times the number of turns asked for, after which an unsteady machine is given up
STEADY = 0.10  # variation of the yardstick above which nothing is decided

Work = Callable[[], object]
Clock = Callable[[], float]
#: A search that calls its argument before every step and is ended by the exception that the argument raises. What comes
#: before its first step is set-up and is not timed.
Steps = Callable[[Callable[[], None]], object]
#: Runs a number of calls in sequence and returns their seconds.
Burst = Callable[[int], float]
Task = Literal["a", "b", "yardstick"]


class Turns(NamedTuple):
    """What was measured.

    Attributes:
        costs: seconds of one call of a and of b for each turn that counts; for all turns if not conclusive.
        dropped: number of other turns.
        state: (slowest - fastest) / fastest time of the yardstick next to the turns in `costs`.
        conclusive: whether as many turns count as were asked for.
    """

    costs: Sequence[tuple[float, float]]
    dropped: int
    state: float
    conclusive: bool


#: Asks for a number of calls of a task, is sent their seconds, and returns what it measured.
Schedule = Generator[tuple[Task, int], float, Turns]


def schedule(turns: int, warmup: int, burst_seconds: float) -> Schedule:
    """The turns A B B A, with two yardsticks before the first and after each; see `gia.harness.timing.ratio.ratio`."""
    if turns < MINIMUM_TURNS:
        raise ValueError(f"turns: expected at least {MINIMUM_TURNS}, got {turns}")
    for _ in range(warmup):
        yield "a", 1
        yield "b", 1
        yield "yardstick", 1
    a = yield from _calls("a", burst_seconds)
    b = yield from _calls("b", burst_seconds)
    costs: list[tuple[float, float]] = []
    states = [(yield from _state())]
    while len(steady := _steady(states)) < turns and len(costs) < MOST * turns:
        costs.append((yield from _turn(a, b)))
        states.append((yield from _state()))
    conclusive = len(steady) >= turns
    chosen = steady if conclusive else range(len(costs))
    adjacent = [state for index in chosen for state in states[index : index + 2]]
    return Turns(
        costs=[costs[index] for index in chosen],
        dropped=len(costs) - len(chosen),
        state=max(adjacent) / min(adjacent) - 1,
        conclusive=conclusive,
    )


def follow(schedule: Schedule, bursts: Mapping[str, Burst]) -> Turns:
    """Run what a schedule asks for until it ends."""
    task, calls = next(schedule)
    while True:
        try:
            task, calls = schedule.send(bursts[task](calls))
        except StopIteration as end:
            turns: Turns = end.value
            return turns


class SearchTimed(Exception):
    """Ends a search whose turns are complete."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns


class StepTimer:
    """Follows a schedule from inside the search that is timed as a: other tasks run between two of its steps."""

    def __init__(self, schedule: Schedule, bursts: Mapping[str, Burst], clock: Clock) -> None:
        self._schedule, self._bursts, self._clock = schedule, bursts, clock
        self._task, self._calls = next(schedule)
        self._remaining, self._start = 0, 0.0

    def before_step(self) -> None:
        """Call it before each step. Raises `SearchTimed` when the schedule ends."""
        if self._remaining:
            self._remaining -= 1
            if self._remaining:
                return
            self._answer(self._clock() - self._start)
        while self._task != "a":
            self._answer(self._bursts[self._task](self._calls))
        self._remaining, self._start = self._calls, self._clock()

    def _answer(self, seconds: float) -> None:
        try:
            self._task, self._calls = self._schedule.send(seconds)
        except StopIteration as end:
            raise SearchTimed(end.value) from None


def _calls(task: Task, seconds: float) -> Generator[tuple[Task, int], float, int]:
    """How many calls take at least `seconds`, plus a tenth."""
    calls = 1
    while (took := (yield task, calls)) < seconds:
        calls = max(calls + 1, math.ceil(calls * min(10.0, 1.1 * seconds / took))) if took > 0 else calls * 10
    return calls


def _turn(a: int, b: int) -> Generator[tuple[Task, int], float, tuple[float, float]]:
    """Seconds of one call of a and of b, from the bursts A B B A of `a` and `b` calls."""
    first = yield "a", a
    second = yield "b", b
    third = yield "b", b
    fourth = yield "a", a
    return (first + fourth) / (2 * a), (second + third) / (2 * b)


def _state() -> Generator[tuple[Task, int], float, float]:
    """The faster of two, since one interruption does not change the machine's speed."""
    first = yield "yardstick", 1
    second = yield "yardstick", 1
    return min(first, second)


def _steady(states: Sequence[float]) -> list[int]:
    """The turns that count; turn i lies between the states i and i + 1."""
    limit = min(states) * (1 + STEADY)
    return [index for index in range(len(states) - 1) if max(states[index : index + 2]) <= limit]
