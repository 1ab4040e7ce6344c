"""Cost ratios: what they cancel, when they decide, and that a planted slowdown is told from noise.

All but one test run on a made-up machine, whose clock moves only when work is done, so that none hangs on a quiet one.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gia.harness.timing.flops import count_flops
from gia.harness.timing.ratio import (
    TURNS,
    Ratio,
    TimingFailed,
    TimingInconclusive,
    _interval,
    compare_names,
    ratio,
    ratio_of_bursts,
    ratio_of_steps,
)

pytest_plugins = ["pytester"]


class Machine:
    """A clock, and work that moves it: its cost times the machine's slowness at that moment, times noise."""

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0, noise: float = 0.0, seed: int = 0) -> None:
        """`noise` is the standard deviation of the logarithm of the time of one call, except for the yardstick's."""
        self.now = 0.0
        self.ran: list[str] = []
        self._slowness, self._noise, self._draw = slowness, noise, np.random.default_rng(seed)

    def clock(self) -> float:
        """Seconds of this machine."""
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        """A callable that takes `seconds` when the machine is itself."""

        def run() -> None:
            self.ran.append(name)
            noise = 0.0 if name == "yardstick" else self._noise * self._draw.standard_normal()
            self.now += seconds * self._slowness(self.now) * math.exp(noise)

        return run

    @property
    def reference(self) -> dict[str, Any]:
        """The clock, and a yardstick of 50 ms."""
        return {"clock": self.clock, "yardstick": self.work("yardstick", 0.05)}

    def ratio(self, a: float, b: float, **options: int) -> Ratio:
        """The ratio measured here for work of a and b seconds a call."""
        return ratio(
            self.work("a", a), self.work("b", b), clock=self.clock, yardstick=self.work("yardstick", 0.05), **options
        )


def planted(**changes: object) -> Ratio:
    """A conclusive ratio of 2, with some fields changed."""
    fields = {"median": 2.0, "low": 1.9, "high": 2.1, "turns": 9, "dropped": 0, "state": 0.02, "conclusive": True}
    return Ratio(**{**fields, "seconds": (0.2, 0.1), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("a", "b"), [(0.03, 0.02), (0.0007, 0.21), (0.5, 0.5)])
def test_the_ratio_is_that_of_one_call_each(a: float, b: float) -> None:
    """The numbers of calls in a burst differ, so bursts must not be compared as they are."""
    found = Machine().ratio(a, b)
    assert found.median == pytest.approx(a / b)
    assert (found.low, found.high) == pytest.approx((a / b, a / b))
    assert found.seconds == pytest.approx((a, b))
    assert found.conclusive
    assert (found.turns, found.dropped) == (13, 0)


def test_bursts_run_in_the_order_a_b_b_a_and_last_a_tenth_of_a_second() -> None:
    """Any other order lets a machine that slows down favour the callable that runs first."""
    machine = Machine()
    machine.ratio(0.003, 0.007)
    ran = [(name, len(list(calls))) for name, calls in groupby(machine.ran)]
    calls_a, calls_b = (
        37,
        16,
    )  # 0.111 s and 0.112 s: the burst plus a tenth; the two bursts of b follow each other
    assert ran[-8:] == [("a", calls_a), ("b", 2 * calls_b), ("a", calls_a), ("yardstick", 2)] * 2


def test_a_linear_drift_of_the_machine_cancels() -> None:
    """A processor that warms up slows down through every turn; half a percent would look like a change of the code."""
    machine = Machine(slowness=lambda now: 1 + 0.012 * now)
    found = machine.ratio(0.02, 0.02)
    assert found.state > 0.04
    assert found.median == pytest.approx(1.0, abs=2e-4)


def test_a_turn_next_to_an_unsteady_machine_is_measured_again() -> None:
    """Load of another process during one burst alone would move the ratio, or widen its interval."""
    machine = Machine(slowness=lambda now: 3.0 if now % 1.7 < 0.7 else 1.0)
    found = machine.ratio(0.02, 0.02)
    assert found.dropped > 0
    assert found.state <= 0.1
    assert found.conclusive
    assert found.turns == 13
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))


def test_a_machine_that_never_settles_gives_no_verdict_however_good_the_ratio() -> None:
    """Taking a ratio from such a machine for a pass, or for a failure, reports its neighbours and not the code."""
    machine = Machine(slowness=lambda now: 1.0 + int(now / 0.2) % 3)
    found = machine.ratio(0.02, 0.2)
    assert not found.conclusive
    assert found.state > 0.1
    assert found.turns == 3 * 13
    for verdict in (lambda: found.at_most(100.0), lambda: found.at_least(1e-3), found.slower):
        with pytest.raises(TimingInconclusive, match="never steady within 10%"):
            verdict()


