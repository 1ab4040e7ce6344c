"""A verdict against its record: what fails, what is said, and what is silent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gia.harness.decide.record import FIRST, disagreement, notice, record_of
from gia.harness.decide.verdicts import Verdict

SAME, OTHER = "c8638c12c745b295", "2b4c8d1e0f6a9375"


def verdict(outcome: str, effect: float | None = 2.0) -> Verdict:
    """A verdict with this outcome and effect."""
    interval = None if effect is None else (effect - 1, effect + 1)
    return Verdict("op.size", outcome, effect, "dB", interval, 8, 1, 1, None, "", "psnr 24/22", {})


def against(recorded: str, now: str, *, digest: str, lane: str, effect: float = 2.0) -> tuple[str | None, str | None]:
    """What fails and what is said of a verdict where "claims" has a record with this outcome and an effect of 2 dB."""
    record = record_of(verdict(recorded), digest=SAME, commit="0f3adc1")
    place = {"digest": digest, "lane_of_record": "claims", "lane": lane}
    return disagreement(record, verdict(now, effect), **place), notice(record, verdict(now, effect), **place)


def test_a_record_holds_the_verdict_as_plain_json() -> None:
    """What is stored could not be read back, or lacks what a report shows of it."""
    record = record_of(verdict("supported"), digest=SAME, commit="0f3adc1")
    assert json.loads(json.dumps(record)) == {
        "outcome": "supported",
        "effect": 2.0,
        "interval": [1.0, 3.0],
        "unit": "dB",
        "blocks": 8,
        "void": 1,
        "look": 1,
        "digest": SAME,
        "commit": "0f3adc1",
    }
    assert record_of(verdict("inconclusive", None), digest=SAME, commit="0f3adc1")["interval"] is None


@pytest.mark.parametrize("recorded", ["supported", "refuted", "inconclusive"])
@pytest.mark.parametrize("now", ["supported", "refuted", "inconclusive"])
def test_the_same_blocks_of_a_lane_must_end_as_recorded(recorded: str, now: str) -> None:
    """A change of the code could turn a verdict without a word."""
    failure, said = against(recorded, now, digest=SAME, lane="claims")
    assert (failure is None) == (recorded == now)
    assert said is None
    if failure:
        numbers = "(+2 dB, commit 0f3adc1; now +2 dB)"
        assert failure == f"op.size: {recorded} on record (claims), now {now} on the same blocks {numbers}"


@pytest.mark.parametrize(("digest", "lane"), [(OTHER, "claims"), (OTHER, "confirm:5a17"), (SAME, "confirm:5a17")])
@pytest.mark.parametrize("recorded", ["supported", "refuted", "inconclusive"])
@pytest.mark.parametrize("now", ["supported", "refuted", "inconclusive"])
def test_on_other_blocks_only_supported_against_refuted_fails(recorded: str, now: str, digest: str, lane: str) -> None:
    """Chance would fail a run: another eight blocks are often inconclusive. All other differences are said."""
    failure, said = against(recorded, now, digest=digest, lane=lane)
    assert (failure is not None) == ({recorded, now} == {"supported", "refuted"})
    assert (said is not None) == (recorded != now and failure is None)
    assert "on other blocks" in (failure or said or "on other blocks")


def test_what_follows_the_colon_of_a_lane_does_not_count() -> None:
    """Each frozen commit has its own salt, and none would be compared with its record."""
    record = record_of(verdict("supported"), digest=SAME, commit="0f3adc1")
    lanes = {"lane_of_record": "confirm", "lane": "confirm:5a17"}
    assert disagreement(record, verdict("inconclusive"), digest=SAME, **lanes) is not None


def test_another_effect_on_the_same_blocks_is_said() -> None:
    """A drift that changes no verdict yet would be found when it does."""
    assert against("supported", "supported", digest=SAME, lane="claims", effect=2.001) == (None, None)
    failure, said = against("supported", "supported", digest=SAME, lane="claims", effect=2.3)
    assert failure is None
    numbers = "(+2 dB, commit 0f3adc1; now +2.3 dB)"
    assert said == f"op.size: supported on record (claims), now supported on the same blocks {numbers}"
    assert against("supported", "supported", digest=OTHER, lane="claims", effect=2.3) == (None, None)


@pytest.mark.parametrize(
    ("before", "now", "margin", "said"),
    [
        (5.31e-16, 5.59e-16, None, False),  # the row linear.mixture on two processors
        (-0.0001, 0.0003, 0.5, False),
        (-0.0001, 0.0005, 0.5, True),
        (5.31e-12, 5.59e-12, None, True),
        (None, 0.0, 0.5, True),
        (None, None, 0.5, False),
    ],
)
def test_a_difference_that_is_rounding_is_not_said(
    before: float | None, now: float | None, margin: float | None, said: bool
) -> None:
    """A reader would look at rows of which nothing has changed."""
    record = record_of(verdict("supported", before), digest=SAME, commit="0f3adc1")
    place: dict[str, Any] = {"digest": SAME, "lane_of_record": "claims", "lane": "claims", "margin": margin}
    assert (notice(record, verdict("supported", now), **place) is not None) == said


def test_a_verdict_without_record_is_said_and_does_not_fail() -> None:
    """A new row could not be run, or nobody would know that nothing holds it."""
    place: dict[str, Any] = {"digest": SAME, "lane_of_record": "confirm:5a17", "lane": "claims"}
    assert disagreement(None, verdict("refuted"), **place) is None
    assert notice(None, verdict("refuted"), **place) == FIRST == "first run: nothing to compare with"


def test_nothing_measured_is_compared_too() -> None:
    """A run in which every block is void would crash where it should fail."""
    record = record_of(verdict("supported"), digest=SAME, commit="0f3adc1")
    failure = disagreement(record, verdict("inconclusive", None), digest=SAME, lane_of_record="claims", lane="claims")
    assert failure is not None
    assert failure.endswith("now inconclusive on the same blocks (+2 dB, commit 0f3adc1; now no effect)")
