"""Verdicts go on record: each is reported, and compared with the records of earlier runs or put there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gia.harness.decide.record import record_of
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Verdict
from gia.harness.plugin.context import Context
from gia.harness.report import rows
from gia.harness.report.evidence import evidence
from gia.harness.report.layout import Figure
from gia.numerics import digest_of, fingerprint, replacing

#: What of a row becomes a property of its test, in junit.xml.
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

#: What a verdict says instead of an outcome where a run only asks how far a claim reaches; and the file of its records.
_REACH = "reach"


class UnexpectedOutcomeError(AssertionError):
    """A verdict contradicts the one on record."""


class Recording:
    """Keeps one row per verdict.

    Attributes:
        rows: what verdicts.json holds.
        stored: claim id -> its tables, in a run that only stores blocks.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.rows: list[rows.Row] = []
        self.stored: dict[str, Sequence[Table]] = {}
        #: Claim id -> what was drawn of it, for its evidence.
        self.drawn: dict[str, Mapping[str, Any]] = {}

    def record(
        self,
        verdict: Verdict,
        tables: Sequence[Table],
        pictures: Sequence[Path],
        figures: Sequence[Figure] = (),
        witness: Sequence[Sequence[int] | None] = (),
    ) -> Verdict:
        """As `gia.harness.plugin.claims.Claims.record`, of a row that this run is about; `witness` is that of looks."""
        context, claim = self._context, self._context.claim(verdict.id)
        ids, properties, began = context.current()
        if claim.id not in ids:
            raise ValueError(f"id: expected the running test to be marked claim({claim.id!r}), got {list(ids)}")
        if self.decided(claim.id):
            raise ValueError(f"id: expected one verdict on each row in a run, got a second one on {claim.id!r}")
        if context.storing:
            self.stored[claim.id] = tables
            context.announce(f"{claim.id}: {sum(len(table.results) for table in tables)} blocks are stored")
            return verdict
        digests = [table.digest() for table in tables]
        # Other arithmetic gives other numbers from the same settings, so its blocks are not the same.
        digest = digest_of([*digests, fingerprint()]) if digests else ""
        if context.lane.name == "reach":
            verdict, pictures = self._reached(claim, verdict)
        own = context.substitute is None and context.placebos is None
        recorded = own and context.lane.name != _REACH
        row = rows.row(
            claim,
            verdict,
            scale=context.scale,
            seconds=time.perf_counter() - began,
            cached=sum(table.cached for table in tables),
            digest=digest,
            tables=[table.described() for table in tables],
            pictures=[path.relative_to(context.folder).as_posix() for path in pictures],
            history=context.records.ledger.history(claim.id) if own else "",
            recorded=context.records.rows(context.lane.name).get(claim.id) if recorded else None,
            reach=context.records.rows("reach").get(claim.id) if own else None,
            **context.facts,
        )
        if context.substitute is not None:
            row["without"] = self._without(claim)
        if context.placebos is not None:
            metric = claim.metric if claim.leak else "leak"
            row |= {"placebo": context.placebos.current, "leak": _largest(tables, metric), "leak_decides": claim.leak}
        elif own and context.lane.name in ("claims", "confirm"):
            row |= self._held_against_records(claim, verdict, digest, witness)
        self.rows.append(row)
        if context.placebos is None:
            self._keep(claim, verdict, tables, figures)
        properties += [(f"claim.{name}", row[name]) for name in _PROPERTIES]
        self.write()
        if context.placebos is None:  # else the matrix at the end has a cell for each
            context.announce(rows.line(row))
        if row["disagrees"]:
            raise UnexpectedOutcomeError(
                f"{row['disagrees']}\n  claim: {claim.statement}\n"
                f"  measured at {context.scale} scale: {verdict.measured}; {row['why']}\n"
                f"  {rows.line(row)}\n"
                '  If the measurement is right, put it on record: --gia-record --gia-reason "why it moved".'
            )
        return verdict

    def decided(self, id: str) -> bool:
        """Whether there is a verdict on this row, under the current placebo where there is one."""
        placebo = None if self._context.placebos is None else self._context.placebos.current
        return id in self.stored or any((row["id"], row.get("placebo")) == (id, placebo) for row in self.rows)

    def add_not_applicable(self, claim: Claim, reason: str) -> None:
        """Report that the current placebo says nothing about this row."""
        assert self._context.placebos is not None
        none = Verdict(claim.id, rows.NOT_APPLICABLE, None, claim.unit, None, 0, 0, 1, None, "", reason, {})
        row = {**rows.row(claim, none, scale=self._context.scale, seconds=0.0), **self._context.facts}
        self.rows.append({**row, "placebo": self._context.placebos.current, "leak": None, "leak_decides": claim.leak})
        self.write()

    def write(self) -> None:
        """Write verdicts.json with what is finished."""
        self._context.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._context.folder / "verdicts.json") as partial:
            partial.write_text(rows.to_json(self.rows), encoding="utf-8")

    def _keep(self, claim: Claim, verdict: Verdict, tables: Sequence[Table], figures: Sequence[Figure]) -> None:
        """Write what the verdict was decided on, for the report."""
        drawn = self.drawn.get(claim.id, {})
        curve = {name: value for name, value in drawn.items() if name != "arrays"}
        content = evidence(verdict, tables, curve=curve, arrays=drawn.get("arrays"), figures=figures)
        folder = self._context.folder / "evidence"
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{claim.file}.json") as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    def _reached(self, claim: Claim, verdict: Verdict) -> tuple[Verdict, list[Path]]:
        """Store the reach that came with a verdict, and draw it."""
        found = verdict.detail["reach"]
        self._context.records.store(_REACH, claim.id, found)
        pictures = self._context.laboratory.draw_reach(
            self._context.images, claim.file, found["draws"], margin=claim.margin, unit=claim.unit
        )
        return replace(verdict, outcome=_REACH, measured=rows.reach(found["shares"])), pictures

    def _without(self, claim: Claim) -> dict[str, Any] | None:
        """What is on record of a row: its confirmed verdict, or else its first look."""
        records = self._context.records
        found = records.current("confirm", claim.id) or records.current("claims", claim.id)
        return None if found is None else {name: found.get(name) for name in ("outcome", "effect")}

    def _held_against_records(
        self, claim: Claim, verdict: Verdict, digest: str, witness: Sequence[Sequence[int] | None]
    ) -> dict[str, str]:
        """Compare a verdict with the records, or store it: what its row says of that."""
        context = self._context
        records, lane = context.records, context.lane.name
        now = record_of(verdict, digest=digest, commit=context.facts["commit"], witness=witness)
        before = records.rows(lane).get(claim.id)
        outcome = "" if before is None else before["outcome"]
        if lane == "confirm":
            entry = records.ledger.opened(claim.id)
            assert entry is not None  # else the row is not run
            if before is None or before["frozen"] != entry.commit:
                records.store(lane, claim.id, {**now, "frozen": entry.commit, "protocol": entry.digest})
                number = f"{rows.effect(rows.row(claim, verdict, scale='', seconds=0))}".strip()
                reason = f"{verdict.detail.get('reason', '')}: {number}".strip(": ") or "no number"
                records.enter(
                    "confirmed", claim.id, digest=digest, before=outcome, after=verdict.outcome, reason=reason
                )
                return {}
        elif context.store_because is not None:
            records.store(lane, claim.id, now)
            if before is not None and (outcome, before["digest"]) != (verdict.outcome, digest):
                why = context.store_because
                records.enter("changed", claim.id, digest=digest, before=outcome, after=verdict.outcome, reason=why)
            return {}
        disagrees, notice = records.compared(verdict, digest=digest, lane=lane, margin=claim.margin)
        return {"disagrees": disagrees, "notice": notice}


def _largest(tables: Sequence[Table], metric: str) -> float | None:
    """The largest median of a metric over levels, void blocks included; None where no level has it."""
    medians = []
    for table in tables:
        for label in table.levels:
            levels = (result.levels.get(label, {}) for result in table.results)
            values = [value for level in levels if (value := level.get(metric)) is not None]
            medians += [float(np.median(values))] if values else []
    return max(medians, default=None)
