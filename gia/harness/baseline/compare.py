"""Whether a new sample agrees with the stored one: seed by seed, or what drift allows across machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gia.harness.baseline.drift import Allowed
from gia.harness.baseline.file import COMMAND, BaselineError

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
        how: "paired", "elsewhere" on another machine or torch, or "stored now" for an entry that was replaced.
        deciding, unit: the metric that decides between machines, and its unit.
        means: metric -> stored and new mean over seeds.
        allowed: for "elsewhere", how far the deciding metric was allowed to move.

    >>> str(Comparison("op/b1", "paired", "psnr", "dB", {"psnr": (24.5, 24.5), "ssim": (0.81, 0.81)}))
    'op/b1: psnr 24.5 -> 24.5 dB (paired); ssim 0.81 -> 0.81'
    """

    entry: str
    how: str
    deciding: str
    unit: str
    means: Mapping[str, tuple[float, float]]
    allowed: Allowed | None = None

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
        how = self.how if self.allowed is None else f"{self.how}: {self.allowed}"
        others = [f"{name} {was:.4g} -> {now:.4g}" for name, (was, now) in self.means.items() if name != self.deciding]
        return "; ".join([f"{self.entry}: {self.deciding} {stored}{self.obtained:.4g} {self.unit} ({how})", *others])


def compare(where: str, entry: str, old: Content, new: Content, *, allowed: Allowed) -> Comparison:
    """Compare the stored content of an entry with the new one, seed by seed.

    Args:
        where: the file and the entry, for messages.
        allowed: how far the deciding metric may move on another machine or torch version.

    Raises:
        BaselineWorse, BaselineBetter: if they disagree.
        BaselineVanished, BaselineStale: if they hold other metrics or belong to other settings.
    """
    same_definition(where, old, new)
    rows, deciding, means = old["metrics"], new["deciding"], means_of(old, new)
    if same_arithmetic(old, new):
        how, basis, limit = "paired", "seed by seed, same fingerprint", None
        moved = {metric for metric in rows if differences(old, new, metric)}
    else:
        how, basis, limit = "elsewhere", f"another machine or torch: {allowed} {rows[deciding]['unit']}", allowed
        moved = {metric for metric in rows if rows[metric]["tolerance"] == 0 and differences(old, new, metric)}
        pairs = zip(rows[deciding]["values"], new["metrics"][deciding]["values"], strict=True)
        if allowed.exceeded([now - was for was, now in pairs]):
            moved.add(deciding)
    if moved:
        raise _movement(where, old, new, sorted(moved, key=lambda metric: (metric != deciding, metric)), basis)
    return Comparison(entry, how, deciding, rows[deciding]["unit"], means, limit)


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


def same_arithmetic(old: Content, new: Content) -> bool:
    """Whether both were measured with the same fingerprint and minor version of torch, so that bits can be compared."""
    same: bool = old["machine"]["fingerprint"] == new["machine"]["fingerprint"]
    return same and same_torch(old, new)


def same_torch(old: Content, new: Content) -> bool:
    """Whether both were measured with the same minor version of torch."""
    one, other = (each["machine"]["torch"].split(".")[:2] for each in (old, new))
    return bool(one == other)


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
