"""The fixture `claims`: experiments are run, decided, recorded, and compared with the register."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import pytest

from gia.harness.blocks.block import Block
from gia.harness.blocks.drawing import draw_blocks
from gia.harness.blocks.executor import Progress, run_blocks
from gia.harness.blocks.experiment import Experiment
from gia.harness.blocks.level import Level, Measure
from gia.harness.blocks.results import BlockResult
from gia.harness.blocks.store import Store, load_pictures
from gia.harness.blocks.workers import Pool, spread
from gia.harness.decide import counterexamples, looks, verdicts
from gia.harness.decide.looks import LOOKS, MOST_DRAWN
from gia.harness.decide.record import record_of
from gia.harness.decide.register import Claim, Register
from gia.harness.decide.table import Table, Value
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin import reach
from gia.harness.plugin.confirm import BUDGET, BUDGET_DEPENDENT, Confirm, budget_dependent
from gia.harness.plugin.laboratory import Laboratory, Substitution
from gia.harness.plugin.lanes import DRAWN_AGAIN, Lane
from gia.harness.plugin.placebos import Placebos
from gia.harness.plugin.records import Records
from gia.harness.report import rows
from gia.numerics import digest_of, fingerprint, replacing

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Measured = TypeVar("Measured")

#: (level, label) -> the level of that label.
Change = Callable[[Any, Any], Any]
#: What decides: a metric, a function of a level's metrics, or several metrics of one level compared as if levels.
Deciding = str | Value | tuple[str, ...]


#: Added to the index of a setting that is drawn again: other images, victims and starts.
_AGAIN = 1000

#: What a verdict says instead of an outcome where a run only asks how far a claim reaches.
_REACH = "reach"


class UnexpectedOutcomeError(AssertionError):
    """A verdict contradicts the one on record."""


@dataclass(frozen=True)
class Reported:
    """The paper's numbers, level -> number, shown in the picture on axes of their own; `as_` says what they are."""

    numbers: Mapping[Any, float]
    as_: str = "the paper"


