"""Cost ratios that hold on a busy machine: two callables timed in turn, an interval for their ratio, FLOP counts.

    cost = ratio(attack_step, training_step)
    benchmark.extra_info["cost"] = cost.row()
    cost.at_most(3.4)                         # TimingFailed beyond the goal and its slack

A round in which the machine changed its speed is measured again, a limited number of times. A ratio without enough
steady rounds decides nothing: `TimingInconclusive` is a `unittest.SkipTest`, which pytest reports as a skip with the
numbers as its reason, so that it stands as neither passed nor failed.
"""

from __future__ import annotations

import gc
import math
import time
import unittest
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gia.numerics import reproducible

MINIMUM_ROUNDS = 9
ROUNDS = 13  # the bootstrap interval of a median of 9 covers 83 %, of 13 the 90 % that it claims
MOST = 3  # times the rounds asked for, before an unsteady machine is given up
STEADY = 0.10  # variation of the machine's state above which nothing is decided
COVERAGE = 0.90
RESAMPLES = 4000

Work = Callable[[], object]
Clock = Callable[[], float]


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
    warmup: int = 2,
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
    if rounds < MINIMUM_ROUNDS:
        raise ValueError(f"rounds: expected at least {MINIMUM_ROUNDS}, got {rounds}")
    probe = _product() if probe is None else probe
    with reproducible(threads=1), _collection_off():
        for work in (a, b, probe) * warmup:
            work()
        block_a, block_b = ((work, _calls(work, block_seconds, clock)) for work in (a, b))
        costs: list[tuple[float, float]] = []
        states = [_state(probe, clock)]
        while len(counting := _steady(states)) < rounds and len(costs) < MOST * rounds:
            costs.append(_round(block_a, block_b, clock))
            states.append(_state(probe, clock))
    conclusive = len(counting) >= rounds
    chosen = counting if conclusive else range(len(costs))
    beside = [state for index in chosen for state in states[index : index + 2]]
    values = np.array([costs[index][0] / costs[index][1] for index in chosen])
    low, high = _interval(values)
    return Ratio(
        median=float(np.median(values)),
        low=low,
        high=high,
        rounds=len(values),
        dropped=len(costs) - len(values),
        state=max(beside) / min(beside) - 1,
        conclusive=conclusive,
        seconds=(median(costs[index][0] for index in chosen), median(costs[index][1] for index in chosen)),
    )


def count_flops(work: Work) -> int:
    """The floating point operations of one call of `work`, by torch's own formulas, forward and backward alike.

    Counted where operators are dispatched, so also inside a double backward, where `FlopCounterMode` raises. A multiply
    and an add are two; only products and convolutions have a formula, elementwise work counts as nothing; the weight
    gradient of a grouped convolution is counted as if it were not grouped (torch's formula).
    """
    counter = _Counter()
    with counter:
        work()
    return counter.flops


def compare_names(base: Collection[str], head: Collection[str]) -> list[str]:
    """The benchmarks that are new in `head`, after making sure that every one of `base` is still there.

    `--benchmark-compare-fail` compares what has the same name and passes silently over a benchmark that was renamed.
    Raises TimingFailed naming those that are gone.
    """
    gone, new = sorted(set(base) - set(head)), sorted(set(head) - set(base))
    if gone:
        raise TimingFailed(f"benchmarks of the base that the head no longer has: {gone}; new in the head: {new}")
    return new


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out


@contextmanager
def _collection_off() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _time(work: Work, calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        work()
    return clock() - start


def _calls(work: Work, seconds: float, clock: Clock) -> int:
    """How many calls take at least `seconds`, with a tenth to spare."""
    calls = 1
    while (took := _time(work, calls, clock)) < seconds:
        calls = max(calls + 1, math.ceil(calls * min(10.0, 1.1 * seconds / took))) if took > 0 else calls * 10
    return calls


def _round(a: tuple[Work, int], b: tuple[Work, int], clock: Clock) -> tuple[float, float]:
    """Seconds of one call of a and of b, from the blocks A B B A."""
    first, second, third, fourth = (_time(*block, clock) for block in (a, b, b, a))
    return (first + fourth) / (2 * a[1]), (second + third) / (2 * b[1])


def _steady(states: Sequence[float]) -> list[int]:
    """The rounds that count; round i lies between the states i and i + 1."""
    limit = min(states) * (1 + STEADY)
    return [index for index in range(len(states) - 1) if max(states[index : index + 2]) <= limit]


def _product() -> Work:
    matrix = torch.ones(1024, 1024)
    return lambda: matrix @ matrix


def _state(probe: Work, clock: Clock) -> float:
    """The faster of two, since one interruption is not a change of the machine."""
    return min(_time(probe, 1, clock), _time(probe, 1, clock))


def _interval(values: np.ndarray) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
