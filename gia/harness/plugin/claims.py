"""The fixture `claims`: experiments are run, decided, recorded, and compared with the register."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import Progress, run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Level, Measure
from gia.harness.blocks.store import Store, load_pictures
from gia.harness.blocks.workers import Pool, spread
from gia.harness.decide import counterexamples, verdicts
from gia.harness.decide.looks import MOST_BLOCKS, look_twice
from gia.harness.decide.register import Claim, Register
from gia.harness.decide.table import Table, Value
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.laboratory import Laboratory, Substitution
from gia.harness.report import rows
from gia.numerics import replacing

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

#: (level, label) -> the level of that label.
Change = Callable[[Any, Any], Any]
#: What decides: a metric, a function of a level's metrics, or several metrics of one level compared as if levels.
Deciding = str | Value | tuple[str, ...]


class UnexpectedOutcomeError(AssertionError):
    """A verdict is not the one that the register states."""


@dataclass(frozen=True)
class Reported:
    """The paper's numbers, level -> number, shown in the picture on axes of their own; `as_` says what they are."""

    numbers: Mapping[Any, float]
    as_: str = "the paper"


@dataclass
class Context:
    """What a session gives to its claims; the plugin fills it.

    Attributes:
        substitute: level -> the level with the user's attack, or why that attack cannot take it; None without one.
        announce: prints a line.
        progress: makes a reporter of blocks for a claim id.
        current: the running test's claim ids, its list of properties, and when it began.
    """

    register: Register
    scale: str
    device: str
    root: str | None
    folder: Path
    store: Store
    workers: int | Pool
    facts: Mapping[str, str]
    laboratory: Laboratory
    substitute: Substitution | None
    announce: Callable[[str], object]
    progress: Callable[[str], Progress | None]
    current: Callable[[], tuple[Sequence[str], list[tuple[str, object]], float]]


