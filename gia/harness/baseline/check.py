"""Stored baselines: a pinned level is measured again and compared with the sample on record.

`baselines/<module>.json` holds one entry per pinned level, with every value of every quantity for a few seeds:

- with the same numeric fingerprint and torch minor version, samples are compared seed by seed and quantity by quantity,
  within the stored tolerance: the arithmetic is the same bit for bit, so a larger difference is a change of the code;
- otherwise the new mean of the deciding quantity must lie in the prediction interval of the stored sample at
  1 - 0.05/(number of checks in the run). Quantities with tolerance 0 (counts) must still agree; the rest is shown.

A better sample fails as a worse one does. Every failure is a `BaselineError` that says what to do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gia import numerics
from gia.harness.baseline.compare import BaselineStale, Comparison, compare, differences, means_of, same_definition
from gia.harness.baseline.file import COMMAND, BaselineCorrupt, BaselineError, Quantity, load, new_content, write
from gia.harness.blocks.block import Block
from gia.harness.blocks.level import Level, Measure

SEEDS = 6
MINIMUM_SEEDS = 4  # with fewer a prediction interval excludes almost nothing

Values = Mapping[str, Sequence[float]]


class _Count(NamedTuple):
    unit: str
    higher_is_better: bool = False
    tolerance: float = 0.0
    platform_spread: float = 0.0


class BaselineMissing(BaselineError):
    """The file has no such entry; the values were written to `<module>.obtained.json`."""


class BaselineNonFinite(BaselineError):
    """A measured value is NaN or infinite."""


class RebaselineRefused(BaselineError):
    """--gia-rebaseline was given where it must not replace anything."""


class Baselines:
    """The baseline files of one run, and what its checks share.

    Args:
        folder: where the files lie. Records of verdicts, `reported.json` and `*.obtained.json` are not among them.
        measure: measures a level on a block.
        quantities: name -> what is known of it. The harness adds "gradient_evaluations".
        rebaseline: whether entries that fail are replaced, if two runs agree.
        reason: why; stored with the entries, and required with `rebaseline`.
        commit: stored with the entries.
        ci: whether the run must not replace anything; by default whether the variable CI is set.
        machine: fingerprint, threads and torch; by default those of this machine.
        checks: number of checks in the run; by default the number of entries in the folder.

    Attributes:
        comparisons: one per check that passed or was replaced.

    Raises:
        RebaselineRefused: if `rebaseline` comes under CI or without a reason.
        ValueError: if a quantity's tolerance is below the difference seen between machines.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     baselines = Baselines(Path(folder), measure=lambda level, block, cache: level, quantities={})
    ...     baselines.open("batch_size").path.name, baselines.finish(full=True)
    ('batch_size.json', [])
    """

    def __init__(
        self,
        folder: Path,
        *,
        measure: Measure,
        quantities: Mapping[str, Quantity],
        rebaseline: bool = False,
        reason: str | None = None,
        commit: str = "unknown",
        ci: bool | None = None,
        machine: Mapping[str, str] | None = None,
        checks: int | None = None,
    ) -> None:
        if rebaseline and (bool(os.environ.get("CI")) if ci is None else ci):
            raise RebaselineRefused("--gia-rebaseline: expected outside CI, where its owner sees the numbers, got CI")
        if rebaseline and not (reason or "").strip():
            raise RebaselineRefused('--gia-rebaseline: expected --gia-reason "why the numbers moved", got no reason')
        for name, known in quantities.items():
            if not 0 <= known.platform_spread <= known.tolerance < math.inf:
                raise ValueError(
                    f"quantities[{name!r}].tolerance: expected at least the platform spread "
                    f"{known.platform_spread:g}, got {known.tolerance:g}"
                )
        self.folder, self.measure, self.rebaseline, self.checks = folder, measure, rebaseline, checks
        self.quantities: Mapping[str, Quantity] = {**quantities, "gradient_evaluations": _Count("evaluations")}
        self._machine, self._commit, self._reason = machine, commit, (reason or "").strip()
        self.comparisons: list[Comparison] = []
        self._open: dict[str, Baseline] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """What is stored with every entry of this run: machine, commit and reason."""
        machine = _this_machine() if self._machine is None else self._machine
        return {"machine": dict(machine), "commit": self._commit, "reason": self._reason}

    def open(self, module: str) -> Baseline:
        """The baseline of a test module, "batch_size" for baselines/batch_size.json; the same object each time.

        Raises BaselineCorrupt for a file that cannot be trusted.
        """
        if module not in self._open:
            if self.checks is None:
                self.checks = 0
                for path in self._stored():
                    with suppress(BaselineCorrupt):  # that file fails where it is opened
                        self.checks += len(load(path))
            self._open[module] = Baseline(self.folder / f"{module}.json", self)
        return self._open[module]

    def finish(self, *, full: bool) -> list[BaselineError]:
        """After a full run, one error for every stored entry that nothing checked; none after a partial run.

        A run is full if every baseline test of the repository was collected and ran as far as its checks.
        """
        errors: list[BaselineError] = []
        for path in self._stored() if full else ():
            try:
                errors += self.open(path.stem).finish()
            except BaselineCorrupt as corrupt:
                errors.append(corrupt)
        return errors

    def _stored(self) -> list[Path]:
        paths = sorted(self.folder.glob("*.json"))
        others = {"reported", "claims", "confirm", "reach", "ledger"}  # and those of a scale: "claims-paper"
        return [p for p in paths if p.stem.partition("-")[0] not in others and not p.stem.endswith(".obtained")]


class Baseline:
    """One file of stored samples, made by `Baselines.open`; a file that does not exist has no entries."""

    def __init__(self, path: Path, run: Baselines) -> None:
        self.path = path
        self.entries = load(path)
        self._run = run
        self._checked: set[str] = set()
        self._obtained: dict[str, Any] = {}

    def check_level(self, entry: str, level: Level, *, deciding: str | None = None) -> Comparison:
        """Measure a pinned level on six seeds and `check` the values and counts that the run has a quantity for.

        Args:
            entry: the name of the entry in the file.
            level: nothing in it may vary.
            deciding: the quantity that decides between machines; by default the first of the level's values.

        Raises:
            ValueError: if the level varies something, or a quantity is not defined for it.
            BaselineError: if the sample does not agree with the entry.
        """

        def measured() -> Values:
            return self._measured(level)

        values = measured()
        deciding = next(iter(values), "") if deciding is None else deciding
        return self.check(entry, values, deciding=deciding, setting=level.digest(), dtype=level.dtype, rerun=measured)

    def check(
        self,
        entry: str,
        values: Values,
        *,
        deciding: str,
        setting: str,
        dtype: str = "float64",
        rerun: Callable[[], Values] | None = None,
    ) -> Comparison:
        """Compare new values with those of an entry.

        Args:
            entry: the name of the entry, checked once per run. It comes from a fixed list, not from a random draw.
            values: quantity -> one value per seed, in the order of the seeds.
            deciding: the quantity that decides between machines.
            setting: the digest of everything that was set.
            dtype: in which the values were computed.
            rerun: measures the values once more without any cache; only called to replace an entry.

        Raises:
            ValueError: for an entry that was already checked, and for malformed values.
            BaselineError: if they do not agree. With `rebaseline` the entry is replaced instead, if two runs agree.
        """
        if entry in self._checked:
            raise ValueError(f"entry: expected a name not yet checked in this run, got {entry!r} again")
        self._checked.add(entry)

        facts = {"deciding": deciding, "protocol": setting, "dtype": dtype, **self._run.facts}

        def content(numbers: Values) -> dict[str, Any]:
            return new_content(entry, self._sample(entry, numbers, deciding), self._run.quantities, **facts)

        new = content(values)
        try:
            if entry not in self.entries:
                raise self._missing(entry, new)
            checks = max(1, self._run.checks or 0)
            comparison = compare(self._at(entry), entry, self.entries[entry], new, checks=checks)
        except BaselineError:
            if not self._run.rebaseline:
                raise
            if rerun is None:
                raise RebaselineRefused(
                    f"{self._at(entry)}: rerun: expected a function, to see whether the sample repeats, got None"
                ) from None
            self._replace(entry, new, content(rerun()))
            unit = new["metrics"][deciding]["unit"]
            comparison = Comparison(entry, "stored now", deciding, unit, means_of(new, new))
        self._run.comparisons.append(comparison)
        return comparison

    def finish(self) -> list[BaselineStale]:
        """One error for every entry that no check of this run named; with `rebaseline` those entries are dropped."""
        stale = sorted(set(self.entries) - self._checked)
        if stale and self._run.rebaseline:
            self.entries = {entry: content for entry, content in self.entries.items() if entry in self._checked}
            write(self.path, self.entries)
            return []
        advice = f"is stale: no test checks it. Restore its test, or drop it with a full run of {COMMAND}"
        return [BaselineStale(f"{self._at(entry)} {advice}") for entry in stale]

    def _at(self, entry: str) -> str:
        return f"{self.path.name}: {entry!r}"

    def _measured(self, level: Level) -> dict[str, list[float]]:
        if level.vary:
            raise ValueError(f"level: expected nothing that varies in a baseline, got {sorted(level.vary)}")
        with numerics.reproducible():
            results = [
                self._run.measure(level, Block("baseline", seed, {}, "baseline"), cache=None) for seed in range(SEEDS)
            ]
        numbers = [{**result.values, **result.counts} for result in results]
        sample = {}
        for name in (name for name in numbers[0] if name in self._run.quantities):
            defined = [value for each in numbers if (value := each[name]) is not None]
            if len(defined) < SEEDS:
                raise ValueError(f"level: expected {name!r} to be defined for {SEEDS} seeds, got {len(defined)}")
            sample[name] = [float(value) for value in defined]
        return sample

    def _sample(self, entry: str, values: Values, deciding: str) -> dict[str, list[float]]:
        """The values as lists of finite floats."""
        sample = {name: [float(value) for value in numbers] for name, numbers in values.items()}
        if deciding not in sample:
            raise ValueError(f"deciding: expected one of {sorted(sample)}, got {deciding!r}")
        if unknown := sorted(set(sample) - set(self._run.quantities)):
            raise ValueError(f"values: expected quantities among {sorted(self._run.quantities)}, got {unknown[0]!r}")
        seeds = {name: len(numbers) for name, numbers in sample.items()}
        if len(set(seeds.values())) != 1 or seeds[deciding] < MINIMUM_SEEDS:
            raise ValueError(f"values: expected the same seeds everywhere, at least {MINIMUM_SEEDS}, got {seeds}")
        for name, numbers in sample.items():
            if bad := [seed for seed, value in enumerate(numbers) if not math.isfinite(value)]:
                raise BaselineNonFinite(
                    f"{self._at(entry)}: {name} is not finite at seeds {bad} of {numbers}, which no baseline can hold. "
                    "Fix what is measured, or the metric"
                )
        return sample

    def _missing(self, entry: str, new: dict[str, Any]) -> BaselineMissing:
        """Write all entries that this run missed to a second file next to the one they belong to."""
        self._obtained[entry] = new
        target = self.path.with_suffix(".obtained.json")
        write(target, self._obtained)
        return BaselineMissing(
            f"{self._at(entry)} has no entry; its values are in {target.name}. Store them: {COMMAND}"
        )

    def _replace(self, entry: str, new: dict[str, Any], again: dict[str, Any]) -> None:
        same_definition(self._at(entry), new, again)
        if off := [f"{name}: {seeds}" for name in new["metrics"] if (seeds := differences(new, again, name))]:
            raise RebaselineRefused(
                f"{self._at(entry)}: two runs disagree by more than the tolerance ({'; '.join(off)}), so nothing was "
                "stored. Find what is random in it"
            )
        self.entries[entry] = new
        write(self.path, self.entries)


@cache
def _this_machine() -> dict[str, str]:
    """As it is inside `reproducible()`, where levels are measured; the test process may have more threads."""
    with numerics.reproducible():
        facts = numerics.environment()
        return {"fingerprint": numerics.fingerprint(), "threads": facts["threads"], "torch": facts["torch"]}
