"""Step-size schedules: (step, steps) -> factor on the step size."""

from __future__ import annotations

import math
from collections.abc import Callable

#: (step from 0, steps in total) -> factor.
Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """No decay.

    >>> constant(5, 10)
    1.0
    """
    return 1.0


def step_decay(step: int, steps: int) -> float:
    """x0.1 after each of 3/8, 5/8 and 7/8 of the steps (Geiping et al., 2020, released settings).

    Args:
        step: from 0.
        steps: in total.

    >>> [step_decay(step, 24_000) for step in (8_999, 9_000, 15_000, 21_000)]
    [1.0, 0.1, 0.01, 0.001]
    """
    return float(f"1e-{sum(8 * step >= eighths * steps for eighths in (3, 5, 7))}")  # integers: no milestone at 14999.0


def cosine_decay(step: int, steps: int, *, warmup: int = 50) -> float:
    """A linear rise over the first `warmup` steps, then half a cosine down (Yin et al., 2021, implementation details).

    Args:
        step: from 0.
        steps: in total; a search of at most `warmup` steps only rises.
        warmup: steps of the rise.

    >>> [round(cosine_decay(step, 20_000), 6) for step in (0, 24, 49, 50, 10_025, 19_999)]
    [0.02, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def own_schedule(schedule: Schedule, default: Schedule, converged: float | None) -> Schedule:
    """The schedule of a search: `schedule` for a fixed number of steps, else `constant`, since a search that ends when
    it has converged decays by its own rule.

    Args:
        schedule: as given by the caller.
        default: what the caller did not have to give.
        converged: as in `gia.attacks.matching.minimize`.

    Raises ValueError for both `converged` and a schedule other than the default.

    >>> own_schedule(step_decay, step_decay, 0.01) is constant
    True
    """
    if converged is None:
        return schedule
    if schedule is not default:
        raise ValueError(
            f"schedule: expected the default beside converged, which decays by its own rule, got {schedule}"
        )
    return constant
