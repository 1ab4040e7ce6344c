"""How far the same seeds move between machines and torch versions: what was measured, and what a comparison allows.

    python -m gia.harness.baseline.drift NAME=FOLDER ... [--baselines baselines]

A run of the baselines leaves its samples in the folder `samples` of its run folder. The command compares those of each
FOLDER with the stored ones, keeps the differences in `drift.json` under NAME, and prints the tables of
`baselines/README.md`: the drift of every metric, and what a planted loss does to every cell.

The rule of a cell follows from its drift:

- "each seed": where no seed moved by more than a fifth of the limit, every seed must lie within the limit;
- "median": elsewhere, and where nothing was measured, the median over seeds must. A search that is chaotic moves single
  seeds by any amount, and the median ignores up to a third of them.

The limit is half the loss that must be caught, or five times the largest drift of a median, whichever is larger.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gia.harness.baseline.file import BaselineCorrupt, is_stored, load
from gia.numerics import replacing

FILE = "drift.json"
FORMAT = 1

#: The loss that a comparison must catch, by unit. A metric in another unit is held to its tolerance on one machine.
LOSS = {"dB": 0.5}

#: How many times the measured drift a limit is; few environments were measured.
SAFETY = 5

Content = Mapping[str, Any]  # of an entry


class Allowed(NamedTuple):
    """How far the deciding metric of an entry may move between machines.

    Attributes:
        rule: "each seed" or "median": what must lie within the limit.
        limit: in the metric's unit.

    >>> Allowed("median", 0.25).exceeded([0.0, 0.1, -3.0, 0.2, 0.0, 0.1])
    False
    >>> Allowed("each seed", 0.25).exceeded([0.0, 0.1, -3.0, 0.2, 0.0, 0.1])
    True
    """

    rule: str
    limit: float

    def exceeded(self, differences: Sequence[float]) -> bool:
        """Whether new minus stored values, in the order of the seeds, move further."""
        moved = abs(np.median(differences)) if self.rule == "median" else np.max(np.abs(differences))
        return bool(moved > self.limit)

    def __str__(self) -> str:
        """As it stands in a report."""
        return f"{self.rule} within {self.limit:.3g}"


class Drift:
    """The measured differences of a folder of baselines; empty where there is no file.

    Raises BaselineCorrupt for a file that is not of the expected form.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.environments: dict[str, Any] = {}
        self._cells: dict[str, Any] = {}
        if not self._path.exists():
            return
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"expected the format {FORMAT}, got {content['format']!r}")
            self.environments, self._cells = dict(content["environments"]), dict(content["cells"])
            for cell in self._cells.values():
                if not isinstance(cell["digest"], str):
                    raise TypeError(f"expected a digest of each cell, got {cell['digest']!r}")
                np.asarray([numbers for rows in cell["differences"].values() for numbers in rows.values()], float)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, OSError) as error:
            raise BaselineCorrupt(f"{FILE} is not readable: {error!r}. Restore it from version control") from error

    def measured(self, cell: str, stored: Content) -> dict[str, dict[str, list[float]]]:
        """Environment -> metric -> one difference per seed; empty where the entry was stored for another setting."""
        found = self._cells.get(cell)
        if found is None or found["digest"] != stored["digest"]:
            return {}
        differences: dict[str, dict[str, list[float]]] = found["differences"]
        return differences

    def allowed(self, cell: str, stored: Content) -> Allowed:
        """What a comparison with this entry allows between machines."""
        deciding = stored["metrics"][stored["deciding"]]
        loss = LOSS.get(deciding["unit"])
        least = deciding["tolerance"] if loss is None else loss / 2
        moves = np.asarray([rows[stored["deciding"]] for rows in self.measured(cell, stored).values()])
        if not moves.size:
            return Allowed("median", least)
        if SAFETY * np.abs(moves).max() <= least:
            return Allowed("each seed", least)
        return Allowed("median", max(least, SAFETY * float(np.abs(np.median(moves, axis=1)).max())))

    def add(self, environment: str, machine: Mapping[str, str], cell: str, stored: Content, new: Content) -> None:
        """Keep the differences of one environment from a stored entry."""
        if not self.measured(cell, stored):
            self._cells[cell] = {"digest": stored["digest"], "differences": {}}
        self.environments[environment] = dict(machine)
        self._cells[cell]["differences"][environment] = {
            metric: [now - was for was, now in zip(row["values"], new["metrics"][metric]["values"], strict=True)]
            for metric, row in stored["metrics"].items()
        }

    def write(self) -> None:
        """Write the file whole."""
        content = {"format": FORMAT, "environments": self.environments, "cells": self._cells}
        with replacing(self._path) as partial:
            partial.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def stored_entries(folder: Path) -> dict[str, Content]:
    """FILE/ENTRY -> content of every entry of a folder of baselines."""
    paths = (path for path in sorted(folder.glob("*.json")) if is_stored(path))
    return {f"{path.stem}/{entry}": content for path in paths for entry, content in load(path).items()}


