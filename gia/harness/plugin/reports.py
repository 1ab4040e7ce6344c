"""The reports at the end of a session: files in its run folder, and what the terminal shows."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gia.harness.plugin import page
from gia.harness.plugin.claims import Claims
from gia.harness.plugin.earlier import placebos
from gia.harness.plugin.options import foreign
from gia.harness.plugin.run import ClaimRun
from gia.harness.report.markdown import markdown
from gia.harness.report.material import PAGE
from gia.harness.report.placebos import matrix
from gia.harness.report.project import Project
from gia.harness.report.rows import Run
from gia.harness.report.text import Closing


class Reports:
    """What a session says of its claims; nothing where no test asked for them."""

    def __init__(self, run: ClaimRun) -> None:
        self._run = run

    def write(self) -> None:
        """Announce the confirm runs that may be, and write the list of verdicts, `report.md` and the page."""
        run, claims = self._run, self._run.made_claims
        if claims is None or run.share is not None or run.config.option.gia_plan:
            return
        if run.confirm is not None and run.lane.opening:
            announced = run.confirm.announce(claims.skips.announced)
            run.notices.append(
                f"announced in the ledger: {len(announced)} confirm runs at {run.confirm.head[:7]}; commit "
                "claims/ledger.toml and baselines/ledger.json, then run nox -s confirm"
            )
        claims.recording.write()
        report = self._report(claims)
        text = markdown(report) if run.lane.placebo is None else f"```\n{matrix(claims.recording.rows)}\n```\n"
        (run.folder.path / "report.md").write_text(text, encoding="utf-8")
        page.write(run.folder.path, self._about(), report)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(text)

    def show(self, terminal: pytest.TerminalReporter) -> None:
        """The table of verdicts; what a shard did, or what a plan found, in its place."""
        run, claims = self._run, self._run.made_claims
        if claims is None:
            return
        if run.share is not None:
            terminal.section(f"shard {run.share}")
            terminal.write_line(self._stored(claims))
        elif claims.plan is not None:
            terminal.section(f"plan at {run.scale} scale, {run.environment['device']}")
            terminal.write_line(claims.plan.closing(run.config.option.gia_workers))
        else:
            what = "claims" if run.lane.placebo is None else "placebos"
            terminal.section(f"{what} at {run.scale} scale")
            if run.lane.placebo is None:
                closing = Closing(self._report(claims), self._matrix(claims), self._recorded())
                width, coloured = terminal._tw.fullwidth, terminal._tw.hasmarkup
                verbose = run.config.option.verbose > 0
                terminal.write_line(closing.text(width, verbose=verbose, coloured=coloured))
            else:
                terminal.write_line(matrix(claims.recording.rows))
            for id, file in run.records.stored:
                terminal.write_line(f"recorded: {id} in {file}")
            terminal.write_line(f"reports: {run.folder.path / PAGE}")

    def _report(self, claims: Claims) -> Run:
        run = self._run
        order, partial = list(run.register), not run.selection.whole("claim")
        comparisons = run.made_baselines.comparisons if run.made_baselines else []
        return Run(
            scale=run.scale,
            environment=run.environment,
            rows=sorted(claims.recording.rows, key=lambda row: order.index(row["id"])),
            without_verdict=run.selection.without_verdict(run.decided()),
            not_covered=None if partial else [id for id in order if id not in run.selection.tests_of],
            notices=run.notices,
            baselines=[str(comparison) for comparison in comparisons],
        )

    def _about(self) -> dict[str, Any]:
        """What the project knows of its claims, and what earlier runs say."""
        run = self._run
        records = {lane: run.records.rows(lane) for lane in ("confirm", "claims", "reach")}
        return {
            **Project(run.register, run.records.ledger, records, run.layout).about(),
            "commands": page.commands(run.selection.tests_of, run.register, run.config),
            "placebos": placebos(run.runs, run.scale),
        }

    def _stored(self, claims: Claims) -> str:
        """What a shard did, in place of verdicts."""
        stored = claims.recording.stored
        tables = [table for tables in stored.values() for table in tables]
        blocks, found = sum(len(table.results) for table in tables), sum(table.cached for table in tables)
        return (
            f"{len(stored)} rows, {blocks} blocks in {self._run.blocks_folder()}: {blocks - found} computed here, "
            f"{found} found there\nno verdicts: the same command without --shard gives them when all shards have ended"
        )

    def _matrix(self, claims: Claims) -> Any:
        """The paper's table; None where it would show records of other attacks for most of its rows."""
        few = 2 * len(claims.recording.rows) < len(self._run.register)
        return None if few and foreign(self._run.config.option) else self._run.layout.get("matrix")

    def _recorded(self) -> dict[str, str]:
        """Claim id -> its outcome on record, that of the confirm run where there is one."""
        confirmed, first = self._run.records.rows("confirm"), self._run.records.rows("claims")
        return {id: row["outcome"] for id, row in {**first, **confirmed}.items()}
