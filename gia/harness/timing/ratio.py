"""Cost ratios that hold on a busy machine: two tasks timed in turn, and an interval for the ratio of their costs.

    cost = ratio(attack_step, training_step)
    benchmark.extra_info["cost"] = cost.row()
    cost.at_most(3.4)                         # TimingFailed beyond the goal and its slack

A task is a callable, a search that calls back before every step (`ratio_of_steps`), or bursts of calls in another
process (`ratio_of_bursts`); the turns and the interval are the same.

A turn during which the machine changed its speed is measured again, a limited number of times. A ratio without enough
steady turns decides nothing: `TimingInconclusive` is a `unittest.SkipTest`, which pytest reports as a skip with the
numbers as its reason.
"""

from __future__ import annotations

import gc
import time
import unittest
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch

from gia.harness.timing.bursts import (
    STEADY,
    TURNS,
    Burst,
    Clock,
    SearchTimed,
    Steps,
    StepTimer,
    Turns,
    Work,
    follow,
    schedule,
)
from gia.numerics import reproducible

COVERAGE = 0.90
RESAMPLES = 4000
WARMUP = 2  # calls of each task before anything is timed


class TimingFailed(AssertionError):
    """A cost misses its goal, or a benchmark is missing."""


class TimingInconclusive(unittest.SkipTest):
    """The machine was not steady enough to decide; never a pass."""


@dataclass(frozen=True)
class Ratio:
    """The cost of a over the cost of b.

    Attributes:
        median: of the ratios of the turns.
        low, high: bootstrap 90 % interval of the median.
        turns: number of turns A B B A that count.
        dropped: number of turns that were measured again because the machine was not steady.
        state: (slowest - fastest) / fastest time of the yardstick next to the turns that count.
        conclusive: `state` is at most 0.10.
        seconds: median time of one call of a, and of b.

    >>> cost = Ratio(2.0, 1.9, 2.1, 13, 0, 0.02, True, (0.2, 0.1))
    >>> print(cost.at_most(2.0))
    2.000 [1.900, 2.100], 13 turns, 0 dropped, machine varied 2.0%
    >>> cost.slower(by=0.1), cost.inverted().median
    (True, 0.5)
    """

    median: float
    low: float
    high: float
    turns: int
    dropped: int
    state: float
    conclusive: bool
    seconds: tuple[float, float]

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        turns = f"{self.turns} turns, {self.dropped} dropped"
        return f"{self.median:.3f} {interval}, {turns}, machine varied {self.state:.1%}"

    def row(self) -> dict[str, Any]:
        """Plain numbers for `benchmark.extra_info`."""
        return asdict(self)

    def scaled(self, factor: float) -> Ratio:
        """This ratio times a positive factor, such as the cost of one of R trials, times 1 / R."""
        median, low, high = (value * factor for value in (self.median, self.low, self.high))
        return replace(self, median=median, low=low, high=high)

    def inverted(self) -> Ratio:
        """The cost of b over the cost of a."""
        median, low, high = (1 / value for value in (self.median, self.high, self.low))
        return replace(self, median=median, low=low, high=high, seconds=self.seconds[::-1])

    def at_most(self, goal: float, *, slack: float = 0.2) -> Ratio:
        """This ratio, if its upper end is at most goal / (1 - slack); raises TimingFailed or TimingInconclusive."""
        limit = goal / (1 - slack)
        self._decisive()
        if self.high > limit:
            raise TimingFailed(f"cost ratio {self}: upper end above {limit:.3f} = goal {goal:g} / {1 - slack:g}")
        return self

    def at_least(self, goal: float, *, slack: float = 0.2) -> Ratio:
        """This ratio, if its lower end is at least goal * (1 - slack); raises TimingFailed or TimingInconclusive."""
        limit = goal * (1 - slack)
        self._decisive()
        if self.low < limit:
            raise TimingFailed(f"cost ratio {self}: lower end below {limit:.3f} = goal {goal:g} * {1 - slack:g}")
        return self

    def slower(self, *, by: float = 0.1) -> bool:
        """Whether the whole interval says that a (head) costs more than b (base) by over `by`.

        Raises TimingInconclusive.
        """
        self._decisive()
        return self.low > 1 + by

    def _decisive(self) -> None:
        if not self.conclusive:
            raise TimingInconclusive(
                f"cost ratio {self}: the machine was never steady within {STEADY:.0%} for long enough"
            )


