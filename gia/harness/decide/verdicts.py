"""Verdicts: the rules that turn a table of blocks into supported, refuted or inconclusive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from gia.harness.decide.register import Claim
from gia.harness.decide.statistics import (
    COVERAGE,
    Alternative,
    Array,
    MedianInterval,
    Outcomes,
    binomial_interval,
    decide_affected,
    decide_count,
    decide_directed,
    decide_equivalence,
    interval_rank,
    median_interval,
    page_p,
    slopes,
    wilcoxon_p,
)

Look = Literal[1, 2]

_REASONS = {
    "directed": {
        "supported": "the interval lies above 0 and the effect reaches the margin",
        "refuted": "the interval lies below the margin",
        "inconclusive": "the interval reaches the margin, but not from above 0 or not with an effect as large as it",
    },
    "affected": {
        "supported": "0 lies outside the interval and the effect reaches the margin",
        "refuted": "the interval lies inside the margin",
        "inconclusive": "the interval leaves the margin, but holds 0 or an effect below the margin",
    },
    "equivalence": {
        "supported": "every interval lies inside the margin",
        "refuted": "an interval lies wholly outside the margin",
        "inconclusive": "an interval reaches across the margin",
    },
    "count": {
        "supported": "the claimed number, give or take the margin, contains the interval",
        "refuted": "the interval is disjoint from the claimed number, give or take the margin",
        "inconclusive": "the interval reaches across the margin",
    },
}


@dataclass(frozen=True)
class Verdict:
    """What a run says of one claim.

    Args:
        id: The claim's.
        outcome: "supported", "refuted" or "inconclusive".
        effect: What decides, in `unit`. The median over blocks, positive on the claimed side (trend, paired); the
            median difference or number of the level that decides (affected, equivalence, count); the worst margin or
            error seen (universal, exact). None if nothing was measured.
        unit: The claim's.
        interval: Of the effect, with coverage at least 99 %; None with too few blocks and for universal and exact.
        blocks: Valid blocks, trials or distinct valid examples.
        void: Blocks whose control failed; they are in no number.
        look: 1, or 2 after an inconclusive first look.
        p: Of the test `p_name`; printed, never deciding.
        p_name: "Page", "Wilcoxon", or "" without p.
        measured: One line for the table: medians over blocks level by level, and p; or the worst example.
        detail: Further numbers, as JSON takes them; `reason` says why the outcome is what it is.
    """

    id: str
    outcome: str
    effect: float | None
    unit: str
    interval: tuple[float, float] | None
    blocks: int
    void: int
    look: Look
    p: float | None
    p_name: str
    measured: str
    detail: Mapping[str, Any]


def needs_second_look(verdict: Verdict) -> bool:
    """Whether eight more blocks are run: after an inconclusive first look, and never after the second."""
    return verdict.outcome == "inconclusive" and verdict.look == 1


def trend(claim: Claim, levels: Sequence[float], values: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """An ordered factor moves the metric: the slopes of the blocks over the levels.

    Args:
        claim: Of kind "trend".
        levels: (levels,), rising: the x of the slope as it stands, so log2 of the batch size for one per doubling.
        values: (blocks, levels), the raw metric of the valid blocks; the claim's side gives the sign.
        void: Number of blocks left out because their control failed.
        look: 1 or 2.

    Raises:
        ValueError: if the claim is of another kind, shapes disagree, the levels do not rise or a value is not finite.
    """
    table = _table(claim, "trend", values, void, look)
    x = np.asarray(levels, dtype=float)
    if x.shape != table.shape[1:] or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError(f"levels must be {table.shape[1]} rising numbers, at least two, but are {x.tolist()}")
    effects = claim.sign * slopes(x, table)
    p = page_p(table, decreasing=claim.sign < 0)
    test = (wilcoxon_p(effects, alternative="greater"), "Wilcoxon") if p is None else (p, "Page")
    return _conclude(claim, effects[:, None], decide_directed, table, test, void, look, levels=x.tolist())


def paired(claim: Claim, a: ArrayLike, b: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """B stands to A as the claim's side says: the differences of the blocks.

    Args:
        claim: Of kind "paired".
        a: (blocks,), the raw metric of the condition that had to pass its control.
        b: (blocks,), the raw metric of the other condition on the same data.
        void: As in `trend`.
        look: As in `trend`.

    Raises:
        ValueError: if the claim is of another kind, the shapes differ or a value is not finite.
    """
    table = _pair(claim, "paired", a, b, void, look)
    effects = claim.sign * (table[:, 1] - table[:, 0])
    test = (wilcoxon_p(effects, alternative="greater"), "Wilcoxon")
    return _conclude(claim, effects[:, None], decide_directed, table, test, void, look)


def affected(claim: Claim, a: ArrayLike, b: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """The condition matters, in whichever direction: the differences b - a of the blocks, two-sided.

    Arguments and errors are those of `paired`, for a claim of kind "affected".
    """
    table = _pair(claim, "affected", a, b, void, look)
    effects = table[:, 1] - table[:, 0]
    test = (wilcoxon_p(effects, alternative="two-sided"), "Wilcoxon")
    return _conclude(claim, effects[:, None], decide_affected, table, test, void, look)


def equivalence(claim: Claim, values: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """The factor has no effect: each level against the first, by intervals inside the margin.

    Shown is the level whose interval reaches furthest, or the one that refutes; the p is that of two one-sided tests at
    the worst level. An attack that does not work equals itself at every level: without controls this means nothing.

    Args:
        claim: Of kind "equivalence".
        values: (blocks, levels), the raw metric of the valid blocks, at least two levels.
        void: As in `trend`.
        look: As in `trend`.

    Raises:
        ValueError: if the claim is of another kind, the shape is wrong or a value is not finite.
    """
    table = _table(claim, "equivalence", values, void, look)
    if table.shape[1] < 2:
        raise ValueError(f"values must have at least two levels, but have shape {table.shape}")
    margin = _margin(claim)
    effects = table[:, 1:] - table[:, :1]
    tests: tuple[tuple[float, Alternative], ...] = ((margin, "greater"), (-margin, "less"))
    p = max(wilcoxon_p(column + shift, alternative=side) for column in effects.T for shift, side in tests)
    return _conclude(claim, effects, decide_equivalence, table, (p, "Wilcoxon"), void, look)


def count(
    claim: Claim,
    values: ArrayLike,
    *,
    claimed: float | Sequence[float] | None = None,
    coverage: float = COVERAGE,
    sides: Literal["both", "upper"] = "both",
    void: int = 0,
    look: Look = 1,
) -> Verdict:
    """A number is what the claim says, give or take the margin.

    Boolean values are independent trials and get the exact binomial interval of their rate. Numbers are one score per
    trial (the exact share of a batch, say: a batch's images are no independent trials) and get the order-statistic
    interval of their median.

    Args:
        claim: Of kind "count".
        values: (trials,) or (trials, levels): booleans, or numbers in the claim's unit.
        claimed: The number, or one per level; by default the claim's `number`.
        coverage: Of the interval. Below .99 only where the claim itself says so: false support may then exceed 1 %.
        sides: "upper" bounds the rate of boolean trials from above only.
        void: As in `trend`.
        look: As in `trend`.

    Raises:
        ValueError: if the claim is of another kind, no number is claimed, the shapes disagree or a value is not finite.
    """
    trials = np.asarray(values).dtype == bool
    values = np.asarray(values, dtype=float)
    table = _table(claim, "count", values[:, None] if values.ndim == 1 else values, void, look)
    number = claim.number if claimed is None else claimed
    target = np.asarray(np.nan if number is None else number, dtype=float)
    if target.shape not in ((), table.shape[1:]) or not np.isfinite(target).all():
        raise ValueError(f"claimed must be one number, or one for each of {table.shape[1]} levels, but is {number!r}")
    if not trials and (sides, coverage) != ("both", COVERAGE):
        raise ValueError(f"sides and coverage belong to boolean trials, but came as {sides!r}, {coverage} with numbers")
    interval, shown = None, table
    if trials and len(table):
        low, high = binomial_interval(table.sum(axis=0), len(table), coverage=coverage, sides=sides)
        shown = table.mean(axis=0, keepdims=True)
        interval = MedianInterval(low, shown[0], high, coverage)
    decide = partial(decide_count, claimed=target)
    detail = {"interval": interval, "centre": target, "claimed": target.tolist()}
    return _conclude(claim, table, decide, shown, (None, ""), void, look, **detail)


def _conclude(
    claim: Claim,
    effects: Array,
    decide: Callable[[MedianInterval, float], Outcomes],
    table: Array,
    test: tuple[float | None, str],
    void: int,
    look: Look,
    *,
    interval: MedianInterval | None = None,
    centre: Array | float = 0.0,
    **detail: Any,
) -> Verdict:
    """The verdict of `effects` (blocks, comparisons): the interval, the outcome, and the comparison that is shown."""
    blocks, comparisons = effects.shape
    test = test if blocks else (None, "")
    medians = np.median(table, axis=0).tolist() if blocks else []
    detail |= {"medians": medians}
    if interval is None:
        detail |= {"effects": effects.tolist()}
        interval = median_interval(effects) if interval_rank(blocks) is not None else None
    if interval is None:
        reason = f"too few valid blocks ({blocks}, and {void} void): an interval of {COVERAGE:.0%} coverage needs 8"
        effect = float(np.median(effects[:, 0])) if blocks else None
        detail["reason"] = reason
        return Verdict(claim.id, "inconclusive", effect, claim.unit, None, blocks, void, look, *test, reason, detail)
    outcome = decide(interval, _margin(claim)).item()
    low, high = interval.low - centre, interval.high - centre
    distance = np.maximum(low, -high) if outcome == "refuted" else np.maximum(np.abs(low), np.abs(high))
    shown = int(distance.argmax())
    effect, bounds = float(interval.median[shown]), (float(interval.low[shown]), float(interval.high[shown]))
    reasons = _REASONS["directed" if claim.kind in ("trend", "paired") else claim.kind]
    detail |= {"coverage": interval.coverage, "shown": shown, "reason": reasons[outcome]}
    parts = [f"{claim.metric} {'/'.join(f'{median:.4g}' for median in medians)}"]
    parts += [f"the worst of {comparisons} comparisons decides"] if comparisons > 1 else []
    parts += [f"{test[1]} p = {test[0]:.2g}"] if test[0] is not None else []
    measured = "; ".join(parts)
    return Verdict(claim.id, outcome, effect, claim.unit, bounds, blocks, void, look, *test, measured, detail)


def _margin(claim: Claim) -> float:
    if claim.margin is None:
        raise ValueError(f"claim {claim.id!r}: margin must be a number, since the kind is {claim.kind!r}, but is None")
    return claim.margin


def _pair(claim: Claim, kind: str, a: ArrayLike, b: ArrayLike, void: int, look: Look) -> Array:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"a and b must both have shape (blocks,), but have {a.shape} and {b.shape}")
    return _table(claim, kind, np.stack([a, b], axis=1), void, look)


def _table(claim: Claim, kind: str, values: ArrayLike, void: int, look: Look) -> Array:
    """The values as (blocks, levels) floats, once they and the rest of the call are checked."""
    if claim.kind != kind:
        raise ValueError(f"claim {claim.id!r}: kind must be {kind!r} for this verdict, but is {claim.kind!r}")
    if look not in (1, 2):
        raise ValueError(f"look must be 1 or 2, since there is no third, but is {look!r}")
    if void < 0:
        raise ValueError(f"void must be a number of blocks, but is {void!r}")
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"values must have shape (blocks, levels), but have {table.shape}")
    if not np.isfinite(table).all():
        block, level = np.argwhere(~np.isfinite(table))[0].tolist()
        raise ValueError(f"values must be finite, but are {table[block, level]} in block {block} at level {level}")
    return table