class Claims:
    """Runs experiments and records verdicts. A method that decides fails the test if its verdict is unexpected."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.rows: list[rows.Row] = []

    @property
    def scale(self) -> str:
        """One of the register's scales."""
        return self._context.scale

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return self._context.device

    @property
    def cache(self) -> Path:
        """The folder where networks that blocks trained are kept."""
        return self._context.store.nets

    @property
    def images(self) -> Path:
        """The run's folder for pictures; what lies there is kept with the report."""
        folder = self._context.folder / "images"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def claim(self, id: str) -> Claim:
        """The register's row. Raises ValueError for an unknown id."""
        return self._context.register.claim(id)

    def table(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        blocks: int,
        measure: Measure | None = None,
    ) -> Table:
        """Run the blocks of an experiment, or read them from the store: the same arguments give the same table.

        Args:
            id: names the experiment and seeds its blocks; usually the claim's id.
            protocol: what all levels share; what it varies is drawn per block.
            levels: the labels of what is compared inside each block; the control of the first decides whether the
                block is valid.
            change: (protocol, label) -> protocol of that level.
            blocks: how many.
            measure: (protocol, block, *, cache) -> result, at module level; by default the laboratory's own.
        """
        context = self._context
        protocol = protocol.placed(device=context.device, root=context.root)
        by_label = {label: change(protocol, label) for label in levels}
        if context.substitute is not None:
            by_label = self._substituted(by_label, measure)
        experiment = Experiment(id, by_label)
        drawn = draw_blocks(id, protocol.vary, max(blocks, MOST_BLOCKS))[:blocks]  # the space must hold a second look
        measure = measure or context.laboratory.measure
        results = run_blocks(
            experiment, drawn, context.store, measure, workers=context.workers, progress=context.progress(id)
        )
        return Table(experiment, results)

    def spread(self, id: str, function: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        """A module-level function of each item, over the session's workers; `gia.harness.blocks.workers.spread`."""
        self._skip_under_another_attack()
        reporter = self._context.progress(id)
        tick = None if reporter is None else lambda done, every: reporter(done, every, 0)
        return spread(function, items, workers=self._context.workers, tick=tick)

    def compare(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        x: Callable[[Any], float] = float,
        shown: int = 0,
        value: Deciding | None = None,
        reported: Reported | None = None,
    ) -> Verdict:
        """A trend, a pair, an effect or none, whichever kind the register names; `x` is for a trend."""
        kind = self.claim(id).kind
        if kind == "trend":
            return self.trend(id, protocol, levels=levels, change=change, x=x, value=value, reported=reported)
        if kind == "equivalence":
            return self.equivalence(
                id, protocol, levels=levels, change=change, shown=shown, value=value, reported=reported
            )
        pairs = {"paired": self.paired, "affected": self.affected}
        if kind not in pairs:
            raise ValueError(f"id: expected a claim that compares levels, got {id!r} of kind {kind!r}")
        return pairs[kind](id, protocol, levels=levels, change=change, value=value, reported=reported)

    def trend(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        x: Callable[[Any], float] = float,
        value: Deciding | None = None,
        reported: Reported | None = None,
        measure: Measure | None = None,
    ) -> Verdict:
        """A trend over ordered levels; `x` places them, in the register's unit (`math.log2` for "per doubling").

        This and the methods below take what `table` does, and:
            value: what decides; the claim's own metric by default.
            reported: the paper's numbers, drawn next to ours.
        """
        places = [x(level) for level in levels]

        def decide(claim: Claim, table: Table, values: np.ndarray, look: Look) -> Verdict:
            return verdicts.trend(claim, places, values, void=table.void, look=look)

        return self._decide(id, "trend", self._blocks(id, protocol, levels, change, measure), decide, value, reported)

    def paired(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        value: Deciding | None = None,
        reported: Reported | None = None,
        measure: Measure | None = None,
    ) -> Verdict:
        """The second level against the first, block by block; further levels are shown."""
        return self.paired_of(id, self._blocks(id, protocol, levels, change, measure), value=value, reported=reported)

    def paired_of(
        self,
        id: str,
        blocks: Callable[[int], Table],
        *,
        value: Deciding | None = None,
        reported: Reported | None = None,
    ) -> Verdict:
        """As `paired`, on a table that is made of others: `blocks` takes their number."""

        def decide(claim: Claim, table: Table, values: np.ndarray, look: Look) -> Verdict:
            return verdicts.paired(claim, *_two(values), void=table.void, look=look)

        return self._decide(id, "paired", blocks, decide, value, reported)

    def affected(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        value: Deciding | None = None,
        reported: Reported | None = None,
        measure: Measure | None = None,
    ) -> Verdict:
        """Whether the second level differs from the first, in either direction; further levels are shown."""

        def decide(claim: Claim, table: Table, values: np.ndarray, look: Look) -> Verdict:
            return verdicts.affected(claim, *_two(values), void=table.void, look=look)

        return self._decide(
            id, "affected", self._blocks(id, protocol, levels, change, measure), decide, value, reported
        )

    def equivalence(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        shown: int = 0,
        value: Deciding | None = None,
        reported: Reported | None = None,
        measure: Measure | None = None,
    ) -> Verdict:
        """Each level against the first: no effect beyond the margin. The last `shown` levels are not judged."""

        def decide(claim: Claim, table: Table, values: np.ndarray, look: Look) -> Verdict:
            return verdicts.equivalence(claim, values[:, : values.shape[1] - shown], void=table.void, look=look)

        blocks = self._blocks(id, protocol, levels, change, measure)
        return self._decide(id, "equivalence", blocks, decide, value, reported)

    def count(
        self,
        id: str,
        protocol: Level,
        *,
        levels: Sequence[Any],
        change: Change,
        claimed: float | Sequence[float] | None = None,
        value: Deciding | None = None,
        measure: Measure | None = None,
    ) -> Verdict:
        """The metric is the claimed number, one for all levels or one for each; the register's number by default."""

        def decide(claim: Claim, table: Table, values: np.ndarray, look: Look) -> Verdict:
            return verdicts.count(claim, values, claimed=claimed, void=table.void, look=look)

        return self._decide(id, "count", self._blocks(id, protocol, levels, change, measure), decide, value, None)

    def universal(
        self,
        id: str,
        check: Callable[..., float],
        strategies: Mapping[str, Any],
        *,
        examples: Sequence[Mapping[str, Any]] = (),
        minimum: int = counterexamples.MINIMUM,
    ) -> Verdict:
        """`gia.harness.decide.counterexamples.universal` on the register's row, recorded."""
        self._skip_under_another_attack()
        return self.record(
            counterexamples.universal(self.claim(id), check, strategies, examples=examples, minimum=minimum)
        )

    def exact(
        self,
        id: str,
        check: Callable[..., float],
        strategies: Mapping[str, Any],
        *,
        examples: Sequence[Mapping[str, Any]] = (),
        minimum: int = counterexamples.MINIMUM,
    ) -> Verdict:
        """`gia.harness.decide.counterexamples.exact` on the register's row, recorded."""
        self._skip_under_another_attack()
        return self.record(counterexamples.exact(self.claim(id), check, strategies, examples=examples, minimum=minimum))

    def record(self, verdict: Verdict, *, tables: Sequence[Table] = (), pictures: Sequence[Path] = ()) -> Verdict:
        """Put a verdict on record, then raise UnexpectedOutcomeError if it is not the expected one.

        Where the user's attack takes the place of the protocols' own, nothing is compared with the register, and a
        verdict without tables is skipped: it runs no attack.

        Args:
            verdict: of a claim that the running test is marked with.
            tables: the blocks behind it; their cached ones are counted.
            pictures: files in `images` to show with it.

        Raises ValueError for a second verdict on one claim, or where the running test is not marked with its id.
        """
        if not tables:
            self._skip_under_another_attack()
        claim = self.claim(verdict.id)
        ids, properties, began = self._context.current()
        if claim.id not in ids:
            raise ValueError(f"id: expected the running test to be marked claim({claim.id!r}), got {list(ids)}")
        if any(row["id"] == claim.id for row in self.rows):
            raise ValueError(f"id: expected one verdict on each row in a run, got a second one on {claim.id!r}")
        row = rows.row(
            claim,
            verdict,
            scale=self.scale,
            seconds=time.perf_counter() - began,
            cached=sum(table.cached for table in tables),
            tables=[table.described() for table in tables],
            pictures=[path.relative_to(self._context.folder).as_posix() for path in pictures],
            **self._context.facts,
        )
        if self._context.substitute is not None:
            row |= {"expected": None, "reason": ""}
        self.rows.append(row)
        properties += [(f"claim.{name}", row[name]) for name in _PROPERTIES]
        self.write()
        self._context.announce(rows.line(row))
        if not rows.as_expected(row):
            raise UnexpectedOutcomeError(
                f"{rows.line(row)}\n  claim: {claim.statement}\n"
                f"  measured at {self.scale} scale: {verdict.measured}; {row['why']}\n"
                f"  the register expects {row['expected']!r} because: {row['reason']}\n"
                "  If the measurement is right, move `expected` in a commit that states this evidence."
            )
        return verdict

    def write(self) -> None:
        """Write verdicts.json with what is finished."""
        self._context.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._context.folder / "verdicts.json") as partial:
            partial.write_text(rows.to_json(self.rows), encoding="utf-8")

    def draw(
        self, id: str, table: Table, value: Deciding | None = None, *, reported: Reported | None = None
    ) -> list[Path]:
        """The metric over the levels, and the images of the first valid block, whatever they look like."""
        claim = self.claim(id)
        value = value or claim.metric
        if not table.valid:
            return []
        first = table.valid[0]
        shown = {name: array for name, array in load_pictures(first).items() if name.split("/")[0] in first.levels}
        return self._context.laboratory.draw(
            self.images,
            claim.id,
            table.values(value),
            levels=list(value) if isinstance(value, tuple) else table.levels,
            metric=claim.metric,
            title=f"{claim.id}, {self.scale} scale",
            details=[detail for result in table.valid for detail in result.details.values()],
            arrays=shown,
            reported={str(level): number for level, number in reported.numbers.items()} if reported else {},
            reported_as=reported.as_ if reported else "",
        )

    def _blocks(
        self, id: str, protocol: Level, levels: Sequence[Any], change: Change, measure: Measure | None
    ) -> Callable[[int], Table]:
        return lambda count: self.table(id, protocol, levels=levels, change=change, blocks=count, measure=measure)

    def _decide(
        self,
        id: str,
        kind: str,
        blocks: Callable[[int], Table],
        decide: Callable[[Claim, Table, np.ndarray, Look], Verdict],
        value: Deciding | None,
        reported: Reported | None,
    ) -> Verdict:
        claim = self.claim(id)
        if claim.kind != kind:
            raise ValueError(f"id: expected a claim of kind {kind!r}, got {id!r} of kind {claim.kind!r}")
        verdict, table = look_twice(
            blocks, lambda table, look: decide(claim, table, table.values(value or claim.metric), look)
        )
        return self.record(verdict, tables=[table], pictures=self.draw(id, table, value, reported=reported))

    def _skip_under_another_attack(self) -> None:
        """A row that runs no protocol's attack says nothing about the attack that takes its place."""
        if self._context.substitute is not None:
            pytest.skip("not tried: this row runs no attack of a protocol")

    def _substituted(self, levels: Mapping[Any, Level], measure: Measure | None) -> dict[Any, Level]:
        """The levels with the user's attack. A row that the attack cannot take is skipped, with the reason."""
        assert self._context.substitute is not None
        if measure is not None:
            self._skip_under_another_attack()
        new = {label: self._context.substitute(level) for label, level in levels.items()}
        for reason in new.values():
            if isinstance(reason, str):
                pytest.skip(f"not tried: {reason}")
        if len({level.digest() for level in new.values()}) < len(new):
            pytest.skip("not tried: the levels of this row differ only in the attack that was replaced")
        return new


_PROPERTIES = ("id", "outcome", "expected", "effect", "unit", "interval", "margin", "blocks", "void", "cached", "scale")


def _two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if values.shape[1] < 2:
        raise ValueError(f"levels: expected at least two, A and B, got {values.shape[1]}")
    return values[:, 0], values[:, 1]