def test_an_inconclusive_timing_is_reported_as_a_skip_with_its_numbers(pytester: pytest.Pytester) -> None:
    """A silent pass would claim a speed that nobody measured."""
    pytester.makepyfile(
        """
        from gia.harness.timing.ratio import Ratio

        def test_cost():
            Ratio(2.0, 1.9, 2.1, 27, 0, 0.62, False, (0.2, 0.1)).at_most(100.0)
        """
    )
    result = pytester.runpytest("-rs", "-p", "no:gia.harness.plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*2.000*1.900, 2.100*27 turns*varied 62.0%*"])


@pytest.mark.parametrize(
    ("rule", "edge", "field"),
    [("at_most", 3.4 / 0.8, "high"), ("at_least", 3.4 * 0.8, "low")],
)
def test_a_goal_is_held_by_the_unfavourable_end_with_a_fifth_of_slack(rule: str, edge: float, field: str) -> None:
    """Judging by the median, or by the other end, passes what misses its goal half of the time."""
    outside = 1 if rule == "at_most" else -1
    inside = planted(**{"low": 3.0, "high": 3.5, field: edge})
    assert getattr(inside, rule)(3.4) is inside
    beyond = planted(**{"low": 3.0, "high": 3.5, field: edge + outside * 1e-3})
    with pytest.raises(TimingFailed, match="goal 3"):
        getattr(beyond, rule)(3.4)


def test_a_planted_slowdown_is_told_from_noise_and_a_clean_repeat_raises_no_alarm() -> None:
    """The gate of base against head is worth nothing if it misses 1.3x, and is switched off if it cries wolf.

    Twenty runs each on a machine that sways by 6 % over seconds, with noise of 10 % in every call of the work; a
    regression is an interval that lies above 1.1 as a whole.
    """

    def slower(head: float, seed: int) -> bool:
        machine = Machine(slowness=lambda now: 1 + 0.03 * math.sin(now + seed), noise=0.1, seed=seed)
        found = machine.ratio(head, 0.02)
        assert found.conclusive  # or the test would end as a skip
        return found.slower()

    assert [slower(0.026, seed) for seed in range(20)] == [True] * 20
    assert [slower(0.020, seed) for seed in range(20, 40)] == [False] * 20


def test_the_bootstrap_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    """An interval of 90 % that holds in half of the runs makes every goal a coin toss."""
    draw = np.random.default_rng(5)
    samples = 1 + 0.05 * draw.standard_normal((400, TURNS))
    held = [low <= 1.0 <= high for low, high in map(_interval, samples)]
    # 0.91 over 2000 samples of another seed; the binomial error over 400 is 0.015, three of them are allowed.
    assert 0.86 <= np.mean(held) <= 0.95


def test_the_interval_repeats_and_leaves_the_global_random_state_alone() -> None:
    """Two readings of one measurement must agree; a benchmark must not move the seeds of what runs after it."""
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - it is what is watched
    assert Machine(noise=0.05).ratio(0.02, 0.02) == Machine(noise=0.05).ratio(0.02, 0.02)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_threads_and_garbage_collection_are_restored_also_after_an_error() -> None:
    """A benchmark that leaves collection off, or one thread, changes every test that follows."""
    threads = torch.get_num_threads()
    seen = []

    def work() -> None:
        seen.append((torch.get_num_threads(), gc.isenabled()))
        if len(seen) > 5:
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        ratio(work, work)
    assert set(seen) == {(1, False)}
    assert (torch.get_num_threads(), gc.isenabled()) == (threads, True)


def test_fewer_than_nine_turns_are_refused() -> None:
    """Three turns give an interval that means nothing."""
    with pytest.raises(ValueError, match="turns: expected at least 9, got 8"):
        Machine().ratio(0.02, 0.02, turns=8)


def test_real_work_of_three_times_the_cost_is_seen_as_such() -> None:
    """The made-up machine shows the arithmetic; this shows that the real clock measures real work."""
    matrix = torch.ones(192, 192)

    def three() -> None:
        for _ in range(3):
            matrix @ matrix

    found = ratio(three, lambda: matrix @ matrix, burst_seconds=0.01, yardstick=lambda: matrix @ matrix)
    assert 2 < found.median < 4.5


def test_a_search_is_timed_step_by_step_without_its_set_up() -> None:
    """Set-up would be counted as steps, or the other side would run on the search's clock."""
    machine = Machine()
    step = machine.work("a", 0.03)

    def search(before_step: Callable[[], None]) -> None:
        machine.now += 60
        while True:
            before_step()
            step()

    found = ratio_of_steps(search, machine.work("b", 0.02), **machine.reference)
    assert found.median == pytest.approx(1.5)
    assert found.seconds == pytest.approx((0.03, 0.02))
    assert found.turns == 13
    ran = [(name, len(list(calls))) for name, calls in groupby(machine.ran)]
    assert ran[-4:] == [("a", 4), ("b", 12), ("a", 4), ("yardstick", 2)]


def test_a_search_that_ends_too_early_is_an_error() -> None:
    """A ratio from a part of the turns would claim a coverage that it does not have."""
    machine = Machine()

    def search(before_step: Callable[[], None]) -> None:
        for _ in range(20):
            before_step()
            machine.work("a", 0.03)()

    with pytest.raises(RuntimeError, match="a: expected steps for 13 turns, got a search that ended before"):
        ratio_of_steps(search, machine.work("b", 0.02), **machine.reference)


