"""Stored baselines: a pinned level is measured again and compared with the sample on record.

`baselines/<module>.json` holds one entry per pinned level, with every value of every quantity for a few seeds:

- with the same numeric fingerprint and torch minor version, every quantity is compared seed by seed within the stored
  tolerance: the arithmetic is the same bit for bit, so a larger difference is a change of the code;
- otherwise the deciding quantity of the same seeds may move as far as `gia.harness.baseline.drift` allows. Quantities
  with tolerance 0 (counts) must still agree; the rest is shown. Where nobody expects another machine, as in CI, such a
  check fails, since it is weaker; except where only the processor differs and each seed is held to its limit.

A better sample fails as a worse one does. Every failure is a `BaselineError` that says what to do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gia import numerics
from gia.harness.baseline.compare import (
    BaselineStale,
    Comparison,
    compare,
    differences,
    means_of,
    same_arithmetic,
    same_definition,
    same_torch,
)
from gia.harness.baseline.drift import Allowed, Drift
from gia.harness.baseline.file import (
    COMMAND,
    BaselineCorrupt,
    BaselineError,
    Quantity,
    is_stored,
    load,
    new_content,
    write,
)
from gia.harness.blocks.block import Block
from gia.harness.blocks.level import Level, Measure
from gia.harness.ci import under_ci

SEEDS = 6
MINIMUM_SEEDS = 4  # with fewer a median is one chaotic seed's

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


class BaselineElsewhere(BaselineError):
    """The sample could only be compared as on another machine, where this run expects the one that it was stored on."""


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
        drop: names FILE/ENTRY of stored entries to remove at the end; with a reason, and none that a test checks.
        elsewhere: whether another machine or torch than that of the stored samples is expected; by default outside CI,
            except with `rebaseline`, which then moves every entry to this machine.
        samples: a folder for the samples of this run, in the form of baseline files.
        ci: whether the run must not replace anything; by default whether this is CI.
        pinned: whether the arithmetic is pinned; by default whether the variables of `gia.numerics.REPEATABLE` are set.
        machine: fingerprint, threads and torch; by default those of this machine.

    Attributes:
        comparisons: one per check that passed or was replaced.

    Raises:
        RebaselineRefused: if `rebaseline` or `drop` comes under CI or without a reason, or `rebaseline` where the
            arithmetic is not pinned.
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
        drop: Sequence[str] = (),
        elsewhere: bool | None = None,
        samples: Path | None = None,
        ci: bool | None = None,
        pinned: bool | None = None,
        machine: Mapping[str, str] | None = None,
    ) -> None:
        ci, pinned = under_ci() if ci is None else ci, not unpinned() if pinned is None else pinned
        for option, given in {"--gia-rebaseline": rebaseline, "--gia-drop": bool(drop)}.items():
            if given and ci:
                raise RebaselineRefused(f"{option}: expected outside CI, where its owner sees the numbers, got CI")
            if given and not (reason or "").strip():
                raise RebaselineRefused(f'{option}: expected --gia-reason "why the numbers moved", got no reason')
        if rebaseline and not pinned:
            raise RebaselineRefused(
                "--gia-rebaseline: expected pinned arithmetic, or no other machine can repeat the numbers; set "
                f"{' '.join(unpinned())} (nox -s rebaseline does)"
            )
        for name, known in quantities.items():
            if not 0 <= known.platform_spread <= known.tolerance < math.inf:
                raise ValueError(
                    f"quantities[{name!r}].tolerance: expected at least the platform spread "
                    f"{known.platform_spread:g}, got {known.tolerance:g}"
                )
        self.folder, self.measure, self.rebaseline, self.pinned = folder, measure, rebaseline, pinned
        self.elsewhere, self.samples = not (ci or rebaseline) if elsewhere is None else elsewhere, samples
        self.drift = Drift(folder)
        self.quantities: Mapping[str, Quantity] = {**quantities, "gradient_evaluations": _Count("evaluations")}
        self._machine, self._commit, self._reason = machine, commit, (reason or "").strip()
        self.comparisons: list[Comparison] = []
        self._open: dict[str, Baseline] = {}
        self._drop = list(drop)

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

    def drop(self) -> tuple[list[str], list[BaselineError]]:
        """Remove the entries that the run was told to drop: the names of those, and an error for each that stays."""
        dropped: list[str] = []
        errors: list[BaselineError] = []
        for name in self._drop:
            file, _, entry = name.partition("/")
            try:
                self.open(file).drop(entry)
            except BaselineError as error:
                errors.append(error)
            else:
                dropped.append(name)
        return dropped, errors

    def _stored(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob("*.json")) if is_stored(path)]


class Baseline:
    """One file of stored samples, made by `Baselines.open`; a file that does not exist has no entries."""

    def __init__(self, path: Path, run: Baselines) -> None:
        self.path = path
        self.entries = load(path)
        self._run = run
        self._checked: set[str] = set()
        self._obtained: dict[str, Any] = {}
        self._sampled: dict[str, Any] = {}

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
        if self._run.samples is not None:
            self._sampled[entry] = new
            write(self._run.samples / self.path.name, self._sampled)
        try:
            if entry not in self.entries:
                raise self._missing(entry, new)
            stored = self.entries[entry]
            allowed = self._run.drift.allowed(f"{self.path.stem}/{entry}", stored)
            if not (self._run.elsewhere or same_arithmetic(stored, new) or self._held(stored, new, allowed)):
                raise self._elsewhere(entry, stored, new)
            comparison = compare(self._at(entry), entry, stored, new, allowed=allowed)
            if self._run.rebaseline and comparison.allowed is not None:
                raise self._elsewhere(entry, stored, new)  # to be stored for this machine
        except BaselineError:
            if not self._run.rebaseline or not (
                self._run.elsewhere or entry not in self.entries or same_arithmetic(self.entries[entry], new)
            ):
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
        """One error for every entry that no check of this run named."""
        stale = sorted(set(self.entries) - self._checked)
        return [
            BaselineStale(
                f"{self._at(entry)} is stale: no test checks it. Restore its test, or drop it: "
                f"--gia-drop={self.path.stem}/{entry}"
            )
            for entry in stale
        ]

    def drop(self, entry: str) -> None:
        """Remove a stored entry. Raises RebaselineRefused for one that is not there or was checked."""
        if entry not in self.entries or entry in self._checked:
            why = "checked by a test" if entry in self._checked else f"none of {sorted(self.entries)}"
            raise RebaselineRefused(f"--gia-drop: expected stored entries without a test, got {self._at(entry)}, {why}")
        del self.entries[entry]
        write(self.path, self.entries)

    def _at(self, entry: str) -> str:
        return f"{self.path.name}: {entry!r}"

    def _held(self, stored: Mapping[str, Any], new: Mapping[str, Any], allowed: Allowed) -> bool:
        """Whether nothing but the processor differs, and the measured drift is so small that each seed can be held."""
        return self._run.pinned and same_torch(stored, new) and allowed.rule == "each seed"

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

    def _elsewhere(self, entry: str, stored: Mapping[str, Any], new: Mapping[str, Any]) -> BaselineElsewhere:
        """Say what differs, and what to do."""
        here, there = ("torch {torch}, fingerprint {fingerprint}".format(**each["machine"]) for each in (new, stored))
        return BaselineElsewhere(
            f"{self._at(entry)} was stored with {there}, this run has {here}: its seeds cannot be compared bit by bit. "
            "Pin the arithmetic as it was (nox -s regress does), or say that another machine or torch is expected: "
            "--gia-elsewhere"
        )

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


def unpinned() -> list[str]:
    """NAME=VALUE of the variables of `gia.numerics.REPEATABLE` that are not set so."""
    return [f"{name}={value}" for name, value in numerics.REPEATABLE.items() if os.environ.get(name) != value]


@cache
def _this_machine() -> dict[str, str]:
    """As it is inside `reproducible()`, where levels are measured; the test process may have more threads."""
    with numerics.reproducible():
        facts = numerics.environment()
        return {"fingerprint": numerics.fingerprint(), "threads": facts["threads"], "torch": facts["torch"]}
