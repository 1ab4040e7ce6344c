"""Two runs side by side: which verdicts moved, and which intervals no longer overlap."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gia.harness.report import charts
from gia.harness.report.rows import Row, effect


@dataclass(frozen=True)
class Pair:
    """One row in both runs; `moved` if the outcomes differ, `apart` if the intervals have no number in common."""

    before: Row
    after: Row

    @property
    def id(self) -> str:
        """Of the claim."""
        return str(self.after["id"])

    @property
    def moved(self) -> bool:
        """Whether the outcome is another one."""
        return bool(self.before["outcome"] != self.after["outcome"])

    @property
    def apart(self) -> bool:
        """Whether both runs give an interval and the two do not overlap."""
        one, other = self.before.get("interval"), self.after.get("interval")
        return one is not None and other is not None and bool(one[1] < other[0] or other[1] < one[0])

    @property
    def redrawn(self) -> bool:
        """Whether the two verdicts were decided on other blocks, or by other arithmetic."""
        return bool(self.before.get("digest", "") != self.after.get("digest", ""))


@dataclass(frozen=True)
class Comparison:
    """All rows of two runs.

    Attributes:
        pairs: the rows that both have, in the order of the later run.
        gone: ids that only the first run has.
        new: ids that only the second run has.
    """

    pairs: Sequence[Pair]
    gone: Sequence[str]
    new: Sequence[str]

    @property
    def changed(self) -> list[Pair]:
        """The rows whose outcome moved, and those whose intervals lie apart."""
        return [pair for pair in self.pairs if pair.moved or pair.apart]

    def summary(self) -> str:
        """One line of counts."""
        moved, apart = sum(pair.moved for pair in self.pairs), sum(pair.apart for pair in self.pairs)
        text = f"{len(self.pairs)} rows in both runs: {moved} verdicts moved, {apart} intervals no longer overlap"
        for name, ids in (("first", self.gone), ("second", self.new)):
            text += f"; {len(ids)} only in the {name} run" if ids else ""
        return text


def compared(before: Iterable[Row], after: Iterable[Row]) -> Comparison:
    """The comparison of the rows of two runs. A row that a run has under several placebos is compared under each.

    >>> row = {"id": "op.size", "outcome": "supported", "interval": [1.0, 2.0]}
    >>> found = compared([row], [{**row, "interval": [2.5, 3.0]}, {**row, "id": "op.depth"}])
    >>> found.summary()
    '1 rows in both runs: 0 verdicts moved, 1 intervals no longer overlap; 1 only in the second run'
    """
    old, new = ({(row["id"], row.get("placebo")): row for row in rows} for rows in (before, after))
    return Comparison(
        [Pair(old[key], row) for key, row in new.items() if key in old],
        [id for id, _ in old.keys() - new.keys()],
        [id for id, _ in new.keys() - old.keys()],
    )


def terminal(comparison: Comparison, width: int = 100) -> str:
    """The comparison as text: the rows that changed, then counts.

    >>> row = {"id": "op.size", "outcome": "supported", "effect": None}
    >>> print(terminal(compared([row], [{**row, "outcome": "refuted"}])))
    moved  op.size: supported -> refuted
    1 rows in both runs: 1 verdicts moved, 0 intervals no longer overlap
    """
    lines = []
    for pair in comparison.changed:
        mark = "moved" if pair.moved else "apart"
        outcomes = f"{pair.before['outcome']} -> {pair.after['outcome']}" if pair.moved else pair.after["outcome"]
        lines.append(f"{mark}  {pair.id}: {outcomes}")
        numbers = [number for number in (_number(pair.before), _number(pair.after)) if number]
        notes = ["intervals do not overlap"] * (pair.moved and pair.apart) + ["other blocks"] * pair.redrawn
        if text := "; ".join([" -> ".join(numbers), *notes] if numbers else notes):
            lines += textwrap.wrap(text, width, initial_indent="       ", subsequent_indent="       ")
    for name, ids in (("first", comparison.gone), ("second", comparison.new)):
        if ids:
            lines += textwrap.wrap(f"only in the {name} run: {' '.join(sorted(ids))}", width, subsequent_indent="    ")
    return "\n".join([*lines, comparison.summary()])


def view(comparison: Comparison, names: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What the page of a comparison shows.

    Args:
        names: what the numbers of the first and of the second run depend on, name -> text.
    """
    facts = [(name, names[0].get(name, "-"), names[1].get(name, "-")) for name in dict.fromkeys([*names[0], *names[1]])]
    return {
        "summary": comparison.summary(),
        "facts": facts,
        "changed": [_shown(pair) for pair in comparison.changed],
        "same": [_shown(pair) for pair in comparison.pairs if not (pair.moved or pair.apart)],
        "gone": sorted(comparison.gone),
        "new": sorted(comparison.new),
    }


def _shown(pair: Pair) -> dict[str, Any]:
    notes = ["verdict moved"] * pair.moved + ["intervals do not overlap"] * pair.apart
    return {
        "id": pair.id,
        "statement": pair.after.get("statement", ""),
        "before": pair.before["outcome"],
        "after": pair.after["outcome"],
        "numbers": [_number(pair.before) or "-", _number(pair.after) or "-"],
        "notes": [*notes, *["other blocks or other arithmetic"] * pair.redrawn],
        "chart": charts.intervals(
            [(row.get("interval"), row.get("effect")) for row in (pair.before, pair.after)], pair.after.get("margin")
        ),
    }


def _number(row: Row) -> str:
    about = {"kind": "", "interval": None, "margin": None, "unit": ""}
    return effect({**about, **row}, margin=False) if row.get("effect") is not None else ""
