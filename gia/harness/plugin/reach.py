"""The reach of one row: its verdict's effects, draw by draw, as what is stored in baselines/reach.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gia.harness.decide.reach import Draw, changed, label, shares, strongest_factor
from gia.harness.decide.register import Claim
from gia.harness.decide.statistics import steepest_slope
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Verdict

#: Kinds whose rows compare levels: those have a reach.
KINDS = ("trend", "paired", "affected", "equivalence")


def draws(claim: Claim, verdict: Verdict, tables: Sequence[Table]) -> list[Draw]:
    """What each drawn setting shows of the claim.

    Of several comparisons a pair shows its smallest effect, and a claim of an effect or of none the largest.

    Raises ValueError where the verdict was not decided on the blocks of all tables.
    """
    assert claim.margin is not None
    drawn = list(zip(*(table.results for table in tables), strict=True))
    valid = [all(result.valid for result in results) for results in drawn]
    effects = verdict.detail.get("effects", [])
    if not drawn or len(effects) != sum(valid):
        raise ValueError(f"{claim.id}: expected an effect for each of {sum(valid)} valid blocks, got {len(effects)}")
    needed, remaining, found = _needed(claim, verdict), iter(effects), []
    for results, works in zip(drawn, valid, strict=True):
        each = next(remaining) if works else None
        effect = None
        if each is not None:
            effect = float(min(each) if claim.kind in ("trend", "paired") else max(each, key=abs))
        room = not claim.leak or _largest(claim, results) >= needed
        setting = {name: value for result in results for name, value in result.block.setting.items()}
        name = label(claim.kind, effect, claim.margin, room=room)
        found.append(Draw(results[0].block.index, setting, name, effect))
    return found


def described(claim: Claim, first: Sequence[Draw], again: Sequence[Draw]) -> dict[str, Any]:
    """The stored entry of a row: shares, stability, the strongest factor, and every draw, as plain JSON."""
    return {
        "margin": claim.margin,
        "unit": claim.unit,
        "shares": shares(first),
        "stability": changed(first, again),
        "factor": strongest_factor(first),
        "draws": [
            {"index": draw.index, "setting": dict(draw.setting), "label": draw.label, "effect": draw.effect}
            for draw in first
        ],
    }


def _needed(claim: Claim, verdict: Verdict) -> float:
    assert claim.margin is not None
    return 2 * claim.margin / (steepest_slope(verdict.detail["levels"]) if claim.kind == "trend" else 1.0)


def _largest(claim: Claim, results: Sequence[Any]) -> float:
    """The largest leak of any level of one draw."""
    levels = [level for result in results for level in result.levels.values()]
    return max((level[claim.metric] for level in levels if level.get(claim.metric) is not None), default=0.0)
