"""What earlier runs in the same place say: how long each row took, and what placebos got."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gia.harness.plugin.folder import manifest


class Remaining:
    """How long the rows of a run will still take, by the wall times of earlier runs.

    Args:
        seconds: claim id -> its seconds then.
        ids: of the rows that this run has.

    >>> left = Remaining({"a": 60.0, "b": 100.0, "c": 20.0}, ["a", "b", "c", "d"])
    >>> left.text({"a": 30.0})
    'about 60 s left for 2 rows, and 1 row without an earlier time'
    """

    def __init__(self, seconds: Mapping[str, float], ids: Collection[str]) -> None:
        self._seconds, self._ids = seconds, list(ids)

    def text(self, done: Mapping[str, float]) -> str:
        """An estimate in words; empty where all is done or nothing is known.

        Args:
            done: claim id -> its seconds in this run. Their ratio to the earlier times scales the estimate, at most
                tenfold either way.
        """
        left = [id for id in self._ids if id not in done]
        known = [self._seconds[id] for id in left if id in self._seconds]
        if not known:
            return ""
        before = sum(self._seconds[id] for id in done if id in self._seconds)
        now = sum(seconds for id, seconds in done.items() if id in self._seconds)
        pace = min(max(now / before, 0.1), 10.0) if before > 1 else 1.0
        text = f"about {_duration(pace * sum(known))} left for {_rows(len(known))}"
        unknown = len(left) - len(known)
        return text + (f", and {_rows(unknown)} without an earlier time" if unknown else "")


def seconds_of_rows(runs: Path, facts: Mapping[str, object]) -> dict[str, float]:
    """Claim id -> the seconds of its test in the last run with it at this scale, in this lane, on this device."""
    found: dict[str, float] = {}
    wanted = ("scale", "device", "lane", "attack", "defense", "looks")
    for told, rows in _runs(runs):
        if all(told.get(name) == facts.get(name) for name in wanted):
            for row in rows:
                found.setdefault(row["id"], float(row.get("seconds", 0.0)))
    return found


def placebos(runs: Path, scale: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Claim id -> placebo -> its outcome and leak in the last run that put it in the place of the row's attack."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for told, rows in _runs(runs):
        for row in rows if told.get("scale") == scale else ():
            if "placebo" in row:
                said = {name: row[name] for name in ("outcome", "leak", "leak_decides")}
                found.setdefault(row["id"], {}).setdefault(row["placebo"], said)
    return found


def _runs(runs: Path) -> Iterator[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """The manifest and the rows of every run that ended, the newest first."""
    folders = sorted((path for path in runs.glob("*") if not path.is_symlink()), reverse=True)
    for folder in folders:
        told = manifest(folder)
        if told is not None and told.get("state") == "ended":
            try:
                yield told, json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _rows(number: int) -> str:
    return f"{number} {'row' if number == 1 else 'rows'}"
