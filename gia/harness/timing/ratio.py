"""Cost ratios that hold on a busy machine: two callables timed in turn, and an interval for their ratio.

    cost = ratio(attack_step, training_step)
    benchmark.extra_info["cost"] = cost.row()
    cost.at_most(3.4)                         # TimingFailed beyond the goal and its slack

What is timed is a callable, a search that runs itself (`ratio_of_steps`), or blocks of calls in another process
(`ratio_of_blocks`); the rounds and the interval are the same.

A round in which the machine changed its speed is measured again, a limited number of times. A ratio without enough
steady rounds decides nothing: `TimingInconclusive` is a `unittest.SkipTest`, which pytest reports as a skip with the
numbers as its reason, so that it stands as neither passed nor failed.
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
    ROUNDS,
    STEADY,
    Block,
    Clock,
    Held,
    Measured,
    Rounds,
    Steps,
    Work,
    follow,
    measuring,
)
from gia.numerics import reproducible

COVERAGE = 0.90
RESAMPLES = 4000
WARMUP = 2  # calls of each side before anything is timed


class TimingFailed(AssertionError):
    """A cost misses its goal, or a benchmark is gone."""


class TimingInconclusive(unittest.SkipTest):
    """The machine was not steady enough to tell; never a pass."""


@dataclass(frozen=True)
class Ratio:
    """The cost of a over the cost of b.

    Attributes:
        median: of the rounds' ratios.
        low, high: bootstrap 90 % interval of the median.
        rounds: how many rounds of A B B A count.
        dropped: rounds that were measured again because the machine was not steady.
        state: (slowest - fastest) / fastest time of the probe beside the rounds that count.
        conclusive: `state` is at most 0.10.
        seconds: median time of one call of a, and of b.
    """

    median: float
    low: float
    high: float
    rounds: int
    dropped: int
    state: float
    conclusive: bool
    seconds: tuple[float, float]

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        rounds = f"{self.rounds} rounds, {self.dropped} dropped"
        return f"{self.median:.3f} {interval}, {rounds}, machine varied {self.state:.1%}"

    def row(self) -> dict[str, Any]:
        """Plain numbers for `benchmark.extra_info`."""
        return asdict(self)

    def scaled(self, factor: float) -> Ratio:
        """This ratio times a positive factor, such as the cost of one of R trials, times 1 / R."""
        median, low, high = (value * factor for value in (self.median, self.low, self.high))
        return replace(self, median=median, low=low, high=high)

    def inverted(self) -> Ratio:
        """How many times cheaper a is than b."""
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
        """Whether a (head) costs more than b (base) by more than `by`, with the whole interval.

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
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    block_seconds: float = 0.1,
    clock: Clock = time.process_time,
    probe: Work | None = None,
) -> Ratio:
    """The cost of `a` over the cost of `b`, paired so that drift of the machine cancels.

    One torch thread, garbage collection off. Each is called `warmup` times, then as many times a block as fill
    `block_seconds`; a round is the blocks A B B A, in which a linear drift cancels, and yields one ratio. Before the
    first and after each round `probe` (a 1024 x 1024 float32 product) tells the machine's state. A round counts if the
    probes on both its sides are within 10 % of the fastest probe; others are measured again, up to three times `rounds`
    in all. So only the machine's state selects, never the ratio. The bootstrap has a seed of its own.

    Args:
        clock: processor time of this process, which leaves out what other processes take: with four busy processes on
            two cores the probe varied by 6-9 % in it, by 47-120 % in wall time. For work on another device give a
            clock that waits for it: `lambda: (torch.cuda.synchronize(), time.perf_counter())[1]`.

    Raises ValueError for fewer than 9 rounds.
    """
    with _quiet():
        blocks = {side: _block(work, clock) for side, work in (("a", a), ("b", b), ("probe", probe or _product()))}
        return _summary(follow(measuring(rounds, warmup, block_seconds), blocks))


def ratio_of_steps(
    a: Steps,
    b: Work,
    *,
    rounds: int = ROUNDS,
    block_seconds: float = 0.1,
    clock: Clock = time.process_time,
    probe: Work | None = None,
) -> Ratio:
    """`ratio` where `a` is one step of work that runs itself: it is held before a step while `b` is timed.

    Raises RuntimeError if `a` ends by itself before the rounds are done.
    """
    with _quiet():
        blocks = {"b": _block(b, clock), "probe": _block(probe or _product(), clock)}
        held = Held(measuring(rounds, WARMUP, block_seconds), blocks, clock)
        try:
            a(held.between)
        except Measured as measured:
            return _summary(measured.found)
    raise RuntimeError(f"a: its steps ended before {rounds} rounds were measured")


def ratio_of_blocks(
    a: Block,
    b: Block,
    *,
    rounds: int = ROUNDS,
    block_seconds: float = 0.1,
    clock: Clock = time.process_time,
    probe: Work | None = None,
) -> Ratio:
    """`ratio` where `a` and `b` run and time so many calls themselves, such as in processes of their own.

    `clock` is for the probe, which runs here.
    """
    with _quiet():
        blocks = {"a": a, "b": b, "probe": _block(probe or _product(), clock)}
        return _summary(follow(measuring(rounds, WARMUP, block_seconds), blocks))


def compare_names(base: Collection[str], head: Collection[str]) -> list[str]:
    """The benchmarks that are new in `head`, after making sure that every one of `base` is still there.

    `--benchmark-compare-fail` compares what has the same name and passes silently over a benchmark that was renamed.
    Raises TimingFailed naming those that are gone.
    """
    gone, new = sorted(set(base) - set(head)), sorted(set(head) - set(base))
    if gone:
        raise TimingFailed(f"benchmarks of the base that the head no longer has: {gone}; new in the head: {new}")
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


def _block(work: Work, clock: Clock) -> Block:
    def run(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            work()
        return clock() - start

    return run


def _product() -> Work:
    matrix = torch.ones(1024, 1024)
    return lambda: matrix @ matrix


def _summary(found: Rounds) -> Ratio:
    values = np.array([a / b for a, b in found.costs])
    low, high = _interval(values)
    return Ratio(
        median=float(np.median(values)),
        low=low,
        high=high,
        rounds=len(values),
        dropped=found.dropped,
        state=found.state,
        conclusive=found.conclusive,
        seconds=(median(a for a, _ in found.costs), median(b for _, b in found.costs)),
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