def table(drift: Drift, entries: Mapping[str, Content]) -> str:
    """The largest drift of one seed, metric by metric, and the rule that follows, as Markdown."""
    lines = ["| cell | environments | largest drift of a seed | of the median | rule |", "|---|---|---|---|---|"]
    for cell, stored in entries.items():
        found = drift.measured(cell, stored)
        if not found:
            lines.append(f"| {cell} | none | not measured | | {drift.allowed(cell, stored)} |")
            continue
        each = {name: np.asarray([rows[name] for rows in found.values()]) for name in stored["metrics"]}
        largest = ", ".join(f"{name} {np.abs(moves).max():.1g}" for name, moves in each.items())
        median = np.abs(np.median(each[stored["deciding"]], axis=1)).max()
        lines.append(f"| {cell} | {len(found)} | {largest} | {median:.1g} | {drift.allowed(cell, stored)} |")
    return "\n".join(lines)


class Power(NamedTuple):
    """Shares of simulated runs: an alarm without a loss, a loss of every seed caught, a loss of a third of them."""

    false: float
    every: float
    third: float


def power(
    allowed: Mapping[str, Allowed], spreads: Mapping[str, Sequence[float]], *, loss: float, runs: int = 2000
) -> dict[str, Power]:
    """What planted losses do to each cell; "any cell" holds the share of runs with a false alarm in at least one.

    Args:
        allowed: cell -> what its comparison allows.
        spreads: cell -> measured differences, one per seed and environment. Each simulated seed moves by twice one of
            them, with either sign, since an environment that was not measured may move further.
        loss: mean over seeds; where only a third of the seeds lose, each of those loses three times as much.
        runs: how many are simulated.

    >>> power({"toy": Allowed("each seed", 0.25)}, {"toy": [0.01] * 6}, loss=0.5)["toy"]
    Power(false=0.0, every=1.0, third=1.0)
    """
    draw, found, alarmed = np.random.default_rng(20260), {}, np.zeros(runs, dtype=bool)
    for cell, rule in allowed.items():
        measured = np.asarray(spreads[cell])
        seeds = 6
        moves = 2 * draw.choice(measured, (runs, seeds)) * draw.choice([-1.0, 1.0], (runs, seeds))
        third = 3 * loss * (np.arange(seeds) < seeds // 3)
        alarms = [np.asarray([rule.exceeded(run) for run in moves - lost]) for lost in (0.0, loss, third)]
        alarmed |= alarms[0]
        found[cell] = Power(*(float(each.mean()) for each in alarms))
    return {**found, "any cell": Power(float(alarmed.mean()), float("nan"), float("nan"))}


def power_table(drift: Drift, entries: Mapping[str, Content]) -> str:
    """`power` for the measured cells, as Markdown."""
    spreads = {}
    for cell, stored in entries.items():
        if found := drift.measured(cell, stored):
            spreads[cell] = [move for rows in found.values() for move in rows[stored["deciding"]]]
    rules = {cell: drift.allowed(cell, entries[cell]) for cell in spreads}
    shares = power(rules, spreads, loss=LOSS["dB"])
    lines = ["| cell | false alarm | every seed loses 0.5 dB | a third of the seeds lose 1.5 dB |", "|---|---|---|---|"]
    for cell, share in shares.items():
        caught = ["" if np.isnan(value) else f"{100 * value:.1f} %" for value in share]
        lines.append(f"| {cell} | {' | '.join(caught)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure the drift of the named folders against the stored samples, keep it, and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m gia.harness.baseline.drift")
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--baselines", type=Path, default=Path("baselines"))
    options = parser.parse_args(arguments)
    drift, entries = Drift(options.baselines), stored_entries(options.baselines)
    for text in options.folders:
        name, given, folder = text.partition("=")
        if not given or not Path(folder).is_dir():
            parser.error(f"folders: expected NAME=FOLDER, got {text!r}")
        for cell, new in stored_entries(Path(folder)).items():
            if cell in entries and new["protocol"] == entries[cell]["protocol"]:
                drift.add(name, new["machine"], cell, entries[cell], new)
    if options.folders:
        drift.write()
    sys.stdout.write(f"{table(drift, entries)}\n\n{power_table(drift, entries)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
