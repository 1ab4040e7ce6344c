"""Placebos in the place of every attack: one pass over a block serves all, and controls run where they decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from gia.harness.blocks.block import Block
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Level, Measure
from gia.harness.blocks.results import Arrays, BlockResult
from gia.harness.decide import looks
from gia.harness.decide.looks import LOOKS
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.laboratory import Laboratory
from gia.harness.report.placebos import SABOTEUR
from gia.numerics import digest_of

Measured = TypeVar("Measured")

#: (experiment, blocks, measure) -> results.
Run = Callable[[Experiment, Sequence[Block], Measure], list[BlockResult]]

#: What `--placebo` takes in place of a name: every placebo of the laboratory, in one session.
ALL = "all"

#: So many void blocks end a look: over a third of the eight valid ones that it needs, and of these, would be void.
_HOPELESS = LOOKS[1] // 2 + 1


@dataclass(frozen=True)
class Nothing:
    """The result of a level of which only the control was asked."""

    values: Mapping[str, float | None] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def nothing(level: Any, block: Block, /, *, cache: Path | None) -> Nothing:
    """Measure nothing."""
    return Nothing()


class Placebos:
    """The placebos of a session.

    Attributes:
        names: of all.
        current: the one whose verdict the running test gives.

    Args:
        asked: one name, or `ALL`.
        laboratory: makes them.
    """

    def __init__(self, asked: str, laboratory: Laboratory) -> None:
        self.names: Sequence[str] = tuple(laboratory.PLACEBOS) if asked == ALL else (asked,)
        self.current = self.names[0]
        self._laboratory = laboratory
        self._controlled = False
        self._measured: dict[str, list[dict[str, BlockResult]]] = {}

    def applies(self, levels: Mapping[Any, Level]) -> bool:
        """Whether the current placebo can take the place of these levels' attack: a saboteur spoils a second level."""
        return self.current != SABOTEUR or len(levels) > 1

    def probe(self, id: str, levels: Mapping[Any, Level]) -> Experiment:
        """One level under the session's first placebo, which says whether a measure runs the level's attack."""
        label, level = next(iter(self._put(self.names[0], levels, False).items()))
        return Experiment(id, {label: level})

    def table(self, id: str, levels: Mapping[Any, Level], blocks: Sequence[Block], measure: Measure, run: Run) -> Table:
        """The levels under the current placebo, and their controls during the second half of `look`.

        Args:
            id, levels: the experiment as it is without placebos.
            blocks: which are measured.
            measure, run: how. Every placebo is measured by the first call for these levels and blocks.
        """
        results = [results[self.current] for results in self._together(id, levels, blocks, measure, run)]
        if self._controlled:
            own = self._put(self.current, levels, True)
            # The first failure ends a block's controls, and what a saboteur spoils is every level but the first.
            order = [*list(own)[1:], *list(own)[:1]]
            checked = run(Experiment(id, {label: own[label] for label in order}), blocks, nothing)
            results = [
                replace(result, controls=control.controls, valid=control.valid)
                for result, control in zip(results, checked, strict=True)
            ]
        return Table(Experiment(id, self._put(self.current, levels, False)), results)

    def look(
        self, measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
    ) -> tuple[Verdict, Measured]:
        """The first look. Controls cost most, so they run only where the placebo would be supported without them.

        Void blocks are replaced as in any first look. Those of a saboteur, whose leak does not count, are few where the
        first ones are all void.
        """
        seen = measured(LOOKS[1])
        verdict = decide(seen, 1)
        if verdict.outcome != "supported":
            return verdict, seen
        self._controlled = True
        try:
            if self.current == SABOTEUR:
                seen = measured(_HOPELESS)
                verdict = decide(seen, 1)
                if verdict.void >= _HOPELESS:
                    return verdict, seen
            return looks.look(measured, decide, looks=1)
        finally:
            self._controlled = False

    def _put(self, name: str, levels: Mapping[Any, Level], controlled: bool) -> dict[Any, Level]:
        put = self._laboratory.placebo(name, controlled=controlled)
        return {label: put(level, position) for position, (label, level) in enumerate(levels.items())}

    def _together(
        self, id: str, levels: Mapping[Any, Level], blocks: Sequence[Block], measure: Measure, run: Run
    ) -> list[dict[str, BlockResult]]:
        """Placebo -> result of each block. A level's placebos are measured one after the other, so they share it."""
        described = [[str(label), level.digest()] for label, level in levels.items()]
        key = digest_of([id, described, [[block.lane, block.index] for block in blocks]])
        if key not in self._measured:
            under = {name: self._put(name, levels, False) for name in self.names if name != SABOTEUR or len(levels) > 1}
            each: dict[str, Level] = {}
            place: dict[str, str] = {}  # digest of a level -> its label; a saboteur's noise is the noise of another
            for label in levels:
                for name, own in under.items():
                    if (digest := own[label].digest()) not in place:
                        place[digest] = f"{label} under {name}"
                        each[place[digest]] = own[label]
            places = {
                name: {str(label): place[level.digest()] for label, level in own.items()} for name, own in under.items()
            }
            results = run(Experiment(id, each), blocks, measure)
            self._measured[key] = [{name: _of(result, places[name]) for name in places} for result in results]
        return self._measured[key]


def _of(result: BlockResult, places: Mapping[str, str]) -> BlockResult:
    """The levels of one placebo, label -> label in the result; without pictures, whose names are those of all."""
    return replace(
        result,
        levels={label: result.levels[place] for label, place in places.items()},
        counts={label: result.counts[place] for label, place in places.items()},
        details={label: result.details[place] for label, place in places.items()},
        pictures=(),
    )
