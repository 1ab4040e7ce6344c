"""The reach of one row: what each drawn setting shows of its claim, as what is stored in baselines/reach.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from gia.harness.decide.reach import Draw, changed, label, shares, strongest_factor
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict

Measured = TypeVar("Measured")


def entry(claim: Claim, seen: Measured, again: Measured, decide: Callable[[Measured, Look], Verdict]) -> dict[str, Any]:
    """The stored entry of a row: shares, stability, the strongest factor, and every draw, as plain JSON.

    Args:
        seen: the drawn settings, as what the claim is decided on: a table, or tables in a sequence or a mapping.
        again: the first of these settings, with other victims, images and starts.
        decide: (such tables, look) -> verdict. It is asked about each setting by itself.
    """
    first, asks_room = draws(claim, seen, decide)
    repeated, _ = draws(claim, again, decide)
    found = shares(first)
    if not asks_room:
        del found["dead"]
    return {
        "margin": claim.margin,
        "unit": claim.unit,
        "shares": found,
        "stability": changed(first, repeated),
        "factor": strongest_factor(first),
        "draws": [
            {"index": draw.index, "setting": dict(draw.setting), "label": draw.label, "effect": draw.effect}
            for draw in first
        ],
    }


def draws(claim: Claim, measured: Measured, decide: Callable[[Measured, Look], Verdict]) -> tuple[list[Draw], bool]:
    """What each setting shows of the claim, and whether the claim asks for room, without which a setting is dead.

    Of several comparisons a trend or a pair shows its smallest effect, and a claim of an effect or of none the largest.
    """
    assert claim.margin is not None
    found, asks_room = [], False
    for place, results in enumerate(zip(*(table.results for table in tables_in(measured)), strict=True)):
        effect, room = None, None
        if all(result.valid for result in results):
            detail = decide(_only(measured, place), 1).detail
            (each,) = detail["effects"]
            effect = float(min(each) if claim.kind in ("trend", "paired") else max(each, key=abs))
            room = detail.get("room")
        asks_room |= room is not None
        alive = room is None or room["largest"] >= room["needed"]
        setting = {name: value for result in results for name, value in result.block.setting.items()}
        name = label(claim.kind, effect, claim.margin, room=alive)
        found.append(Draw(results[0].block.index, setting, name, effect))
    return found, asks_room


def tables_in(measured: Any) -> list[Table]:
    """The tables in what a claim is decided on."""
    if isinstance(measured, Table):
        return [measured]
    inner: Sequence[Any] = list(measured.values()) if isinstance(measured, Mapping) else measured
    return [table for each in inner for table in tables_in(each)]


def _only(measured: Measured, place: int) -> Measured:
    """The same with one block in each table."""
    if isinstance(measured, Table):
        return cast(Measured, measured.at([place]))
    if isinstance(measured, Mapping):
        return cast(Measured, {name: _only(each, place) for name, each in measured.items()})
    assert isinstance(measured, list | tuple)
    return cast(Measured, type(measured)(_only(each, place) for each in measured))
