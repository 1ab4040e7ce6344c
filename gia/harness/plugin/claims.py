"""The fixture `claims`: experiments are run, decided, recorded, and compared with the register."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

from gia.harness.blocks.level import Level, Measure
from gia.harness.blocks.store import load_pictures
from gia.harness.blocks.workers import spread
from gia.harness.decide import counterexamples
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.context import Context
from gia.harness.plugin.deciding import COMPARING, Change, Deciding, Reported, Row, Rule, decided
from gia.harness.plugin.looking import Looking
from gia.harness.plugin.measuring import Measuring
from gia.harness.plugin.plan import Plan
from gia.harness.plugin.recording import Recording
from gia.harness.plugin.skips import Skips
from gia.harness.report.layout import Figure

__all__ = ["Claims", "Deciding", "Reported"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Measured = TypeVar("Measured")


class Claims:
    """Runs experiments and records verdicts. A method that decides fails the test if a record contradicts it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.recording = Recording(context)
        self.skips = Skips(context, self.recording)
        self._measuring = Measuring(context, self.skips)
        self._looking = Looking(context, self._measuring, self.skips)

    @property
    def scale(self) -> str:
        """One of the register's scales."""
        return self._context.scale

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return self._context.device

    @property
    def placebo(self) -> str | None:
        """The placebo in the place of every attack; None where the attacks run."""
        return None if self._context.placebos is None else self._context.placebos.current

    @property
    def plan(self) -> Plan | None:
        """What rows cost, where nothing is measured; None where rows are measured."""
        return self._context.plan

    @property
    def looks(self) -> int:
        """How many looks at a row this run may take, 1 to 3."""
        return self._context.lane.looks

    @property
    def cache(self) -> Path:
        """The folder where networks that blocks trained are kept."""
        return self._context.store.nets

    @property
    def images(self) -> Path:
        """The run's folder for pictures; what lies there is kept with the report."""
        return self._context.images

    def claim(self, id: str) -> Claim:
        """The register's row. Raises ValueError for an unknown id."""
        return self._context.claim(id)

    def tries(self, id: str) -> int:
        """Which confirm run of a row this is, which widens its intervals; 1 in other lanes."""
        return self._context.tries(id)

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
            levels: the labels of what is compared inside each block; a block is valid if every level's control passes.
            change: (protocol, label) -> protocol of that level.
            blocks: how many.
            measure: (protocol, block, *, cache) -> result, at module level; by default the laboratory's own.
        """
        return self._measuring.table(id, protocol, levels, change, blocks, measure)

    def look(
        self, measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
    ) -> tuple[Verdict, Measured]:
        """The verdict after as many looks as this run may take, and what it was decided on.

        In the lane "confirm" a verdict must also hold at four times each attack's budget.

        Args:
            measured: how many blocks -> what is decided on: a table, or tables in a sequence or a mapping.
            decide: (that, look) -> verdict.
        """
        return self._looking.look(measured, decide)

    def compare(self, id: str, protocol: Level, **row: Unpack[Row]) -> Verdict:
        """A trend, a pair, an effect or none, whichever kind the register names.

        This and the methods below take what `table` does, and (`gia.harness.plugin.deciding.Rule`):
            value: what decides; the claim's own metric by default.
            x: places the levels of a trend, in the register's unit (`math.log2` for "per doubling").
            shown: how many of the last levels of an equivalence are shown and not judged.
            claimed: of a count, one number for all levels or one for each; the register's number by default.
            reported: the paper's numbers, drawn next to ours.
        """
        if (kind := self.claim(id).kind) not in COMPARING:
            raise ValueError(f"id: expected a claim that compares levels, got {id!r} of kind {kind!r}")
        return self._decide(kind, id, self._blocks(id, protocol, row), row)

    def trend(self, id: str, protocol: Level, **row: Unpack[Row]) -> Verdict:
        """A trend over ordered levels."""
        return self._decide("trend", id, self._blocks(id, protocol, row), row)

    def paired(self, id: str, protocol: Level, **row: Unpack[Row]) -> Verdict:
        """The second level against the first, block by block; further levels are shown."""
        return self._decide("paired", id, self._blocks(id, protocol, row), row)

    def paired_of(
        self,
        id: str,
        blocks: Callable[[int], Table],
        *,
        value: Deciding | None = None,
        reported: Reported | None = None,
    ) -> Verdict:
        """As `paired`, on a table that is made of others: `blocks` takes their number."""
        return self._decide("paired", id, blocks, {"value": value, "reported": reported})

    def affected(self, id: str, protocol: Level, **row: Unpack[Row]) -> Verdict:
        """Whether the second level differs from the first, in either direction; further levels are shown."""
        return self._decide("affected", id, self._blocks(id, protocol, row), row)

    def equivalence(self, id: str, protocol: Level, **row: Unpack[Row]) -> Verdict:
        """Each level against the first: no effect beyond the margin."""
        return self._decide("equivalence", id, self._blocks(id, protocol, row), row)

    def count(self, id: str, protocol: Level, **row: Unpack[Row]) -> Verdict:
        """The metric is the claimed number."""
        return self._decide("count", id, self._blocks(id, protocol, row), row)

    def without_attack(self) -> None:
        """End the test of a row that runs no attack of a protocol, where this run says nothing about such rows.

        The methods below begin with it. A test that computes a verdict by itself calls it first, and saves that work.
        """
        self.skips.without_attack()

    def universal(
        self,
        id: str,
        check: counterexamples.Check,
        strategies: counterexamples.Strategies,
        *,
        examples: Sequence[counterexamples.Example] = (),
        minimum: int = counterexamples.MINIMUM,
    ) -> Verdict:
        """`gia.harness.decide.counterexamples.universal` on the register's row, recorded."""
        self.without_attack()
        claim = self.claim(id)
        check = self._attending(check)
        return self.record(counterexamples.universal(claim, check, strategies, examples=examples, minimum=minimum))

    def exact(
        self,
        id: str,
        check: counterexamples.Check,
        strategies: counterexamples.Strategies,
        *,
        examples: Sequence[counterexamples.Example] = (),
        minimum: int = counterexamples.MINIMUM,
    ) -> Verdict:
        """`gia.harness.decide.counterexamples.exact` on the register's row, recorded."""
        self.without_attack()
        claim = self.claim(id)
        check = self._attending(check)
        return self.record(counterexamples.exact(claim, check, strategies, examples=examples, minimum=minimum))

    def spread(self, id: str, function: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        """A module-level function of each item, over the session's workers; `gia.harness.blocks.workers.spread`."""
        self.without_attack()
        reporter = self._context.progress(id)
        tick = None if reporter is None else lambda done, every: reporter(done, every, 0)
        return spread(function, items, workers=self._context.workers, tick=tick)

    def record(
        self,
        verdict: Verdict,
        *,
        tables: Sequence[Table] = (),
        pictures: Sequence[Path] = (),
        figures: Sequence[Figure] = (),
    ) -> Verdict:
        """Report a verdict, and compare it with the records, or put it there.

        Where a placebo or the user's attack takes the place of the protocols' own, nothing is compared, and a verdict
        without tables is skipped: it runs no attack.

        Args:
            verdict: of a claim that the running test is marked with.
            tables: the blocks behind it; their cached ones are counted.
            pictures: files in `images` to show with it.
            figures: further drawings, for the HTML report.

        Raises:
            ValueError: for a second verdict on one claim, or where the running test is not marked with its id.
            UnexpectedOutcomeError: if the record of this lane has another outcome for these blocks, or another lane the
                contrary one.
        """
        if not tables:
            self.without_attack()
        witness = self._looking.witnesses.get(verdict.id, ())
        return self.recording.record(verdict, tables, pictures, figures, witness)

    def draw(
        self, id: str, table: Table, value: Deciding | None = None, *, reported: Reported | None = None
    ) -> list[Path]:
        """The metric over the levels, and the images of the first valid block, whatever they look like."""
        claim = self.claim(id)
        value = value or claim.metric
        if not table.valid or self._context.placebos is not None or self._context.storing:
            return []
        first = table.valid[0]
        shown = {name: array for name, array in load_pictures(first).items() if name.split("/")[0] in first.levels}
        numbers = {str(level): number for level, number in reported.numbers.items()} if reported else {}
        self.recording.drawn[id] = {
            "levels": list(value) if isinstance(value, tuple) else table.levels,
            "values": table.values(value).tolist(),
            "reported": numbers,
            "reported_as": reported.as_ if reported else "",
            "arrays": shown,
        }
        return self._context.laboratory.draw(
            self.images,
            claim.file,
            table.values(value),
            levels=list(value) if isinstance(value, tuple) else table.levels,
            metric=claim.metric,
            title=f"{claim.id}, {self.scale} scale",
            details=[detail for result in table.valid for detail in result.details.values()],
            arrays=shown,
            reported=numbers,
            reported_as=reported.as_ if reported else "",
        )

    def _attending(self, check: counterexamples.Check) -> counterexamples.Check:
        """The check, and a look at workers before each example: they compute rows to come meanwhile."""
        workers = self._context.workers
        if isinstance(workers, int):
            return check

        def attending(**example: Any) -> float:
            workers.attend()
            return check(**example)

        return attending

    def _blocks(self, id: str, protocol: Level, row: Row) -> Callable[[int], Table]:
        return lambda blocks: self._measuring.table(
            id, protocol, row["levels"], row["change"], blocks, row.get("measure")
        )

    def _decide(self, kind: str, id: str, blocks: Callable[[int], Table], rule: Rule) -> Verdict:
        claim = self.claim(id)
        if claim.kind != kind:
            raise ValueError(f"id: expected a claim of kind {kind!r}, got {id!r} of kind {claim.kind!r}")
        verdict, table = self.look(blocks, lambda table, look: decided(claim, table, look, self.tries(id), rule))
        pictures = self.draw(id, table, rule.get("value"), reported=rule.get("reported"))
        return self.record(verdict, tables=[table], pictures=pictures)
