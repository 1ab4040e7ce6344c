"""The looks at a row: as many as its lane allows, and what the lane checks beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest

from gia.harness.blocks.experiment import Experiment
from gia.harness.decide import looks
from gia.harness.decide.early import stays_inconclusive, witness
from gia.harness.decide.looks import LOOKS, MOST_DRAWN, STEPS
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.confirm import BUDGET, BUDGET_DEPENDENT, budget_dependent, protocol_digest
from gia.harness.plugin.context import Context
from gia.harness.plugin.deciding import COMPARING
from gia.harness.plugin.lanes import DRAWN_AGAIN
from gia.harness.plugin.measuring import Measuring, Way
from gia.harness.plugin.reach import entry, tables_in
from gia.harness.plugin.skips import Skips
from gia.harness.report import rows
from gia.numerics import digest_of, fingerprint

Measured = TypeVar("Measured")


class Looking:
    """Looks at rows."""

    def __init__(self, context: Context, measuring: Measuring, skips: Skips) -> None:
        self._context, self._measuring, self._skips = context, measuring, skips
        self._taken: Counter[tuple[str, ...]] = Counter()  # the ids of a test -> how many looks it took
        #: Claim id -> the witness of each look of its test, where verdicts go on record.
        self.witnesses: dict[str, list[list[int] | None]] = {}

    def look(
        self, measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
    ) -> tuple[Verdict, Measured]:
        """As `gia.harness.plugin.claims.Claims.look`."""
        lane = self._context.lane
        if lane.opening:
            self._skips.announce(self._asked(measured))
        if self._context.plan is not None:
            self._context.plan.end(self._context.ids, self._asked(measured), LOOKS[1])
        if self._context.wanted is not None:
            first = self._first()
            with self._measuring.on(Way(only=first)):
                measured(max(first) + 1)
            pytest.skip("only asked")
        if self._context.placebos is not None:
            return self._context.placebos.look(measured, decide)
        if lane.name == "reach":
            return self._reach(measured, decide)
        if self._context.confirm is not None:
            self._expect_announced(measured)
        settled = self._settled(decide)
        if settled is not None and (few := self._witness_on_record()):
            with self._measuring.on(Way(only=few)):
                seen = measured(max(few) + 1)
            if settled(seen):
                return looks.certain(decide(seen, 1)), seen
        verdict, seen = looks.look(measured, decide, looks=lane.looks, settled=settled)
        if self._context.store_because is not None:
            self._find_witness(verdict, seen, decide)
        if self._context.confirm is None:
            return verdict, seen
        if verdict.detail.get("tries", 1) != self._context.tries(verdict.id):
            raise ValueError(f"decide: expected a verdict with tries=claims.tries({verdict.id!r}), got one without")
        return self._checked_budget(verdict, measured, decide, seen), seen

    def _settled(self, decide: Callable[[Measured, Look], Verdict]) -> Callable[[Measured], bool] | None:
        """When a look may end early; None where it may not."""
        if not self._may_end_early():
            return None
        claim = self._context.claim(self._context.ids[0])
        return lambda seen: isinstance(seen, Table) and stays_inconclusive(claim, seen, cast(Any, decide))

    def _may_end_early(self) -> bool:
        """Whether the record says that the row is inconclusive; what changed is seen whole."""
        one = len(self._context.ids) == 1
        return self._context.lane.early and one and self._recorded().get("outcome") == "inconclusive"

    def _first(self) -> Sequence[int]:
        """The blocks that the first look of the running test measures at least."""
        if not self._may_end_early():
            return range(LOOKS[1])
        return next(iter(self._recorded().get("witness", [])), None) or range(STEPS[0])

    def _recorded(self) -> Mapping[str, Any]:
        """What this lane has on record of the running test's first row."""
        return self._context.records.rows(self._context.lane.name).get(self._context.ids[0], {})

    def _witness_on_record(self) -> list[int] | None:
        """The blocks on which the look that the running test takes now was certain to be inconclusive."""
        place, found = self._next_place(), self._recorded().get("witness", [])
        return found[place] if place < len(found) else None

    def _find_witness(self, verdict: Verdict, seen: object, decide: Callable[[Any, Look], Verdict]) -> None:
        """Keep the few blocks on which a later run may end early, for the record of an inconclusive row."""
        found, claim = None, self._context.claim(self._context.ids[0])
        if verdict.outcome == "inconclusive" and isinstance(seen, Table):
            found = witness(claim, seen, decide)
        self.witnesses.setdefault(claim.id, []).append(found)

    def _asked(self, measured: Callable[[int], object]) -> list[Experiment]:
        """The experiments of a row; nothing is measured."""
        found: list[Experiment] = []
        with self._measuring.on(Way(asked=found)):
            measured(LOOKS[1])
        return found

    def _next_place(self) -> int:
        """How many looks at its tables the running test took before this one, which counts from now on."""
        self._taken[self._context.ids] += 1
        return self._taken[self._context.ids] - 1

    def _expect_announced(self, measured: Callable[[int], object]) -> None:
        """End a test whose row was announced with another protocol, such as on another device or other data.

        A row that looks at several tables one after the other is announced with its first.
        """
        claim = self._context.claim(self._context.ids[0])
        entry = self._context.records.ledger.opened(claim.id)
        first = self._next_place() == 0
        if first and entry is not None and entry.digest != protocol_digest(claim, self._asked(measured)):
            pytest.skip("not confirmed yet: announced with another protocol; expected the same --device and --data")

    def _reach(
        self, measured: Callable[[int], Measured], decide: Callable[[Measured, Look], Verdict]
    ) -> tuple[Verdict, Measured]:
        """What each setting shows, in the detail "reach" of a verdict on all of them."""
        context, lane = self._context, self._context.lane
        claim = context.claim(context.ids[0])
        experiments = self._asked(measured)
        if claim.kind not in COMPARING or not any(experiment.first.vary for experiment in experiments):
            self._skips.without_reach()
        if self._next_place() > 0:
            pytest.skip("no reach: this row is decided on several tables, each of other settings")
        protocol = protocol_digest(claim, experiments)
        blocks = lane.of_blocks(claim.id, context.frozen)
        digest = digest_of([protocol, blocks, lane.draws, DRAWN_AGAIN, fingerprint()])
        stored = context.records.rows(lane.name).get(claim.id)
        if stored is not None and stored["digest"] == digest:
            pytest.skip(f"reach is on record ({stored['commit']}): {rows.reach(stored['shares'])}")
        seen = measured(lane.draws)
        with self._measuring.on(Way(again=True)):
            again = measured(DRAWN_AGAIN)
        found = {**entry(claim, seen, again, decide), "digest": digest, "commit": context.facts["commit"]}
        verdict = decide(seen, 1)
        return replace(verdict, detail={**verdict.detail, "reach": found}), seen

    def _checked_budget(
        self,
        verdict: Verdict,
        measured: Callable[[int], Measured],
        decide: Callable[[Measured, Look], Verdict],
        seen: Measured,
    ) -> Verdict:
        """The verdict, inconclusive if its first eight valid blocks say something else at another budget."""
        levels = [level for table in tables_in(seen) for level in table.experiment.levels.values()]
        if verdict.outcome == "inconclusive" or all(level.with_budget(BUDGET) is None for level in levels):
            return verdict
        eight = next(n for n in range(LOOKS[1], MOST_DRAWN + 1) if decide(measured(n), 1).blocks == LOOKS[1])
        with self._measuring.on(Way(budget=BUDGET)):
            again = decide(measured(eight), 1)
        if not budget_dependent(self._context.claim(verdict.id), verdict, again):
            return verdict
        number = "no path works" if again.effect is None else f"{again.effect:+.3g} {verdict.unit}"
        reason = f"{BUDGET_DEPENDENT}: {number} at {BUDGET} times the budget"
        return replace(verdict, outcome="inconclusive", detail={**verdict.detail, "reason": reason})
