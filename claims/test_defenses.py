"""The defense in three stages: does each stage, and do all of them, lower what leaks? (arXiv 2503.11514, Sec. VI.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from claims.cell import Row
from claims.checked import behind_checks
from claims.federations import federated_accuracy
from claims.scales import Scale
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.claims import Claims
from gia.harness.plugin.deciding import decided

#: From the weakest on: a claim about several attack types is as good as the worst of them.
OUTCOMES = ("refuted", "inconclusive", "supported")

ROWS = ("defense.stage1", "defense.stage2", "defense.stage3", "defense.pipeline")


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.claim(id)) for id in ROWS])
def test_the_attacks_that_a_stage_addresses_leak_less(claims: Claims, scale: Scale, id: str) -> None:
    """The same images with and without the stage, for each attack type; the verdict is that of the worst type.

    Each type has its own blocks and looks. The second level's attacker knows the defense and adapts to it, and decides;
    one that does not know of it is shown after the pair.
    """
    rows = scale.STAGES.get(id)
    if rows is None:
        pytest.skip(f"no cell at this scale: {id}")
    seen = {name: looked(claims, id, name, row) for name, row in rows.items()}
    worst = min((verdict for verdict, _ in seen.values()), key=lambda v: (OUTCOMES.index(v.outcome), v.effect or 0.0))
    line = "; ".join(f"{name}: {described(*found)}" for name, found in seen.items())
    claims.record(replace(worst, measured=line), tables=[table for _, table in seen.values()])


@pytest.mark.claim("defense.cost")
def test_training_under_the_pipeline_ends_at_a_lower_accuracy(claims: Claims, scale: Scale) -> None:
    """The same clients' images, seen as often: a shallow net in small steps, and all three stages.

    `python -m claims.privacy_utility` measures what classical defenses cost, and at which leak.
    """
    row = scale.COST
    if row is None:
        pytest.skip("no cell at this scale: defense.cost")
    claims.paired("defense.cost", row.protocol, levels=tuple(row.levels), change=row.change, measure=federated_accuracy)


def looked(claims: Claims, id: str, name: str, row: Row) -> tuple[Verdict, Table]:
    """The verdict on one attack type, and its table."""
    measure: Mapping[str, Any] = {"measure": behind_checks} if name.startswith("ana") else {}

    def measured(blocks: int) -> Table:
        return claims.table(id, row.protocol, levels=tuple(row.levels), change=row.change, blocks=blocks, **measure)

    def decide(table: Table, look: Look) -> Verdict:
        return decided(claims.claim(id), table, look, claims.tries(id), {})

    return claims.look(measured, decide)


def described(verdict: Verdict, table: Table) -> str:
    """Outcome, effect and the median leak of every level."""
    if not table.valid:
        return f"{verdict.outcome}, no valid block"
    leaks = "/".join(f"{median:.2f}" for median in np.median(table.values("leak"), axis=0))
    interval = "" if verdict.interval is None else " [{:+.2f}, {:+.2f}]".format(*verdict.interval)
    return f"{verdict.outcome} {verdict.effect:+.2f}{interval}, leak {leaks} dB, {verdict.void} void"