def ratio(
    a: Work,
    b: Work,
    *,
    turns: int = TURNS,
    warmup: int = WARMUP,
    burst_seconds: float = 0.1,
    clock: Clock = time.process_time,
    yardstick: Work | None = None,
) -> Ratio:
    """The cost of `a` over the cost of `b`, paired so that drift of the machine cancels.

    Both run with one torch thread and without garbage collection. A turn consists of the bursts A B B A, in which a
    linear drift cancels, and gives one ratio. The yardstick runs before the first and after each turn. A turn counts if
    the yardsticks before and after it are within 10 % of the fastest one; other turns are measured again, up to three
    times `turns` in total. So turns are selected by the machine's state, never by their ratio. The bootstrap is seeded.

    Args:
        turns: number of turns that must count, at least 9.
        warmup: number of calls of each before anything is timed.
        burst_seconds: least duration of a burst, which gives its number of calls.
        clock: by default the processor time of this process, which other processes hardly change: with four busy
            processes on two cores the yardstick varied by 6-9 % in it, and by 47-120 % in wall time. For work on a
            device pass a clock that waits for it: `lambda: (torch.cuda.synchronize(), time.perf_counter())[1]`.
        yardstick: work of constant cost; by default a 1024 x 1024 float32 product.

    Raises:
        ValueError: for fewer than 9 turns.

    >>> now = iter(range(10_000))  # a clock by which everything takes one second
    >>> ratio(int, float, clock=lambda: float(next(now)), yardstick=int).median
    1.0
    """
    with _quiet():
        tasks = {"a": a, "b": b, "yardstick": yardstick or _product()}
        bursts = {task: _burst(work, clock) for task, work in tasks.items()}
        return _summary(follow(schedule(turns, warmup, burst_seconds), bursts))


def ratio_of_steps(
    a: Steps,
    b: Work,
    *,
    turns: int = TURNS,
    burst_seconds: float = 0.1,
    clock: Clock = time.process_time,
    yardstick: Work | None = None,
) -> Ratio:
    """`ratio` where `a` is one step of a search, which pauses before a step while `b` is timed.

    Raises RuntimeError if the search ends before the turns are complete.
    """
    with _quiet():
        bursts = {"b": _burst(b, clock), "yardstick": _burst(yardstick or _product(), clock)}
        timer = StepTimer(schedule(turns, WARMUP, burst_seconds), bursts, clock)
        try:
            a(timer.before_step)
        except SearchTimed as end:
            return _summary(end.turns)
    raise RuntimeError(f"a: expected steps for {turns} turns, got a search that ended before")


def ratio_of_bursts(
    a: Burst,
    b: Burst,
    *,
    turns: int = TURNS,
    burst_seconds: float = 0.1,
    clock: Clock = time.process_time,
    yardstick: Work | None = None,
) -> Ratio:
    """`ratio` where `a` and `b` run and time bursts of calls themselves, such as in other processes.

    `clock` is for the yardstick, which runs in this process.
    """
    with _quiet():
        bursts = {"a": a, "b": b, "yardstick": _burst(yardstick or _product(), clock)}
        return _summary(follow(schedule(turns, WARMUP, burst_seconds), bursts))


def compare_names(base: Collection[str], head: Collection[str]) -> list[str]:
    """The benchmarks that are new in `head`, if all benchmarks of `base` still exist.

    `--benchmark-compare-fail` only compares equal names, so it silently ignores a benchmark that was renamed.

    Raises:
        TimingFailed: naming the benchmarks that `head` lacks.

    >>> compare_names(["step[small]"], ["step[small]", "step[vit]"])
    ['step[vit]']
    """
    gone, new = sorted(set(base) - set(head)), sorted(set(head) - set(base))
    if gone:
        raise TimingFailed(f"head: expected the benchmarks of the base, got none named {gone}; new are {new}")
    return new


@contextmanager
def _quiet() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        with reproducible(threads=1):
            yield
    finally:
        if enabled:
            gc.enable()


def _burst(work: Work, clock: Clock) -> Burst:
    def run(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            work()
        return clock() - start

    return run


def _product() -> Work:
    matrix = torch.ones(1024, 1024)
    return lambda: matrix @ matrix


def _summary(turns: Turns) -> Ratio:
    values = np.array([a / b for a, b in turns.costs])
    low, high = _interval(values)
    return Ratio(
        median=float(np.median(values)),
        low=low,
        high=high,
        turns=len(values),
        dropped=turns.dropped,
        state=turns.state,
        conclusive=turns.conclusive,
        seconds=(median(a for a, _ in turns.costs), median(b for _, b in turns.costs)),
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
