"""What is run in which order to compare two costs: rounds A B B A beside a probe of the machine.

A measurement is a generator that asks for calls of a side and is sent their seconds. So the same rounds time callables,
a search that runs itself, and other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Literal, NamedTuple

MINIMUM_ROUNDS = 9
ROUNDS = 13  # the bootstrap interval of a median of 9 covers 83 %, of 13 the 90 % that it claims
MOST = 3  # times the rounds asked for, before an unsteady machine is given up
STEADY = 0.10  # variation of the machine's state above which nothing is decided

Work = Callable[[], object]
Clock = Callable[[], float]
#: Work that runs itself, such as a search with a callback: it calls its argument before each step, which ends it by an
#: exception. What comes before the first step is set-up and is not timed.
Steps = Callable[[Callable[[], None]], object]
#: Run so many calls and return their seconds.
Block = Callable[[int], float]
Side = Literal["a", "b", "probe"]


class Rounds(NamedTuple):
    """What was measured.

    Attributes:
        costs: seconds of one call of a and of b, for each round that counts; for all of them if not conclusive.
        dropped: how many more there were.
        state: (slowest - fastest) / fastest time of the probe beside them.
        conclusive: whether there are as many as were asked for.
    """

    costs: Sequence[tuple[float, float]]
    dropped: int
    state: float
    conclusive: bool


#: Asks for so many calls of a side, is sent their seconds, returns what it measured.
Measuring = Generator[tuple[Side, int], float, Rounds]


def measuring(rounds: int, warmup: int, block_seconds: float) -> Measuring:
    """The rounds A B B A, with two probes before the first and after each; see `gia.harness.timing.ratio`."""
    if rounds < MINIMUM_ROUNDS:
        raise ValueError(f"rounds: expected at least {MINIMUM_ROUNDS}, got {rounds}")
    for _ in range(warmup):
        yield "a", 1
        yield "b", 1
        yield "probe", 1
    a = yield from _calls("a", block_seconds)
    b = yield from _calls("b", block_seconds)
    costs: list[tuple[float, float]] = []
    states = [(yield from _state())]
    while len(counting := _steady(states)) < rounds and len(costs) < MOST * rounds:
        costs.append((yield from _round(a, b)))
        states.append((yield from _state()))
    conclusive = len(counting) >= rounds
    chosen = counting if conclusive else range(len(costs))
    beside = [state for index in chosen for state in states[index : index + 2]]
    return Rounds(
        costs=[costs[index] for index in chosen],
        dropped=len(costs) - len(chosen),
        state=max(beside) / min(beside) - 1,
        conclusive=conclusive,
    )


def _calls(side: Side, seconds: float) -> Generator[tuple[Side, int], float, int]:
    """How many calls take at least `seconds`, with a tenth to spare."""
    calls = 1
    while (took := (yield side, calls)) < seconds:
        calls = max(calls + 1, math.ceil(calls * min(10.0, 1.1 * seconds / took))) if took > 0 else calls * 10
    return calls


def _round(a: int, b: int) -> Generator[tuple[Side, int], float, tuple[float, float]]:
    """Seconds of one call of a and of b, from the blocks A B B A."""
    first = yield "a", a
    second = yield "b", b
    third = yield "b", b
    fourth = yield "a", a
    return (first + fourth) / (2 * a), (second + third) / (2 * b)


def _state() -> Generator[tuple[Side, int], float, float]:
    """The faster of two, since one interruption is not a change of the machine."""
    first = yield "probe", 1
    second = yield "probe", 1
    return min(first, second)


def _steady(states: Sequence[float]) -> list[int]:
    """The rounds that count; round i lies between the states i and i + 1."""
    limit = min(states) * (1 + STEADY)
    return [index for index in range(len(states) - 1) if max(states[index : index + 2]) <= limit]


class Measured(Exception):
    """Ends a search when the rounds are done."""

    def __init__(self, found: Rounds) -> None:
        self.found = found


class Held:
    """Answers a measurement from inside the search that is timed: the other sides run between two of its steps."""

    def __init__(self, measuring: Measuring, blocks: Mapping[str, Block], clock: Clock) -> None:
        self._measuring, self._blocks, self._clock = measuring, blocks, clock
        self._side, self._calls = next(measuring)
        self._left, self._start = 0, 0.0

    def between(self) -> None:
        """To be called before each step. Raises `Measured` when the rounds are done."""
        if self._left:
            self._left -= 1
            if self._left:
                return
            self._answer(self._clock() - self._start)
        while self._side != "a":
            self._answer(self._blocks[self._side](self._calls))
        self._left, self._start = self._calls, self._clock()

    def _answer(self, seconds: float) -> None:
        try:
            self._side, self._calls = self._measuring.send(seconds)
        except StopIteration as done:
            raise Measured(done.value) from None


def follow(measuring: Measuring, blocks: Mapping[str, Block]) -> Rounds:
    """Answer a measurement to its end."""
    side, calls = next(measuring)
    while True:
        try:
            side, calls = measuring.send(blocks[side](calls))
        except StopIteration as done:
            found: Rounds = done.value
            return found
