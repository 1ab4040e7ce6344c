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
        "inconclusive": "the interval reaches the margin, but contains 0 or has an effect below the margin",
    },
    "affected": {
        "supported": "0 lies outside the interval and the effect reaches the margin",
        "refuted": "the interval lies inside the margin",
        "inconclusive": "the interval leaves the margin, but contains 0 or has an effect below the margin",
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
        look: 1, or 2 after an inconclusive first look.
        p: of the test `p_name`; printed, but it never decides.
        p_name: "Page", "Wilcoxon", or "" without p.
        measured: one line for tables: medians over blocks level by level, and p; or the worst example.
        detail: further numbers, as plain JSON; `reason` explains the outcome.

    >>> verdict = Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 8, 0, 1, None, "", "psnr 24/22", {})
    >>> needs_second_look(verdict)
    False
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
    """Whether eight more blocks are run: after an inconclusive first look, never after the second.

    >>> needs_second_look(Verdict("op.size", "inconclusive", 0.4, "dB", (-1, 2), 8, 0, 1, None, "", "psnr 24/23", {}))
    True
    """
    return verdict.outcome == "inconclusive" and verdict.look == 1


def trend(claim: Claim, levels: Sequence[float], values: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """An ordered factor moves the metric: decided by the slopes of the blocks over the levels.

    Args:
        claim: of kind "trend".
        levels: (levels,), rising: the x of the slopes. Pass log2 of the batch size for slopes per doubling.
        values: (blocks, levels), the metric of the valid blocks; the claim's direction gives the sign of the effect.
        void: number of blocks left out because their control failed.
        look: 1 or 2.

    Raises:
        ValueError: if the claim is of another kind, shapes disagree, the levels do not rise or a value is not finite.

    >>> claim = Claim("op.size", "More is worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB", {})
    >>> verdict = trend(claim, [0, 1, 2], [[24 - 2 * x + block / 10 for x in range(3)] for block in range(8)])
    >>> verdict.outcome, round(verdict.effect, 6)
    ('supported', 2.0)
    """
    table = _table(claim, "trend", values, void, look)
    x = np.asarray(levels, dtype=float)
    if x.shape != table.shape[1:] or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError(f"levels: expected {table.shape[1]} rising numbers, at least two, got {x.tolist()}")
    effects = claim.sign * slopes(x, table)
    p = page_p(table, decreasing=claim.sign < 0)
    test = (wilcoxon_p(effects, alternative="greater"), "Wilcoxon") if p is None else (p, "Page")
    return _conclude(claim, effects[:, None], decide_directed, table, test, void, look, levels=x.tolist())


def paired(claim: Claim, a: ArrayLike, b: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """The metric differs from condition A to B in the claim's direction: decided by the differences of the blocks.

    Args:
        claim: of kind "paired".
        a: (blocks,), the metric under the condition that had to pass its control.
        b: (blocks,), the metric under the other condition, on the same data.
        void, look: as in `trend`.

    Raises:
        ValueError: if the claim is of another kind, the shapes differ or a value is not finite.

    >>> claim = Claim("op.state", "B is worse.", "paired", "psnr", "dB", 1.0, "worse", "Fig. 1", "24, 18 dB", {})
    >>> verdict = paired(claim, [24.0, 25, 26, 24, 25, 26, 24, 25], [20.0, 20, 21, 20, 21, 21, 20, 21])
    >>> verdict.outcome, verdict.effect, verdict.interval
    ('supported', 4.0, (4.0, 5.0))
    """
    table = _pair(claim, "paired", a, b, void, look)
    effects = claim.sign * (table[:, 1] - table[:, 0])
    test = (wilcoxon_p(effects, alternative="greater"), "Wilcoxon")
    return _conclude(claim, effects[:, None], decide_directed, table, test, void, look)


def affected(claim: Claim, a: ArrayLike, b: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """The condition changes the metric in either direction: decided by the differences b - a of the blocks.

    Arguments and errors are those of `paired`, for a claim of kind "affected".

    >>> claim = Claim("op.state", "It matters.", "affected", "psnr", "dB", 1.0, None, "Fig. 1", "24, 18 dB", {})
    >>> verdict = affected(claim, [24.0, 25, 26, 24, 25, 26, 24, 25], [20.0, 20, 21, 20, 21, 21, 20, 21])
    >>> verdict.outcome, verdict.effect
    ('supported', -4.0)
    """
    table = _pair(claim, "affected", a, b, void, look)
    effects = table[:, 1] - table[:, 0]
    test = (wilcoxon_p(effects, alternative="two-sided"), "Wilcoxon")
    return _conclude(claim, effects[:, None], decide_affected, table, test, void, look)


def equivalence(claim: Claim, values: ArrayLike, *, void: int = 0, look: Look = 1) -> Verdict:
    """The factor has no effect: every level minus the first has an interval inside the margin.

    The verdict shows the level that refutes, or else the one whose interval reaches furthest; its p is that of two
    one-sided tests at the worst level. An attack that fails at every level is also equal at every level, so this needs
    blocks with a control.

    Args:
        claim: of kind "equivalence".
        values: (blocks, levels), the metric of the valid blocks, at least two levels.
        void, look: as in `trend`.

    Raises:
        ValueError: if the claim is of another kind, the shape is wrong or a value is not finite.

    >>> claim = Claim("ana.size", "No effect.", "equivalence", "psnr", "dB", 1.0, None, "Fig. 1", "24, 24 dB", {})
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
    return _conclude(claim, effects, decide_equivalence, table, (p, "Wilcoxon"), void, look)


def count(
    claim: Claim,
    values: ArrayLike,
    *,
    claimed: float | Sequence[float] | None = None,
    coverage: float = COVERAGE,
    alternative: Bounds = "two-sided",
    void: int = 0,
    look: Look = 1,
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
        void, look: as in `trend`.

    Raises:
        ValueError: if the claim is of another kind, no number is claimed, the shapes disagree or a value is not finite.

    >>> claim = Claim("detect.alarms", "No alarm.", "count", "rate", "share", 0.01, None, "-", "0 %", {}, number=0.0)
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
    """The verdict on `effects` (blocks, comparisons): their interval, the outcome, and the comparison that it shows."""
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
        raise ValueError(f"claim {claim.id!r}: margin: expected a number for the kind {claim.kind!r}, got None")
    return claim.margin


def _pair(claim: Claim, kind: str, a: ArrayLike, b: ArrayLike, void: int, look: Look) -> Array:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"a, b: expected shape (blocks,) for both, got {a.shape} and {b.shape}")
    return _table(claim, kind, np.stack([a, b], axis=1), void, look)


def _table(claim: Claim, kind: str, values: ArrayLike, void: int, look: Look) -> Array:
    """The values as (blocks, levels) floats, after the call is checked."""
    if claim.kind != kind:
        raise ValueError(f"claim {claim.id!r}: kind: expected {kind!r} for this verdict, got {claim.kind!r}")
    if look not in (1, 2):
        raise ValueError(f"look: expected 1 or 2, got {look!r}")
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