@dataclass
class Context:
    """What a session gives to its claims; the plugin fills it.

    Attributes:
        lane: which blocks are drawn, and how often they are looked at.
        records: of earlier runs.
        confirm: which rows may be confirmed; None in another lane.
        store_because: why this run's verdicts go on record; None where they are compared with it.
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
    lane: Lane
    records: Records
    confirm: Confirm | None
    store_because: str | None
    substitute: Substitution | None
    announce: Callable[[str], object]
    progress: Callable[[str], Progress | None]
    current: Callable[[], tuple[Sequence[str], list[tuple[str, object]], float]]


class Claims:
    """Runs experiments and records verdicts. A method that decides fails the test if a record contradicts it.

    Attributes:
        rows: one per verdict.
        announced: claim id -> digest of its protocol, where confirm runs are only announced.
        placebos: what takes the place of each attack; None where the attacks run.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        placebo = context.lane.placebo
        self.placebos = None if placebo is None else Placebos(placebo, context.laboratory)
        self.rows: list[rows.Row] = []
        self.announced: dict[str, str] = {}
        self._asked: dict[tuple[str, ...], set[str]] = {}  # ids of a test -> digests of its experiments
        self._budget = 1  # a factor of every attack's budget
        self._has_budget = False
        self._again = False  # whether the settings of reach are drawn again
        self._repeated: tuple[Verdict, list[Table]] | None = None

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
            levels: the labels of what is compared inside each block; a block is valid if every level's control passes.
            change: (protocol, label) -> protocol of that level.
            blocks: how many.
            measure: (protocol, block, *, cache) -> result, at module level; by default the laboratory's own.
        """
        context, lane, measure = self._context, self._context.lane, measure or self._context.laboratory.measure
        protocol = protocol.placed(device=context.device, root=context.root)
        by_label = {label: change(protocol, label) for label in levels}
        if self._budget != 1:
            by_label = {label: self._with_budget(level) for label, level in by_label.items()}
        if context.substitute is not None:
            by_label = self._substituted(by_label, measure)
        experiment = Experiment(id, by_label)
        if lane.opening:
            described = [[str(label), level.described()] for label, level in by_label.items()]
            self._asked.setdefault(tuple(context.current()[0]), set()).add(digest_of([id, described]))
            return Table(experiment, [])
        frozen = None if context.confirm is None else context.confirm.frozen(context.current()[0][0])
        drawn = draw_blocks(id, protocol.vary, blocks, lane=lane.of_blocks(id, frozen))
        if self._again:
            drawn = [replace(block, index=block.index + _AGAIN) for block in drawn]

        def run(experiment: Experiment, blocks: Sequence[Block], measure: Measure) -> list[BlockResult]:
            return run_blocks(
                experiment,
                blocks,
                context.store,
                measure,
                workers=context.workers,
                progress=context.progress(id),
                void_too=lane.void_too,
            )

        if self.placebos is None:
            return Table(experiment, run(experiment, drawn, measure))
        if not self.placebos.applies(by_label):
            self._not_applicable("the saboteur needs a second level to spoil")
        if measure is not context.laboratory.measure:
            (first,) = run(self.placebos.probe(id, by_label), drawn[:1], measure)
            if not any("placebo" in details for details in first.details.values()):
                self._without_attack()
        return self.placebos.table(id, by_label, drawn, measure, run)

    def look(
        self, measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
    ) -> tuple[Verdict, Measured]:
        """The verdict after as many looks as this run may take, and what it was decided on.

        In the lane "confirm" a verdict must also hold at four times each attack's budget.

        Args:
            measured: how many blocks -> what is decided on: a table, or tables in a sequence or a mapping.
            decide: (that, look) -> verdict.
        """
        lane = self._context.lane
        if lane.opening:
            measured(LOOKS[1])
            self._announce()
        if self.placebos is not None:
            return self.placebos.look(measured, decide)
        if lane.name == "reach":
            seen = measured(lane.draws)
            self._again = True
            try:
                again = measured(DRAWN_AGAIN)
            finally:
                self._again = False
            self._repeated = decide(again, 1), _tables(again)
            return decide(seen, 1), seen
        confirm = self._context.confirm
        if confirm is None:
            return looks.look(measured, decide, looks=lane.looks)
        verdict, seen = looks.look(measured, decide, looks=lane.looks)
        if verdict.detail.get("tries", 1) != self.tries(verdict.id):
            raise ValueError(f"decide: expected a verdict with tries=claims.tries({verdict.id!r}), got one without")
        return self._checked_budget(verdict, measured, decide), seen

    def tries(self, id: str) -> int:
        """Which confirm run of a row this is, which widens its intervals; 1 in other lanes."""
        return 1 if self._context.confirm is None else max(1, self._context.records.ledger.tries(id))

    def spread(self, id: str, function: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        """A module-level function of each item, over the session's workers; `gia.harness.blocks.workers.spread`."""
        self._without_attack()
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
            room = _room(claim, table, len(places))
            return verdicts.trend(claim, places, values, room=room, void=table.void, look=look, tries=self.tries(id))

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
            return verdicts.paired(
                claim, *_two(values), room=_room(claim, table, 2), void=table.void, look=look, tries=self.tries(id)
            )

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
            return verdicts.affected(
                claim, *_two(values), room=_room(claim, table, 2), void=table.void, look=look, tries=self.tries(id)
            )

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
            judged = values.shape[1] - shown
            room = _room(claim, table, judged)
            return verdicts.equivalence(
                claim, values[:, :judged], room=room, void=table.void, look=look, tries=self.tries(id)
            )

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
            room = _room(claim, table, values.shape[1])
            return verdicts.count(
                claim, values, claimed=claimed, room=room, void=table.void, look=look, tries=self.tries(id)
            )

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
        self._without_attack()
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
        self._without_attack()
        return self.record(counterexamples.exact(self.claim(id), check, strategies, examples=examples, minimum=minimum))

    def record(self, verdict: Verdict, *, tables: Sequence[Table] = (), pictures: Sequence[Path] = ()) -> Verdict:
        """Report a verdict, and compare it with the records, or put it there.

        Where a placebo or the user's attack takes the place of the protocols' own, nothing is compared, and a verdict
        without tables is skipped: it runs no attack.

        Args:
            verdict: of a claim that the running test is marked with.
            tables: the blocks behind it; their cached ones are counted.
            pictures: files in `images` to show with it.

        Raises:
            ValueError: for a second verdict on one claim, or where the running test is not marked with its id.
            UnexpectedOutcomeError: if the record of this lane has another outcome for these blocks, or another lane the
                contrary one.
        """
        if not tables:
            self._without_attack()
        context, claim = self._context, self.claim(verdict.id)
        ids, properties, began = context.current()
        if claim.id not in ids:
            raise ValueError(f"id: expected the running test to be marked claim({claim.id!r}), got {list(ids)}")
        if self.decided(claim.id):
            raise ValueError(f"id: expected one verdict on each row in a run, got a second one on {claim.id!r}")
        digests = [table.digest() for table in tables]
        # Other arithmetic gives other numbers from the same settings, so its blocks are not the same.
        digest = digest_of([*digests, fingerprint()]) if digests else ""
        if context.lane.name == "reach":
            verdict, pictures = self._reached(claim, verdict, tables, digest)
        own = context.substitute is None and self.placebos is None
        row = rows.row(
            claim,
            verdict,
            scale=self.scale,
            seconds=time.perf_counter() - began,
            cached=sum(table.cached for table in tables),
            digest=digest,
            tables=[table.described() for table in tables],
            pictures=[path.relative_to(context.folder).as_posix() for path in pictures],
            history=context.records.ledger.history(claim.id) if own else "",
            recorded=context.records.rows(context.lane.name).get(claim.id) if own else None,
            reach=context.records.rows("reach").get(claim.id) if own else None,
            **context.facts,
        )
        if self.placebos is not None:
            metric = claim.metric if claim.leak else "leak"
            row |= {"placebo": self.placebos.current, "leak": _largest(tables, metric), "leak_decides": claim.leak}
        elif own and context.lane.name in ("claims", "confirm"):
            row |= self._held_against_records(claim, verdict, digest)
        self.rows.append(row)
        properties += [(f"claim.{name}", row[name]) for name in _PROPERTIES]
        self.write()
        if self.placebos is None:  # else the matrix at the end has a cell for each
            context.announce(rows.line(row))
        if row["disagrees"]:
            raise UnexpectedOutcomeError(
                f"{row['disagrees']}\n  claim: {claim.statement}\n"
                f"  measured at {self.scale} scale: {verdict.measured}; {row['why']}\n"
                f"  {rows.line(row)}\n"
                '  If the measurement is right, put it on record: --gia-record --gia-reason "why it moved".'
            )
        return verdict

    def decided(self, id: str) -> bool:
        """Whether there is a verdict on this row, under the current placebo where there is one."""
        placebo = None if self.placebos is None else self.placebos.current
        return any((row["id"], row.get("placebo")) == (id, placebo) for row in self.rows)

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
        if not table.valid or self.placebos is not None:
            return []
        first = table.valid[0]
        shown = {name: array for name, array in load_pictures(first).items() if name.split("/")[0] in first.levels}
        return self._context.laboratory.draw(
            self.images,
            claim.file,
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
        verdict, table = self.look(
            blocks, lambda table, look: decide(claim, table, table.values(value or claim.metric), look)
        )
        return self.record(verdict, tables=[table], pictures=self.draw(id, table, value, reported=reported))

    def _held_against_records(self, claim: Claim, verdict: Verdict, digest: str) -> dict[str, str]:
        """Compare a verdict with the records, or store it: what its row says of that."""
        context = self._context
        records, lane = context.records, context.lane.name
        now = record_of(verdict, digest=digest, commit=context.facts["commit"])
        before = records.rows(lane).get(claim.id)
        if lane == "confirm":
            entry = records.ledger.opened(claim.id)
            assert entry is not None  # else the row is not run
            if before is None or before["frozen"] != entry.commit:
                records.store(lane, claim.id, {**now, "frozen": entry.commit, "protocol": entry.digest})
                after, reason = verdict.outcome, f"{rows.effect(rows.row(claim, verdict, scale='', seconds=0))}".strip()
                records.enter(
                    "confirmed",
                    claim.id,
                    digest=digest,
                    before="" if before is None else before["outcome"],
                    after=after,
                    reason=f"{verdict.detail.get('reason', '')}: {reason}".strip(": ") or "no number",
                )
                return {}
        elif context.store_because is not None:
            records.store(lane, claim.id, now)
            if before is not None and (before["outcome"], before["digest"]) != (verdict.outcome, digest):
                records.enter(
                    "changed",
                    claim.id,
                    digest=digest,
                    before=before["outcome"],
                    after=verdict.outcome,
                    reason=context.store_because,
                )
            return {}
        disagrees, notice = records.compared(verdict, digest=digest, lane=lane)
        return {"disagrees": disagrees, "notice": notice}

    def _reached(
        self, claim: Claim, verdict: Verdict, tables: Sequence[Table], digest: str
    ) -> tuple[Verdict, list[Path]]:
        """Store the reach of a row that compares levels, and draw it; other rows are skipped."""
        repeated, self._repeated = self._repeated, None
        if claim.kind not in reach.KINDS or repeated is None:
            pytest.skip("no reach: this row compares no levels in a space of settings")
        first, again = reach.draws(claim, verdict, tables), reach.draws(claim, *repeated)
        entry = reach.described(claim, first, again)
        stored = {**entry, "digest": digest, "commit": self._context.facts["commit"]}
        self._context.records.store(_REACH, claim.id, stored)
        pictures = self._context.laboratory.draw_reach(
            self.images, claim.file, entry["draws"], margin=claim.margin, unit=claim.unit
        )
        return replace(verdict, outcome=_REACH, measured=rows.reach(entry["shares"])), pictures

    def _checked_budget(
        self, verdict: Verdict, measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
    ) -> Verdict:
        """The verdict, inconclusive if its first eight valid blocks say something else at another budget."""
        if verdict.outcome == "inconclusive":
            return verdict
        eight = next(n for n in range(LOOKS[1], MOST_DRAWN + 1) if decide(measured(n), 1).blocks == LOOKS[1])
        self._budget, self._has_budget = BUDGET, False
        try:
            again = decide(measured(eight), 1)
        finally:
            self._budget = 1
        if not self._has_budget:
            return verdict
        if budget_dependent(self.claim(verdict.id), verdict, again):
            number = "no path works" if again.effect is None else f"{again.effect:+.3g} {verdict.unit}"
            reason = f"{BUDGET_DEPENDENT}: {number} at {BUDGET} times the budget"
            return replace(verdict, outcome="inconclusive", detail={**verdict.detail, "reason": reason})
        return verdict

    def _with_budget(self, level: Any) -> Any:
        """The level at the budget of this moment; itself where its attack has none."""
        changed = level.with_budget(self._budget)
        self._has_budget |= changed is not None
        return level if changed is None else changed

    def _announce(self) -> NoReturn:
        """Keep the digests of the running test's rows, and end it: in this run nothing is measured."""
        ids = tuple(self._context.current()[0])
        for id in ids:
            self.announced[id] = digest_of([_register_facts(self.claim(id)), sorted(self._asked.get(ids, ()))])
        pytest.skip("only announced")

    def _without_attack(self) -> None:
        """End a test that runs no protocol's attack, where it says nothing about what takes the place of those."""
        context = self._context
        if context.lane.opening:
            self._announce()
        if context.substitute is not None:
            pytest.skip("not tried: this row runs no attack of a protocol")
        if context.lane.name == "reach":
            pytest.skip("no reach: this row compares no levels in a space of settings")
        if self.placebos is not None:
            self._not_applicable("this row calls no attack")

    def _not_applicable(self, reason: str) -> NoReturn:
        """End a test that the current placebo has nothing to do with."""
        assert self.placebos is not None
        for id in self._context.current()[0]:
            claim = self.claim(id)
            none = Verdict(id, rows.NOT_APPLICABLE, None, claim.unit, None, 0, 0, 1, None, "", reason, {})
            row = {**rows.row(claim, none, scale=self.scale, seconds=0.0), **self._context.facts}
            if not self.decided(id):
                self.rows.append({**row, "placebo": self.placebos.current, "leak": None, "leak_decides": claim.leak})
        self.write()
        pytest.skip(f"not applicable: {reason}")

    def _substituted(self, levels: Mapping[Any, Level], measure: Measure) -> dict[Any, Level]:
        """The levels with the user's attack. A row that the attack cannot take is skipped, with the reason."""
        assert self._context.substitute is not None
        if measure is not self._context.laboratory.measure:
            self._without_attack()
        new = {label: self._context.substitute(level) for label, level in levels.items()}
        for reason in new.values():
            if isinstance(reason, str):
                pytest.skip(f"not tried: {reason}")
        if len({level.digest() for level in new.values()}) < len(new):
            pytest.skip("not tried: the levels of this row differ only in the attack that was replaced")
        return new


_PROPERTIES = (
    "id",
    "outcome",
    "paper_says",
    "effect",
    "unit",
    "interval",
    "margin",
    "blocks",
    "void",
    "cached",
    "scale",
)

#: What changes no claim that is announced: sources and words.
_WORDS = {"source", "paper", "paper_says", "by_construction", "reported"}


def _register_facts(claim: Claim) -> dict[str, Any]:
    return {name: value for name, value in asdict(claim).items() if name not in _WORDS}


def _room(claim: Claim, table: Table, levels: int) -> np.ndarray | None:
    """(levels,) medians of what can be lost, where the claim is about a leak; several metrics share their level's."""
    if not claim.leak:
        return None
    room = table.room(claim.metric)
    return room[:levels] if len(room) >= levels else room.repeat(levels)


def _largest(tables: Sequence[Table], metric: str) -> float | None:
    """The largest median of a metric over levels, void blocks included; None where no level has it."""
    medians = []
    for table in tables:
        for label in table.levels:
            levels = (result.levels.get(label, {}) for result in table.results)
            values = [value for level in levels if (value := level.get(metric)) is not None]
            medians += [float(np.median(values))] if values else []
    return max(medians, default=None)


def _tables(measured: Any) -> list[Table]:
    """The tables in what a claim is decided on."""
    if isinstance(measured, Table):
        return [measured]
    return [
        table for each in (measured.values() if isinstance(measured, Mapping) else measured) for table in _tables(each)
    ]


def _two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if values.shape[1] < 2:
        raise ValueError(f"levels: expected at least two, A and B, got {values.shape[1]}")
    return values[:, 0], values[:, 1]
