"""Agreement of a verdict with the record of an earlier one: what fails a run, and what is only said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gia.harness.decide.verdicts import Verdict

Record = Mapping[str, Any]

#: What is said of a verdict whose lane has no record of its row.
FIRST = "first run: nothing to compare with"

#: Effects below this are rounding errors of float64 alone.
_ROUNDING = 1e-12


def record_of(
    verdict: Verdict, *, digest: str, commit: str, witness: Sequence[Sequence[int] | None] = ()
) -> dict[str, Any]:
    """The record of a verdict, as plain JSON.

    Args:
        digest: of the table that it was decided on (`gia.harness.decide.table.Table.digest`).
        commit: at which it was measured.
        witness: for each look of the row's test, the blocks on which it is certain to be inconclusive
            (`gia.harness.decide.early.witness`); kept where the row is inconclusive.

    >>> verdict = Verdict("op.size", "supported", 2.0, "dB", (1.5, 2.5), 8, 1, 1, None, "", "psnr 24/22", {})
    >>> record = record_of(verdict, digest="c8638c12c745b295", commit="0f3adc1")
    >>> record["outcome"], record["interval"], record["look"]
    ('supported', [1.5, 2.5], 1)
    """
    certain = verdict.outcome == "inconclusive" and any(witness)
    return {
        "outcome": verdict.outcome,
        "effect": verdict.effect,
        "interval": None if verdict.interval is None else list(verdict.interval),
        "unit": verdict.unit,
        "blocks": verdict.blocks,
        "void": verdict.void,
        "look": verdict.look,
        "digest": digest,
        "commit": commit,
        **({"witness": list(witness)} if certain else {}),
    }


def disagreement(record: Record | None, verdict: Verdict, *, digest: str, lane_of_record: str, lane: str) -> str | None:
    """Why a verdict fails against its record, in words; None where it does not.

    On the same blocks of the same lane the outcome must be the recorded one. On other blocks only "supported" against
    "refuted" fails, since an inconclusive outcome contradicts nothing.

    Args:
        record: of the claim, as `record_of` makes it; None without one.
        digest: of the table that the verdict was decided on.
        lane_of_record: lane of the record, such as "claims"; what follows a colon does not count.
        lane: of the verdict.

    >>> verdict = Verdict("op.size", "refuted", 0.2, "dB", (0.1, 0.3), 8, 0, 1, None, "", "psnr 24/22", {})
    >>> record = {"outcome": "supported", "effect": 2.0, "unit": "dB", "digest": "c8638c12", "commit": "0f3adc1"}
    >>> print(disagreement(record, verdict, digest="2b4c8d1e", lane_of_record="confirm", lane="claims"))
    op.size: supported on record (confirm), now refuted on other blocks (+2 dB, commit 0f3adc1; now +0.2 dB)
    >>> disagreement(None, verdict, digest="2b4c8d1e", lane_of_record="confirm", lane="claims")
    """
    if record is None or record["outcome"] == verdict.outcome:
        return None
    same = _same_blocks(record, digest, lane_of_record, lane)
    if same or {record["outcome"], verdict.outcome} == {"supported", "refuted"}:
        return _difference(record, verdict, same, lane_of_record)
    return None


def notice(
    record: Record | None,
    verdict: Verdict,
    *,
    digest: str,
    lane_of_record: str,
    lane: str,
    margin: float | None = None,
) -> str | None:
    """What a reader should know of a verdict and its record that does not fail; None where there is nothing to say.

    Args:
        record, verdict, digest, lane_of_record, lane: as in `disagreement`.
        margin: of the claim. A difference of less than a thousandth of it is rounding, of which nothing is said.

    >>> verdict = Verdict("op.size", "inconclusive", 0.4, "dB", (-1, 2), 8, 0, 1, None, "", "psnr 24/23", {})
    >>> notice(None, verdict, digest="2b4c8d1e", lane_of_record="claims", lane="claims")
    'first run: nothing to compare with'
    """
    if record is None:
        return FIRST
    if disagreement(record, verdict, digest=digest, lane_of_record=lane_of_record, lane=lane) is not None:
        return None
    same = _same_blocks(record, digest, lane_of_record, lane)
    if record["outcome"] != verdict.outcome or (same and _moved(record["effect"], verdict.effect, margin)):
        return _difference(record, verdict, same, lane_of_record)
    return None


def _same_blocks(record: Record, digest: str, lane_of_record: str, lane: str) -> bool:
    return _lane(lane_of_record) == _lane(lane) and bool(record["digest"] == digest)


def _moved(before: float | None, now: float | None, margin: float | None) -> bool:
    """Whether an effect is another one, by more than rounding and in the digits that are printed."""
    if before is None or now is None:
        return before is not now
    rounding = abs(now - before) < 1e-3 * (margin or 0) or max(abs(before), abs(now)) < _ROUNDING
    return not rounding and _number(before, "") != _number(now, "")


def _lane(name: str) -> str:
    return name.partition(":")[0]


def _difference(record: Record, verdict: Verdict, same: bool, lane_of_record: str) -> str:
    """Both outcomes first, since a terminal may cut off the numbers."""
    blocks, lane = "the same" if same else "other", _lane(lane_of_record)
    outcomes = f"{record['outcome']} on record ({lane}), now {verdict.outcome} on {blocks} blocks"
    then, now = _number(record["effect"], record["unit"]), _number(verdict.effect, verdict.unit)
    return f"{verdict.id}: {outcomes} ({then}, commit {record['commit']}; now {now})"


def _number(effect: float | None, unit: str) -> str:
    return "no effect" if effect is None else f"{effect:+.3g} {unit}"
