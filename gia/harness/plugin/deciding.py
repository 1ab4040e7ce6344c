"""The verdict on a table of blocks, of the kind that the register names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict

import numpy as np

from gia.harness.blocks.level import Measure
from gia.harness.decide import verdicts
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table, Value
from gia.harness.decide.verdicts import Look, Verdict

#: What decides: a metric, a function of a level's metrics, or several metrics of one level compared as if levels.
Deciding = str | Value | tuple[str, ...]

#: (level, label) -> the level of that label.
Change = Callable[[Any, Any], Any]

#: Kinds whose rows compare levels.
COMPARING = ("trend", "paired", "affected", "equivalence")


@dataclass(frozen=True)
class Reported:
    """The paper's numbers, level -> number, shown in the picture on axes of their own; `as_` says what they are."""

    numbers: Mapping[Any, float]
    as_: str = "the paper"


class Rule(TypedDict, total=False):
    """How a row is decided and drawn.

    Attributes:
        value: what decides; the claim's own metric by default.
        x: places the levels of a trend, in the register's unit (`math.log2` for "per doubling").
        shown: how many of the last levels of an equivalence are shown and not judged.
        claimed: of a count, one number for all levels or one for each; the register's number by default.
        reported: the paper's numbers, drawn next to ours.
    """

    value: Deciding | None
    x: Callable[[Any], float]
    shown: int
    claimed: float | Sequence[float] | None
    reported: Reported | None


class Row(Rule, total=False):
    """What a row measures, as `gia.harness.plugin.claims.Claims.table` takes it, and how it is decided."""

    levels: Required[Sequence[Any]]
    change: Required[Change]
    measure: Measure | None


def decided(claim: Claim, table: Table, look: Look, tries: int, rule: Rule) -> Verdict:
    """The verdict of the claim's kind, with room where the claim is about a leak.

    A pair takes the first two levels, and an equivalence all but those that are only shown.
    """
    values = table.values(rule.get("value") or claim.metric)
    if claim.kind in ("paired", "affected") and values.shape[1] < 2:
        raise ValueError(f"levels: expected at least two, A and B, got {values.shape[1]}")
    judged = {"paired": 2, "affected": 2, "equivalence": values.shape[1] - rule.get("shown", 0)}
    values = values[:, : judged.get(claim.kind)]
    about: Mapping[str, Any] = {
        "room": _room(claim, table, values.shape[1]),
        "void": table.void,
        "look": look,
        "tries": tries,
    }
    match claim.kind:
        case "trend":
            places = [rule.get("x", float)(level) for level in table.experiment.levels]
            return verdicts.trend(claim, places, values, **about)
        case "paired":
            return verdicts.paired(claim, values[:, 0], values[:, 1], **about)
        case "affected":
            return verdicts.affected(claim, values[:, 0], values[:, 1], **about)
        case "equivalence":
            return verdicts.equivalence(claim, values, **about)
        case _:
            return verdicts.count(claim, values, claimed=rule.get("claimed"), **about)


def _room(claim: Claim, table: Table, levels: int) -> np.ndarray | None:
    """(levels,) medians of what can be lost, where the claim is about a leak; several metrics share their level's."""
    if not claim.leak:
        return None
    room = table.room(claim.metric)
    return room[:levels] if len(room) >= levels else room.repeat(levels)
