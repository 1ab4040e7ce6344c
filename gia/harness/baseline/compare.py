"""Whether a new sample agrees with the stored one: seed by seed, or by a prediction interval across machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from gia.harness.baseline.file import COMMAND, BaselineError, spread

ALPHA = 0.05  # over all checks of a run

Content = Mapping[str, Any]  # of an entry


class BaselineWorse(BaselineError):
    """The new sample is worse than the stored one."""


class BaselineBetter(BaselineError):
    """The new sample is better than the stored one, which therefore no longer protects the gain."""


class BaselineStale(BaselineError):
    """The entry was stored for another setting or metric definition, or no test checks it any more."""


class BaselineVanished(BaselineError):
    """A metric is only in the stored sample or only in the new one."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of one check.

    Attributes:
        entry: its name in the file.
        how: "paired", "prediction interval", or "stored now" for an entry that was replaced.
        deciding, unit: the metric that decides between machines, and its unit.
        means: metric -> stored and new mean over seeds.
        interval: for "prediction interval", where the new mean of the deciding metric had to lie.

    >>> str(Comparison("op/b1", "paired", "psnr", "dB", {"psnr": (24.5, 24.5), "ssim": (0.81, 0.81)}))
    'op/b1: psnr 24.5 -> 24.5 dB (paired); ssim 0.81 -> 0.81'
    """

    entry: str
    how: str
    deciding: str
    unit: str
    means: Mapping[str, tuple[float, float]]
    interval: tuple[float, float] | None = None

    @property
    def stored(self) -> float | None:
        """The stored mean of the deciding metric; None for an entry that was replaced."""
        return None if self.how == "stored now" else self.means[self.deciding][0]

    @property
    def obtained(self) -> float:
        """The new mean of the deciding metric."""
        return self.means[self.deciding][1]

    def __str__(self) -> str:
        """One line of the report: the deciding metric, then the others."""
        stored = "" if self.stored is None else f"{self.stored:.4g} -> "
        others = [f"{name} {was:.4g} -> {now:.4g}" for name, (was, now) in self.means.items() if name != self.deciding]
        return "; ".join(
            [f"{self.entry}: {self.deciding} {stored}{self.obtained:.4g} {self.unit} ({self.how})", *others]
        )


def compare(where: str, entry: str, old: Content, new: Content, *, checks: int) -> Comparison:
    """Compare the stored content of an entry with the new one.

    Args:
        where: the file and the entry, for messages.
        checks: number of checks in the run; the prediction interval has the level 1 - 0.05/checks.

    Raises:
        BaselineWorse, BaselineBetter: if they disagree.
        BaselineVanished, BaselineStale: if they hold other metrics or belong to other settings.
    """
    same_definition(where, old, new)
    rows, deciding, means = old["metrics"], new["deciding"], means_of(old, new)
    interval = None
    if _arithmetic(old) == _arithmetic(new):
        how, basis = "paired", "seed by seed, same fingerprint"
        moved = {metric for metric in rows if differences(old, new, metric)}
    else:
        how = "prediction interval"
        low, high = prediction_interval(rows[deciding]["values"], len(rows[deciding]["values"]), ALPHA / checks)
        slack = rows[deciding]["tolerance"]  # the whole width if all seeds have the same value
        interval = (low - slack, high + slack)
        basis = f"another machine, prediction interval {low:.6g} to {high:.6g} over {checks} checks"
        moved = {metric for metric in rows if rows[metric]["tolerance"] == 0 and differences(old, new, metric)}
        if not interval[0] <= means[deciding][1] <= interval[1]:
            moved.add(deciding)
    if moved:
        raise _movement(where, old, new, sorted(moved, key=lambda metric: (metric != deciding, metric)), basis)
    return Comparison(entry, how, deciding, rows[deciding]["unit"], means, interval)


def prediction_interval(sample: Sequence[float], count: int, alpha: float) -> tuple[float, float]:
    """The interval that contains the mean of `count` further values with probability 1 - alpha, for a normal sample.

    It is mean +- t(n-1, 1-alpha/2) * s * sqrt(1/n + 1/count), with s from `sample` alone. New values of the same seeds
    correlate with the stored ones, so false alarms are rarer than alpha.

    >>> low, high = prediction_interval([24.0, 25.0, 26.0, 25.0], 4, 0.05)
    >>> round(low, 3), round(high, 3)
    (23.163, 26.837)
    """
    size = len(sample)
    half = float(stdtrit(size - 1, 1 - alpha / 2)) * spread(sample) * math.sqrt(1 / size + 1 / count)
    middle = float(np.mean(sample))
    return middle - half, middle + half


def same_definition(where: str, old: Content, new: Content) -> None:
    """Raise unless both entries hold the same metrics of the same setting, with the same tolerances and seeds."""
    if gone := sorted(set(old["metrics"]) - set(new["metrics"])):
        raise BaselineVanished(f"{where}: stored but no longer measured: {gone}. Measure them, or drop them: {COMMAND}")
    if fresh := sorted(set(new["metrics"]) - set(old["metrics"])):
        raise BaselineVanished(f"{where}: measured but not stored: {fresh}. Store them: {COMMAND}")
    for name, before, now in _definitions(old, new):
        if before != now:
            raise BaselineStale(
                f"{where} is stale: it was stored with {name} {before}, the test has {now}. If intended: {COMMAND}"
            )


def _definitions(old: Content, new: Content) -> Iterator[tuple[str, Any, Any]]:
    yield "setting", old["protocol"], new["protocol"]
    for field in ("dtype", "deciding"):
        yield field, old[field], new[field]
    for metric, row in new["metrics"].items():
        before = old["metrics"][metric]
        for field in ("better", "unit", "tolerance", "platform_spread"):
            yield f"{metric} {field}", before[field], row[field]
        yield "number of seeds", len(before["values"]), len(row["values"])


def differences(old: Content, new: Content, metric: str) -> str:
    """The seeds at which a metric differs by more than its tolerance, in words; empty if none does."""
    row = old["metrics"][metric]
    pairs = zip(row["values"], new["metrics"][metric]["values"], strict=True)
    return ", ".join(
        f"seed {seed} {was:.9g} -> {now:.9g}"
        for seed, (was, now) in enumerate(pairs)
        if abs(now - was) > row["tolerance"]
    )


def means_of(old: Content, new: Content) -> dict[str, tuple[float, float]]:
    """Metric -> stored and obtained mean over seeds."""
    return {
        metric: (float(np.mean(row["values"])), float(np.mean(new["metrics"][metric]["values"])))
        for metric, row in old["metrics"].items()
    }


def _movement(where: str, old: Content, new: Content, moved: Sequence[str], basis: str) -> BaselineError:
    """BaselineBetter if the first metric that moved has a better mean, else BaselineWorse."""
    means, rows = means_of(old, new), []
    for metric in moved:
        was, now = means[metric]
        rows.append(
            f"{metric} {was:.6g} -> {now:.6g} {old['metrics'][metric]['unit']} ({differences(old, new, metric)})"
        )
    was, now = means[moved[0]]
    better = now > was if old["metrics"][moved[0]]["better"] == "higher" else now < was
    stored = f"stored at {old['commit']} with torch {old['machine']['torch']}: {old['reason']!r}"
    told = f"{'; '.join(rows)}; {basis}; {stored}"
    if better:
        return BaselineBetter(f"{where} got better, update the baseline: {COMMAND}. {told}")
    return BaselineWorse(f"{where} got worse: {told}. Fix it, or if it is intended: {COMMAND}")


def _arithmetic(content: Content) -> tuple[str, ...]:
    """What must agree for a comparison seed by seed: the fingerprint and torch's minor version."""
    return content["machine"]["fingerprint"], *content["machine"]["torch"].split(".")[:2]