def test_bursts_that_time_themselves_give_the_same_ratio() -> None:
    """Another process times its own calls; seconds of a burst are not those of one call."""
    machine = Machine()
    asked = []

    def burst(seconds: float) -> Callable[[int], float]:
        def run(calls: int) -> float:
            asked.append(calls)
            return calls * seconds

        return run

    found = ratio_of_bursts(burst(0.03), burst(0.02), **machine.reference)
    assert found.median == pytest.approx(1.5)
    assert found.seconds == pytest.approx((0.03, 0.02))
    assert asked[-4:] == [4, 6, 6, 4]


def test_a_ratio_can_be_taken_per_trial_and_the_other_way_round() -> None:
    """A gain with the ends of its interval swapped is judged by the favourable one."""
    per_trial = planted().scaled(1 / 4)
    assert (per_trial.median, per_trial.low, per_trial.high) == (0.5, 1.9 / 4, 2.1 / 4)
    gain = per_trial.inverted()
    assert (gain.median, gain.low, gain.high) == (2.0, 4 / 2.1, 4 / 1.9)
    assert gain.seconds == (0.1, 0.2)


def test_flops_of_a_convolution_follow_from_its_shape() -> None:
    """Two per multiply-add: 2 * 8 outputs * 3 inputs * 3 * 3 * 16 * 16, and a linear layer's 2 * 10 * 2048."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 10))
    assert count_flops(lambda: net(torch.zeros(1, 3, 16, 16))) == 2 * 8 * 3 * 9 * 256 + 2 * 10 * 2048


def test_flops_of_a_training_step_agree_with_torchs_own_counter() -> None:
    """Where `FlopCounterMode` works, the two must count the same, or our figures compare with nobody's."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(288, 10))
    images = torch.zeros(2, 3, 16, 16)

    def step() -> None:
        F.cross_entropy(net(images), torch.tensor([0, 1])).backward()

    with FlopCounterMode(display=False) as counter:
        step()
    assert count_flops(step) == counter.get_total_flops() > 0


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_flops_of_a_grouped_convolution_backward_are_those_of_its_groups(groups: int, transposed: bool) -> None:
    """A kernel per trial is a group per trial: counted as one group, R trials would cost R times what they do.

    By hand: 3 images, 16 channels to 8 (or 8 to 16), a kernel of 3 x 3 with stride 2 that slides over 4 x 4 places:
    16 * 8 / groups kernels of 9 entries, each used at 3 * 16 places, two operations each; once for each gradient.
    """
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(16, 8, 3, stride=2, groups=groups, bias=False)
    images = torch.zeros(3, 16, *((4, 4) if transposed else (9, 9)), requires_grad=True)
    product = 2 * (16 * 8 // groups) * 9 * 3 * 16
    outputs = layer(images)
    assert outputs.shape[2:] == ((9, 9) if transposed else (4, 4))
    for wanted in ([layer.weight], [images], [layer.weight, images]):
        backward = partial(torch.autograd.grad, outputs.sum(), wanted, retain_graph=True)
        assert count_flops(backward) == len(wanted) * product
    assert count_flops(lambda: layer(images)) == product


def test_flops_are_counted_through_a_double_backward() -> None:
    """The attack step is one. For a linear layer without bias each product is 2 * B * in * out, counted by hand."""
    batch, width, classes = 4, 32, 10
    net = nn.Linear(width, classes, bias=False)
    images = torch.ones(batch, width, requires_grad=True)
    product = 2 * batch * width * classes

    def step() -> None:
        logits = net(images)
        (gradient,) = torch.autograd.grad((logits**2).sum(), [net.weight], create_graph=True)
        torch.autograd.grad((gradient**2).sum(), [images])

    # Forward; weight gradient; from its square to the logits' gradient, to the images directly, through the logits.
    assert count_flops(step) == 5 * product


def test_a_renamed_benchmark_fails_and_a_new_one_is_told() -> None:
    """`--benchmark-compare-fail` passes over a benchmark that lost its counterpart, however slow it became."""
    assert compare_names({"step[small]", "step[r18]"}, {"step[small]", "step[r18]", "step[vit]"}) == ["step[vit]"]
    with pytest.raises(TimingFailed, match=r"got none named \['step\[r18\]'\]; new are \['step\[resnet18\]'\]"):
        compare_names({"step[small]", "step[r18]"}, {"step[small]", "step[resnet18]"})


def test_a_regression_needs_the_whole_interval_above_the_threshold() -> None:
    """An alarm on an interval that still holds an equal cost is an alarm on noise."""
    assert planted(low=1.11, median=1.3, high=1.5).slower()
    assert not planted(low=1.09, median=1.3, high=1.5).slower()
    assert not planted(low=1.2, median=1.3, high=1.5).slower(by=0.25)
