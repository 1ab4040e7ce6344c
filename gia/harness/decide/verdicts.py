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
    Bounds,
    MedianInterval,
    Outcomes,
    binomial_interval,
    decide_affected,
    decide_count,
    decide_equivalence,
    decide_paired,
    decide_trend,
    median_interval,
    page_p,
    ranks,
    slopes,
    steepest_slope,
    steps,
    wilcoxon_p,
)

Look = Literal[1, 2, 3]

#: The reason of a verdict without room.
NOTHING_TO_LOSE = "nothing to lose"

_REASONS = {
    "affected": {
        "supported": "the interval lies wholly beyond the margin",
        "refuted": "the interval lies inside the margin",
        "inconclusive": "the interval contains an end of the margin",
    },
    "equivalence": {
        "supported": "every interval lies inside the margin",
        "refuted": "one interval lies wholly outside the margin",
        "inconclusive": "one interval contains an end of the margin",
    },
    "count": {
        "supported": "the interval lies within the margin around the claimed number",
        "refuted": "the interval lies wholly outside the margin around the claimed number",
        "inconclusive": "the interval contains an end of the margin around the claimed number",
    },
}


@dataclass(frozen=True)
class Verdict:
    """What a run says about one claim.

    Args:
        id: the claim's id.
        outcome: "supported", "refuted" or "inconclusive".
        effect: the number that decides, in `unit`; None if nothing was measured. Its sign depends on the kind:

            - trend, paired: the median over blocks; positive in the claimed direction, whatever the metric does.
            - affected, equivalence: the median over blocks of the level that decides minus the first level, so the
              sign is the metric's own and says nothing about the outcome.
            - count: the number itself, a median or a rate.
            - universal: the smallest margin by which the statement holds; negative if it fails.
            - exact: the largest error, never negative.
        unit: the claim's unit.
        interval: of the effect, with a coverage of at least 99 % unless `count` was asked for less; None with too few
            blocks and for universal and exact.
        blocks: number of valid blocks, of trials, or of distinct valid examples.
        void: number of blocks whose control failed; no other number contains them.
        look: 1, 2 or 3: the last one that was taken.
        p: of the test `p_name`; printed, but it never decides.
        p_name: "Page", "Wilcoxon", or "" without p.
        measured: one line for tables: medians over blocks level by level, and p; or the worst example.
        detail: further numbers, as plain JSON. `reason` explains the outcome. `direction` is "certain" where a trend or
            a pair surely goes in the claimed direction, but its size is not shown. `room` holds the largest median that
            can be lost and how much a row needs. `by_interval` is the outcome without regard to room.

    >>> verdict = Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 8, 0, 1, None, "", "psnr 24/22", {})
    >>> verdict.outcome
    'supported'
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


def trend(
    claim: Claim,
    levels: Sequence[float],
    values: ArrayLike,
    *,
    room: ArrayLike | None = None,
    void: int = 0,
    look: Look = 1,
    tries: int = 1,
) -> Verdict:
    """An ordered factor moves the metric: decided by the slopes of the blocks, and no step may reverse.

    Args:
        claim: of kind "trend".
        levels: (levels,), rising: the x of the slopes. Pass log2 of the batch size for slopes per doubling.
        values: (blocks, levels), the metric of the valid blocks; the claim's direction gives the sign of the effect.
        room: (levels,), the medians of what can be lost, in the claim's unit. Without a level at which the steepest
            possible slope is twice the margin, the verdict is inconclusive; None asks for none.
        void: number of blocks left out because a control failed.
        look: 1, 2 or 3.
        tries: how often the row was run on new blocks after a change, this run included; intervals widen with it
            (`gia.harness.decide.statistics.ranks`).

    Raises:
        ValueError: if the claim is of another kind, shapes disagree, the levels do not rise or a value is not finite.

    >>> claim = Claim("op.size", "More is worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
    >>> verdict = trend(claim, [0, 1, 2], [[24 - 2 * x + block / 10 for x in range(3)] for block in range(8)])
    >>> verdict.outcome, round(verdict.effect, 6)
    ('supported', 2.0)
    """
    table = _table(claim, "trend", values, void, look)
    x = np.asarray(levels, dtype=float)
    if x.shape != table.shape[1:] or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError(f"levels: expected {table.shape[1]} rising numbers, at least two, got {x.tolist()}")
    effects, each = claim.sign * slopes(x, table), claim.sign * steps(x, table)
    p = page_p(table, decreasing=claim.sign < 0)
    test = (wilcoxon_p(effects, alternative="greater"), "Wilcoxon") if p is None else (p, "Page")
    step = median_interval(each, tries=tries) if len(table) in ranks(tries) else None

    def decide(slope: MedianInterval, margin: float) -> Outcomes:
        assert step is not None  # where the slope has an interval
        return decide_trend(slope, margin, steps=step)

    found = _room(room, (len(x),), max, 2 * _margin(claim) / steepest_slope(x))
    places = {"levels": x.tolist()}
    return _conclude(claim, effects[:, None], decide, table, test, (void, look, tries), room=found, step=step, **places)


def paired(
    claim: Claim,
    a: ArrayLike,
    b: ArrayLike,
    *,
    room: ArrayLike | None = None,
    void: int = 0,
    look: Look = 1,
    tries: int = 1,
) -> Verdict:
    """The metric differs from condition A to B in the claim's direction: decided by the differences of the blocks.

    Args:
        claim: of kind "paired".
        a: (blocks,), the metric under one condition; or (blocks, comparisons), each of which the claim makes. Then it
            is supported if all comparisons are, and refuted if one is.
        b: of the same shape, the metric under the other condition, on the same data.
        room: (2,), the medians of what can be lost under A and B, or (comparisons,), the lesser of both sides'. The
            larger of the two, or every comparison's, must reach twice the margin; None asks for no room.
        void, look, tries: as in `trend`.

    Raises:
        ValueError: if the claim is of another kind, the shapes differ or a value is not finite.

    >>> claim = Claim("op.state", "B is worse.", "paired", "psnr", "dB", 1.0, "worse", "Fig. 1", "24, 18 dB")
    >>> verdict = paired(claim, [24.0, 25, 26, 24, 25, 26, 24, 25], [20.0, 20, 21, 20, 21, 21, 20, 21])
    >>> verdict.outcome, verdict.effect, verdict.interval
    ('supported', 4.0, (4.0, 5.0))
    """
    a, b = _two(a, b, most_dimensions=2)
    several = a.ndim == 2
    table = _table(claim, "paired", np.concatenate([np.atleast_2d(a.T), np.atleast_2d(b.T)]).T, void, look)
    comparisons = table.shape[1] // 2
    effects = claim.sign * (table[:, comparisons:] - table[:, :comparisons])
    test = (max(wilcoxon_p(column, alternative="greater") for column in effects.T), "Wilcoxon")
    found = _room(room, (comparisons if several else 2,), min if several else max, 2 * _margin(claim))
    return _conclude(claim, effects, decide_paired, table, test, (void, look, tries), room=found)


def affected(
    claim: Claim,
    a: ArrayLike,
    b: ArrayLike,
    *,
    room: ArrayLike | None = None,
    void: int = 0,
    look: Look = 1,
    tries: int = 1,
) -> Verdict:
    """The condition changes the metric in either direction: decided by the differences b - a of the blocks.

    Arguments and errors are those of `paired` with a and b of the shape (blocks,), for a claim of kind "affected". The
    line `measured` says in words which way the metric moves.

    >>> claim = Claim("op.state", "It matters.", "affected", "psnr", "dB", 1.0, None, "Fig. 1", "24, 18 dB")
    >>> verdict = affected(claim, [24.0, 25, 26, 24, 25, 26, 24, 25], [20.0, 20, 21, 20, 21, 21, 20, 21])
    >>> verdict.outcome, verdict.effect, "B is lower" in verdict.measured
    ('supported', -4.0, True)
    """
    a, b = _two(a, b, most_dimensions=1)
    table = _table(claim, "affected", np.stack([a, b], axis=1), void, look)
    effects = table[:, 1] - table[:, 0]
    test = (wilcoxon_p(effects, alternative="two-sided"), "Wilcoxon")
    found = _room(room, (2,), max, 2 * _margin(claim))
    return _conclude(claim, effects[:, None], decide_affected, table, test, (void, look, tries), room=found)


def equivalence(
    claim: Claim, values: ArrayLike, *, room: ArrayLike | None = None, void: int = 0, look: Look = 1, tries: int = 1
) -> Verdict:
    """The factor has no effect: every level minus the first has an interval inside the margin.

    The verdict shows the level that refutes, or else the one whose interval reaches furthest; its p is that of two
    one-sided tests at the worst level. An attack that fails at every level is also equal at every level, so this needs
    blocks with a control, and room.

    Args:
        claim: of kind "equivalence".
        values: (blocks, levels), the metric of the valid blocks, at least two levels.
        room: (levels,), the medians of what can be lost; one must reach twice the margin. None asks for no room.
        void, look, tries: as in `trend`.

    Raises:
        ValueError: if the claim is of another kind, the shape is wrong or a value is not finite.

    >>> claim = Claim("ana.size", "No effect.", "equivalence", "psnr", "dB", 1.0, None, "Fig. 1", "24, 24 dB")
    >>> equivalence(claim, [[24.0, 24.1], [25.0, 25.2], [26.0, 25.9], [24.0, 24.0]] * 2).outcome
    'supported'
    """
    table = _table(claim, "equivalence", values, void, look)
    if table.shape[1] < 2:
        raise ValueError(f"values: expected at least two levels, got shape {table.shape}")
    margin = _margin(claim)
    effects = table[:, 1:] - table[:, :1]
    tests: tuple[tuple[float, Alternative], ...] = ((margin, "greater"), (-margin, "less"))
    p = max(wilcoxon_p(column + shift, alternative=tail) for column in effects.T for shift, tail in tests)
    found = _room(room, table.shape[1:], max, 2 * margin)
    return _conclude(claim, effects, decide_equivalence, table, (p, "Wilcoxon"), (void, look, tries), room=found)


def count(
    claim: Claim,
    values: ArrayLike,
    *,
    claimed: float | Sequence[float] | None = None,
    coverage: float = COVERAGE,
    alternative: Bounds = "two-sided",
    room: ArrayLike | None = None,
    void: int = 0,
    look: Look = 1,
    tries: int = 1,
) -> Verdict:
    """A number differs from the claimed one by at most the margin.

    Boolean values are independent trials and get the exact binomial interval of their rate. Numbers are one score per
    trial and get the order-statistic interval of their median. Use them for the share of a batch that is recovered,
    since the images of a batch are not independent trials.

    Args:
        claim: of kind "count".
        values: (trials,) or (trials, levels): booleans, or numbers in the claim's unit.
        claimed: the number, or one per level; by default the claim's `number`.
        coverage: of the interval of boolean trials. Lower it only if the claim states a lower one, since false support
            may then exceed 1 %.
        alternative: "less" bounds the rate of boolean trials only from above.
        room: (levels,), the medians of what can be lost; one must reach twice the margin. None asks for no room.
        void, look, tries: as in `trend`.

    Raises:
        ValueError: if the claim is of another kind, no number is claimed, the shapes disagree or a value is not finite.

    >>> claim = Claim("detect.alarms", "No alarm.", "count", "rate", "share", 0.01, None, "-", "0 %", number=0.0)
    >>> count(claim, [False] * 299, coverage=0.95, alternative="less").outcome
    'supported'
    """
    trials = np.asarray(values).dtype == bool
    values = np.asarray(values, dtype=float)
    table = _table(claim, "count", values[:, None] if values.ndim == 1 else values, void, look)
    number = claim.number if claimed is None else claimed
    target = np.asarray(np.nan if number is None else number, dtype=float)
    if target.shape not in ((), table.shape[1:]) or not np.isfinite(target).all():
        raise ValueError(f"claimed: expected one number, or one for each of {table.shape[1]} levels, got {number!r}")
    if not trials and (alternative, coverage) != ("two-sided", COVERAGE):
        raise ValueError(f"alternative, coverage: expected for boolean values only, got {alternative!r}, {coverage}")
    interval, shown = None, table
    if trials and len(table):
        low, high = binomial_interval(table.sum(axis=0), len(table), coverage=coverage, alternative=alternative)
        shown = table.mean(axis=0, keepdims=True)
        interval = MedianInterval(low, shown[0], high, coverage)
    decide = partial(decide_count, claimed=target)
    found = _room(room, table.shape[1:], max, 2 * _margin(claim))
    detail = {"interval": interval, "centre": target, "claimed": target.tolist()}
    return _conclude(claim, table, decide, shown, (None, ""), (void, look, tries), room=found, **detail)


def _conclude(
    claim: Claim,
    effects: Array,
    decide: Callable[[MedianInterval, float], Outcomes],
    table: Array,
    test: tuple[float | None, str],
    run: tuple[int, Look, int],
    *,
    room: tuple[float, float] | None,
    step: MedianInterval | None = None,
    interval: MedianInterval | None = None,
    centre: Array | float = 0.0,
    **detail: Any,
) -> Verdict:
    """The verdict on `effects` (blocks, comparisons): their interval, the outcome, and the comparison that it shows."""
    void, look, tries = run
    blocks, comparisons = effects.shape
    test = test if blocks else (None, "")
    medians = np.median(table, axis=0).tolist() if blocks else []
    detail |= {"medians": medians, "tries": tries}
    if room is not None:
        detail["room"] = {"largest": room[0], "needed": room[1]}
    if interval is None:
        detail |= {"effects": effects.tolist()}
        interval = median_interval(effects, tries=tries) if blocks in ranks(tries) else None
    if interval is None:
        reason = f"{blocks} valid blocks, and {void} void: expected a number in {list(ranks(tries))}"
        effect = float(np.median(effects[:, 0])) if blocks else None
        detail["reason"] = reason
        return Verdict(claim.id, "inconclusive", effect, claim.unit, None, blocks, void, look, *test, reason, detail)
    outcome = decide(interval, _margin(claim)).item()
    if claim.kind in ("trend", "paired"):
        distance = -interval.high if outcome == "refuted" else -interval.low  # what is furthest from support
    else:
        low, high = interval.low - centre, interval.high - centre
        distance = np.maximum(low, -high) if outcome == "refuted" else np.maximum(np.abs(low), np.abs(high))
    shown = int(distance.argmax())
    effect, bounds = float(interval.median[shown]), (float(interval.low[shown]), float(interval.high[shown]))
    detail |= {"coverage": interval.coverage, "shown": shown, "by_interval": outcome}
    parts = [f"{claim.metric} {'/'.join(f'{median:.4g}' for median in medians)}"]
    parts += [f"the worst of {comparisons} comparisons decides"] if comparisons > 1 else []
    parts += [f"{test[1]} p = {test[0]:.2g}"] if test[0] is not None else []
    if step is not None:
        detail["steps"] = [[float(low), float(high)] for low, high in zip(step.low, step.high, strict=True)]
    if room is not None and room[0] < room[1]:
        outcome, reason = "inconclusive", NOTHING_TO_LOSE
        parts.append(f"nothing to lose: {room[0]:.3g} {claim.unit}, and {room[1]:.3g} are needed")
    elif claim.kind in ("trend", "paired"):
        reason, certain = _directed_reason(outcome, interval, step, _margin(claim))
        if certain:
            detail["direction"] = "certain"
            parts.append("direction certain" if outcome == "refuted" else "direction certain, size not")
    else:
        reason = _REASONS[claim.kind][outcome]
        if claim.kind == "affected" and outcome == "supported":
            parts.append(f"B is {'higher' if effect > 0 else 'lower'}")
    detail["reason"] = reason
    measured = "; ".join(parts)
    return Verdict(claim.id, outcome, effect, claim.unit, bounds, blocks, void, look, *test, measured, detail)


def _directed_reason(
    outcome: str, interval: MedianInterval, step: MedianInterval | None, margin: float
) -> tuple[str, bool]:
    """Why a trend or a pair ends so, and whether its direction is certain while its size is not."""
    least = float(interval.low.min())
    reverses = step is not None and bool((step.high < -margin).any())
    certain = 0 < least <= margin and not reverses
    if outcome == "supported":
        return "the interval lies above the margin" + ("" if step is None else ", and no step reverses by it"), False
    if outcome == "refuted":
        return f"{'a step between levels reverses by' if reverses else 'the interval lies below'} the margin", certain
    if least > margin:
        return "the interval lies above the margin, but a step between levels may reverse by the margin", False
    if certain:
        return "direction certain, size not: the interval lies above 0 and contains the margin", True
    return "the interval contains 0 and the margin", False


def _margin(claim: Claim) -> float:
    if claim.margin is None:
        raise ValueError(f"claim {claim.id!r}: margin: expected a number for the kind {claim.kind!r}, got None")
    return claim.margin


def _two(a: ArrayLike, b: ArrayLike, *, most_dimensions: int) -> tuple[Array, Array]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not 1 <= a.ndim <= most_dimensions or a.shape != b.shape:
        shapes = "(blocks,)" if most_dimensions == 1 else "(blocks,) or (blocks, comparisons)"
        raise ValueError(f"a, b: expected shape {shapes} for both, got {a.shape} and {b.shape}")
    return a, b


def _room(
    room: ArrayLike | None, shape: tuple[int, ...], largest: Callable[[list[float]], float], needed: float
) -> tuple[float, float] | None:
    """What can be lost, and how much a verdict needs."""
    if room is None:
        return None
    medians = np.asarray(room, dtype=float)
    if medians.shape != shape or not np.isfinite(medians).all():
        raise ValueError(f"room: expected {shape[0]} finite medians, got {medians.tolist()}")
    return float(largest(medians.tolist())), needed


def _table(claim: Claim, kind: str, values: ArrayLike, void: int, look: Look) -> Array:
    """The values as (blocks, levels) floats, after the call is checked."""
    if claim.kind != kind:
        raise ValueError(f"claim {claim.id!r}: kind: expected {kind!r} for this verdict, got {claim.kind!r}")
    if look not in (1, 2, 3):
        raise ValueError(f"look: expected 1, 2 or 3, got {look!r}")
    if void < 0:
        raise ValueError(f"void: expected a number of blocks, got {void!r}")
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"values: expected shape (blocks, levels), got {table.shape}")
    if not np.isfinite(table).all():
        block, level = np.argwhere(~np.isfinite(table))[0].tolist()
        raise ValueError(
            f"values: expected finite numbers, got {table[block, level]} in block {block} at level {level}"
        )
    return table
