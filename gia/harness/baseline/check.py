"""Stored metric baselines: a cell of a pinned grid, measured again, is compared with the sample on record.

A cell is a named setting with a handful of seeds; `baselines/<module>.json` keeps every value of every metric, so a
comparison is one of samples, not of rounded numbers:

- same numeric fingerprint and torch minor version: paired, seed by seed and metric by metric, within the stored
  tolerance (the arithmetic is the same bit for bit, so anything larger is a change of the code);
- otherwise: the new mean of the deciding metric must lie in the prediction interval of the stored sample at
  1 - 0.05/(number of checks in the run); metrics with tolerance 0 (counts) must still agree; the rest is shown.

Better fails as worse does. Every failure is a `BaselineError` that says what to do about it.

Wiring, in the plugin:

    baselines = Baselines(config.rootpath / "baselines", rebaseline=..., reason=..., commit=...)   # pytest_configure
    baselines.open(request.path.stem.removeprefix("test_"))        # what the fixture `baseline`, scope module, returns
    errors = baselines.finish(full=...)                            # pytest_sessionfinish; any of them fails the session
    baselines.comparisons                                          # rows for the report

`RebaselineRefused` out of the constructor is a usage error. `full` is true only when every baseline test of the
repository was collected and ran as far as its checks: nothing deselected, no -x stop, no crash.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from gia import numerics
from gia.harness.baseline.compare import BaselineStale, Comparison, compare, differences, means_of, same_definition
from gia.harness.baseline.file import (
    COMMAND,
    QUANTITIES,
    BaselineCorrupt,
    BaselineError,
    Quantity,
    entry,
    load,
    write,
)
from gia.harness.protocol import Protocol
from gia.harness.run import sampled

MINIMUM_SEEDS = 4  # with fewer a prediction interval excludes next to nothing

Values = Mapping[str, Sequence[float]]


class BaselineMissing(BaselineError):
    """The cell has no entry; its values were written to `<module>.obtained.json`."""


class BaselineNonFinite(BaselineError):
    """A measured value is NaN or infinite."""


class RebaselineRefused(BaselineError):
    """--rebaseline was asked for where it must not move anything."""


class Baselines:
    """The baseline files of one run, and what must be true of them together."""

    def __init__(self, folder: Path, *, checks: int | None = None, **options: Any) -> None:
        """`options` are those of `Baseline`; `checks` defaults to the number of entries stored in the folder."""
        self.folder = folder
        self.comparisons: list[Comparison] = []
        _allow(options.get("rebaseline", False), options.get("reason"), options.get("ci"))
        self._checks = checks
        self._options = options
        self._open: dict[str, Baseline] = {}

    def open(self, module: str) -> Baseline:
        """The baseline of a test module, "batch_size" for baselines/batch_size.json; the same object each time."""
        if module not in self._open:
            if self._checks is None:
                self._checks = 0
                for path in self._stored():
                    with suppress(BaselineCorrupt):  # that file fails where it is opened
                        self._checks += len(load(path))
            path = self.folder / f"{module}.json"
            self._open[module] = Baseline(path, checks=self._checks, comparisons=self.comparisons, **self._options)
        return self._open[module]

    def finish(self, *, full: bool) -> list[BaselineError]:
        """After a full run, one error for every stored entry that nothing checked; none after a partial run."""
        errors: list[BaselineError] = []
        for path in self._stored() if full else ():
            try:
                errors += self.open(path.stem).finish()
            except BaselineCorrupt as corrupt:
                errors.append(corrupt)
        return errors

    def _stored(self) -> list[Path]:
        paths = sorted(self.folder.glob("*.json"))
        return [path for path in paths if path.name != "reported.json" and not path.stem.endswith(".obtained")]


class Baseline:
    """One file of stored samples."""

    def __init__(
        self,
        path: Path,
        *,
        rebaseline: bool = False,
        reason: str | None = None,
        ci: bool | None = None,
        checks: int | None = None,
        commit: str = "unknown",
        machine: Mapping[str, str] | None = None,
        comparisons: list[Comparison] | None = None,
    ) -> None:
        """Load and validate `path`; a file that does not exist is an empty one.

        `ci` defaults to whether the variable CI is set, `checks` to the number of entries, `machine` to this one's
        `fingerprint`, `threads` and `torch`. Raises BaselineCorrupt for a file that cannot be trusted (also with
        --rebaseline), RebaselineRefused under CI or without a reason.
        """
        _allow(rebaseline, reason, ci)
        self.path = path
        self.entries = load(path)
        self.comparisons: list[Comparison] = [] if comparisons is None else comparisons
        self._rebaseline, self._reason, self._commit = rebaseline, (reason or "").strip(), commit
        self._checks = max(1, len(self.entries) if checks is None else checks)
        self._machine = _this_machine() if machine is None else machine
        self._seen: set[str] = set()
        self._obtained: dict[str, Any] = {}

    def check_attack(self, cell: str, protocol: Protocol) -> Comparison:
        """`check` what a pinned protocol measures; PSNR decides between machines."""

        def measured_anew() -> Values:
            return sampled(protocol)

        return self.check(
            cell,
            measured_anew(),
            deciding="psnr",
            protocol=protocol.digest(),
            dtype=protocol.dtype,
            rerun=measured_anew,
        )

    def check(
        self,
        cell: str,
        values: Values,
        *,
        deciding: str,
        protocol: str,
        dtype: str = "float64",
        rerun: Callable[[], Values] | None = None,
        quantities: Mapping[str, Quantity] | None = None,
    ) -> Comparison:
        """Compare a cell's new values, metric -> one value per seed in the grid's order, with its entry.

        `protocol` is the digest of everything that was set, attack settings included; `deciding` the metric that
        decides between machines; `rerun` measures the cell once more from nothing (no cache) and is called by
        --rebaseline only; `quantities` adds to `QUANTITIES`. Name cells from a pinned grid, never from a Hypothesis
        draw. Raises a BaselineError; with --rebaseline the failing entry is replaced instead if two runs agree.
        """
        if cell in self._seen:
            raise ValueError(f"cell: expected a name not yet checked in this run, got {cell!r} again")
        self._seen.add(cell)

        def measured(numbers: Values) -> dict[str, Any]:
            known = {**QUANTITIES, **(quantities or {})}
            return entry(
                cell,
                self._sample(cell, numbers, deciding, known),
                known,
                deciding=deciding,
                protocol=protocol,
                dtype=dtype,
                machine=self._machine,
                commit=self._commit,
                reason=self._reason,
            )

        new = measured(values)
        try:
            if cell not in self.entries:
                raise self._missing(cell, new)
            comparison = compare(self._at(cell), cell, self.entries[cell], new, checks=self._checks)
        except BaselineError:
            if not self._rebaseline:
                raise
            if rerun is None:
                raise RebaselineRefused(f"{self._at(cell)}: without rerun= nothing shows that it repeats") from None
            self._replace(cell, new, measured(rerun()))
            unit = new["metrics"][deciding]["unit"]
            comparison = Comparison(cell, "stored anew", deciding, unit, means_of(new, new))
        self.comparisons.append(comparison)
        return comparison

    def finish(self) -> list[BaselineStale]:
        """One error for every entry that no check of this run asked for; with --rebaseline they are dropped instead."""
        stale = sorted(set(self.entries) - self._seen)
        if stale and self._rebaseline:
            self.entries = {cell: kept for cell, kept in self.entries.items() if cell in self._seen}
            write(self.path, self.entries)
            return []
        advice = f"is stale: no test checks it. Restore its cell in the grid, or drop it with a full run of {COMMAND}"
        return [BaselineStale(f"{self._at(cell)} {advice}") for cell in stale]

    def _at(self, cell: str) -> str:
        return f"{self.path.name}: {cell!r}"

    def _sample(
        self, cell: str, values: Values, deciding: str, known: Mapping[str, Quantity]
    ) -> dict[str, list[float]]:
        """The values as lists of finite floats."""
        sample = {metric: [float(value) for value in numbers] for metric, numbers in values.items()}
        if deciding not in sample:
            raise ValueError(f"deciding: {deciding!r} is not among the metrics of {cell!r}: {sorted(sample)}")
        if unknown := sorted(set(sample) - set(known)):
            raise ValueError(f"values: no unit known for {unknown}; pass quantities={{name: Quantity(unit, ...)}}")
        seeds = {metric: len(numbers) for metric, numbers in sample.items()}
        if len(set(seeds.values())) != 1 or seeds[deciding] < MINIMUM_SEEDS:
            raise ValueError(f"values: expected for every metric the same seeds, at least {MINIMUM_SEEDS}, got {seeds}")
        for metric, numbers in sample.items():
            if bad := [seed for seed, value in enumerate(numbers) if not math.isfinite(value)]:
                raise BaselineNonFinite(
                    f"{self._at(cell)}: {metric} is not finite at seeds {bad} of {numbers}; no baseline can hold that. "
                    "Mend the attack or the metric"
                )
        return sample

    def _missing(self, cell: str, new: dict[str, Any]) -> BaselineMissing:
        """Writes all that this run missed beside the file in which it would stand."""
        self._obtained[cell] = new
        target = self.path.with_suffix(".obtained.json")
        write(target, self._obtained)
        return BaselineMissing(f"{self._at(cell)} has no entry; its values are in {target.name}. Store them: {COMMAND}")

    def _replace(self, cell: str, new: dict[str, Any], again: dict[str, Any]) -> None:
        same_definition(self._at(cell), new, again)
        if off := [f"{metric}: {seeds}" for metric in new["metrics"] if (seeds := differences(new, again, metric))]:
            raise RebaselineRefused(
                f"{self._at(cell)}: two runs disagree by more than the tolerance ({'; '.join(off)}), so nothing was "
                "stored. Find what is random in it"
            )
        self.entries[cell] = new
        write(self.path, self.entries)


@cache
def _this_machine() -> dict[str, str]:
    """As it is inside `reproducible()`, where attacks run; the test process itself may hold more threads."""
    with numerics.reproducible():
        facts = numerics.environment()
        return {"fingerprint": numerics.fingerprint(), "threads": facts["threads"], "torch": facts["torch"]}


def _allow(rebaseline: bool, reason: str | None, ci: bool | None) -> None:
    if not rebaseline:
        return
    if bool(os.environ.get("CI")) if ci is None else ci:
        raise RebaselineRefused(
            "--rebaseline is refused under CI: move a baseline where its owner looks at the numbers"
        )
    if not (reason or "").strip():
        raise RebaselineRefused('--rebaseline needs --reason "why the numbers moved"; it is stored with them')
