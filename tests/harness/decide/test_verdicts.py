"""Every kind of table to its verdict: the rules at their borders, the signs, the refusals."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import affected, count, equivalence, needs_second_look, paired, trend

unit = settings(settings.get_profile("unit"), max_examples=25)
LEVELS = [0.0, 1.0, 2.0, 3.0]


def claim(kind, *, margin=1.0, direction=None, number=None):
    """A row of the register with this kind, in the direction "worse" if the kind needs one."""
    direction = direction or ("worse" if kind in ("trend", "paired") else None)
    return Claim("c.x", "It is so.", kind, "psnr", "dB", margin, direction, "Fig. 1", "1 to 2", {}, number=number)


def eight(low, middle, high):
    """Eight blocks whose minimum, median and maximum these are."""
    return np.array([low, *[middle] * 6, high])


def difference(kind, effects, **options):
    """A verdict on pairs with these effects in the claimed direction."""
    decide = {"paired": paired, "affected": affected}[kind]
    return decide(claim(kind), np.zeros(len(effects)), -effects if kind == "paired" else effects, **options)


# Rules: harness.md, "Statistics", with margin 1.


@pytest.mark.parametrize(
    ("low", "middle", "high", "outcome"),
    [
        (0.1, 1.0, 2.0, "supported"),  # the effect at the margin
        (0.0, 1.0, 2.0, "inconclusive"),  # 0 in the interval
        (0.1, 0.9, 2.0, "inconclusive"),  # a median below the margin
        (0.1, 0.5, 1.0, "inconclusive"),  # the high end at the margin
        (0.1, 0.5, 0.9, "refuted"),  # smaller than the margin, if it exists
        (-3.0, -2.0, -1.0, "refuted"),  # the other way round
        (0.0, 0.0, 0.0, "refuted"),  # dead
    ],
)
def test_a_pair_or_trend_needs_an_interval_above_zero_and_an_effect_of_the_margin(low, middle, high, outcome):
    """If this fails, verdicts follow another rule than the committed one: l > 0 and e >= m; u < m."""
    effects = eight(low, middle, high)
    pair = difference("paired", effects)
    slope = trend(claim("trend"), LEVELS, 20 - effects[:, None] * np.array(LEVELS))
    assert pair.outcome == outcome
    assert slope.effect == pytest.approx(middle)
    assert pair.interval == (low, high)
    if not {low, middle, high} & {0.0, 1.0}:  # a least-squares slope is exact up to rounding only
        assert slope.outcome == outcome


@pytest.mark.parametrize(
    ("low", "middle", "high", "outcome"),
    [
        (0.1, 1.0, 2.0, "supported"),
        (-2.0, -1.0, -0.1, "supported"),  # either direction
        (0.0, 1.0, 2.0, "inconclusive"),
        (0.1, 0.9, 2.0, "inconclusive"),
        (-1.0, 0.0, 0.9, "inconclusive"),  # the low end at the margin
        (-0.9, 0.0, 0.9, "refuted"),
        (0.1, 0.5, 0.9, "refuted"),  # different from 0, but by less than the margin
    ],
)
def test_affected_is_two_sided(low, middle, high, outcome):
    """If this fails, verdicts follow another rule: 0 outside [l, u] and |e| >= m; [l, u] inside (-m, m)."""
    assert difference("affected", eight(low, middle, high)).outcome == outcome


@pytest.mark.parametrize(
    ("second", "third", "outcome", "shown"),
    [
        ((-0.9, 0.0, 0.5), (-0.5, 0.0, 0.8), "supported", (-0.9, 0.5)),
        ((-0.9, 0.0, 0.5), (-0.5, 0.0, 1.0), "inconclusive", (-0.5, 1.0)),  # an end at the margin
        ((-9.0, 0.0, 9.0), (1.1, 1.2, 1.3), "refuted", (1.1, 1.3)),  # what refutes is shown, not what reaches furthest
        ((-1.3, -1.2, -1.1), (0.0, 0.0, 0.0), "refuted", (-1.3, -1.1)),
        ((1.0, 1.2, 1.3), (0.0, 0.0, 0.0), "inconclusive", (1.0, 1.3)),
    ],
)
def test_equivalence_holds_every_level_against_the_first(second, third, outcome, shown):
    """If this fails, verdicts follow another rule: every [l, u] inside (-m, m); one wholly outside [-m, m]."""
    values = 20 + np.stack([np.zeros(8), eight(*second), eight(*third)], axis=1)
    verdict = equivalence(claim("equivalence"), values)
    assert verdict.outcome == outcome
    assert verdict.interval == pytest.approx(shown)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (59.0, 61.0, "supported"),  # ends at the margin count as inside
        (58.0, 61.0, "inconclusive"),
        (61.0, 62.0, "inconclusive"),  # touching is not disjoint
        (62.0, 63.0, "refuted"),
        (57.0, 58.0, "refuted"),
    ],
)
def test_a_count_needs_the_interval_inside_the_claimed_number_give_or_take_the_margin(low, high, outcome):
    """If this fails, verdicts follow another rule: the claimed 60 +- 1 contains the interval; is disjoint from it."""
    assert count(claim("count"), eight(low, low, high), claimed=60).outcome == outcome
    levels = np.stack([np.full(8, 64.0), eight(low, low, high)], axis=1)
    assert count(claim("count"), levels, claimed=[64, 60]).outcome == outcome


def test_a_count_of_boolean_trials_uses_the_exact_binomial_interval():
    """If this fails, a rate from independent trials gets the interval of a median, which for rare events is [0, 0]."""
    none = np.zeros(299, dtype=bool)
    alarms = claim("count", margin=0.01, number=0.0)
    assert count(alarms, none, alternative="less", coverage=0.95).outcome == "supported"
    assert count(alarms, none[:-1], alternative="less", coverage=0.95).outcome == "inconclusive"
    assert count(alarms, none).interval == (0.0, pytest.approx(1 - 0.005 ** (1 / 299)))
    assert count(alarms, ~none).outcome == "refuted"
    assert count(alarms, none[:0]).outcome == "inconclusive"
    shares = np.ones(8)  # of the images of eight batches: numbers, though each is 0 or 1
    assert count(claim("count", margin=0.1, number=1.0), shares).interval == (1.0, 1.0)


def test_the_claimed_number_is_the_registers_unless_given():
    """If this fails, a count is compared with nothing, or with a number that no row states."""
    assert count(claim("count", number=60.0), eight(60, 60, 60)).outcome == "supported"
    assert count(claim("count", number=60.0), eight(60, 60, 60), claimed=50).outcome == "refuted"
    for number in (None, [60, 60, 60], float("nan")):
        with pytest.raises(ValueError, match="claimed: expected one number, or one for each of 2 levels"):
            count(claim("count"), np.zeros((8, 2)), claimed=number)


def test_options_of_trials_are_refused_for_scores():
    """If this fails, a coverage that a caller asks for is silently not used, or used where none may be."""
    for options in ({"alternative": "less"}, {"coverage": 0.95}):
        with pytest.raises(ValueError, match="alternative, coverage: expected for boolean values only"):
            count(claim("count"), eight(60, 60, 60), claimed=60, **options)


@pytest.mark.parametrize(
    ("direction", "outcome"), [("worse", "supported"), ("lower", "supported"), ("better", "refuted")]
)
def test_the_claims_direction_gives_the_sign(direction, outcome):
    """If this fails, a metric that falls supports a claim that it rises."""
    falling = 20 - 2 * np.array(LEVELS) + np.arange(8)[:, None]
    assert trend(claim("trend", direction=direction), LEVELS, falling).outcome == outcome
    assert paired(claim("paired", direction=direction), falling[:, 0], falling[:, 1]).outcome == outcome
    assert abs(trend(claim("trend", direction=direction), LEVELS, falling).effect) == pytest.approx(2)


def test_the_slope_is_per_unit_of_the_levels():
    """If this fails, "per doubling" is per image. PSNR falls by 2 dB at each doubling of B = 1, 2, 4, 8."""
    falling = 20 - 2 * np.arange(4) + np.zeros((8, 1))
    assert trend(claim("trend"), np.log2([1, 2, 4, 8]), falling).effect == pytest.approx(2)
    assert trend(claim("trend"), [1, 2, 4, 8], falling).effect != pytest.approx(2)


def test_sixteen_blocks_leave_two_at_each_end_out():
    """If this fails, the second look is a test at another level than 99.6 %."""
    effects = np.array([-9.0, -8.0, *np.linspace(1, 2, 12), 8.0, 9.0])
    verdict = difference("paired", effects, look=2)
    assert (verdict.outcome, verdict.interval, verdict.look) == ("supported", (1.0, 2.0), 2)
    assert verdict.detail["coverage"] == 65262 / 65536


@pytest.mark.parametrize("blocks", [0, 1, 7])
@pytest.mark.parametrize("kind", ["trend", "paired", "affected", "equivalence", "count"])
def test_too_few_valid_blocks_are_inconclusive_whatever_they_say(kind, blocks):
    """If this fails, seven blocks that agree pass for evidence at 99 %, or a run without valid blocks crashes."""
    falling = 90 - 30 * np.arange(3) + np.zeros((blocks, 1))
    verdict = {
        "trend": lambda c: trend(c, [0, 1, 2], falling, void=8 - blocks),
        "paired": lambda c: paired(c, falling[:, 0], falling[:, 1], void=8 - blocks),
        "affected": lambda c: affected(c, falling[:, 0], falling[:, 1], void=8 - blocks),
        "equivalence": lambda c: equivalence(c, falling * 0, void=8 - blocks),
        "count": lambda c: count(c, falling[:, 0], claimed=90, void=8 - blocks),
    }[kind](claim(kind))
    assert verdict.outcome == "inconclusive"
    assert (verdict.interval, verdict.blocks, verdict.void) == (None, blocks, 8 - blocks)
    assert f"too few valid blocks ({blocks}, and {8 - blocks} void)" in verdict.detail["reason"]
    assert (verdict.effect is None) == (blocks == 0)
    assert (verdict.p is None) == (blocks == 0 or kind == "count")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_place(value):
    """If this fails, NaN sorts to the end of the interval and a broken metric decides."""
    table = np.ones((8, 4))
    table[2, 1] = value
    place = r"values: expected finite numbers, got (nan|inf|-inf) in block 2 at level 1"
    for call in (
        lambda: trend(claim("trend"), LEVELS, table),
        lambda: equivalence(claim("equivalence"), table),
        lambda: count(claim("count"), table, claimed=1),
        lambda: paired(claim("paired"), table[:, 0], table[:, 1]),
        lambda: affected(claim("affected"), table[:, 0], table[:, 1]),
    ):
        with pytest.raises(ValueError, match=place):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: trend(claim("paired"), LEVELS, np.ones((8, 4))),
            "kind: expected 'trend' for this verdict, got 'paired'",
        ),
        (lambda: trend(claim("trend"), LEVELS, np.ones((8, 3))), "levels: expected 3 rising numbers"),
        (
            lambda: trend(claim("trend"), [0, 2, 1], np.ones((8, 3))),
            r"rising numbers, at least two, got \[0.0, 2.0, 1.0\]",
        ),
        (lambda: trend(claim("trend"), [0], np.ones((8, 1))), "levels: expected 1 rising numbers, at least two"),
        (lambda: trend(claim("trend"), LEVELS, np.ones(4)), r"values: expected shape \(blocks, levels\)"),
        (lambda: equivalence(claim("equivalence"), np.ones((8, 1))), "at least two levels"),
        (lambda: paired(claim("paired"), np.ones(8), np.ones(7)), r"a, b: expected shape \(blocks,\) for both"),
        (lambda: affected(claim("affected"), np.ones((8, 1)), np.ones((8, 1))), "a, b: expected shape"),
        (lambda: paired(claim("paired"), np.ones(8), np.ones(8), look=3), "look: expected 1 or 2"),
        (lambda: paired(claim("paired"), np.ones(8), np.ones(8), void=-1), "void: expected a number of blocks"),
    ],
)
def test_a_call_that_does_not_fit_the_claim_is_refused(call, message):
    """If this fails, a table is judged by the rules of another kind, or by numbers that are not its own."""
    with pytest.raises(ValueError, match=message):
        call()


def test_a_second_look_follows_only_an_inconclusive_first():
    """If this fails, a claim is tried until it is green, or given up too early."""
    for look, effects, again in [
        (1, eight(-1, 1, 2), True),
        (1, eight(1, 2, 3), False),
        (1, eight(-3, -2, -1), False),
        (2, eight(-1, 1, 2), False),
        (2, eight(1, 2, 3), False),
    ]:
        assert needs_second_look(difference("paired", effects, look=look)) is again
    assert needs_second_look(difference("paired", eight(1, 2, 3)[:7]))  # too few valid blocks at first


def test_a_p_is_printed_and_never_decides():
    """If this fails, a small p can support what the interval does not, or is missing from the table."""
    steady = 20 - 0.1 * np.array(LEVELS) + np.zeros((8, 1))
    verdict = trend(claim("trend"), LEVELS, steady)
    assert (verdict.outcome, verdict.p_name) == ("refuted", "Page")
    assert verdict.p < 1e-6
    assert "Page p = " in verdict.measured
    two = trend(claim("trend"), [0, 1], steady[:, :2])
    assert (two.p, two.p_name) == (1 / 256, "Wilcoxon")
    assert difference("paired", eight(1, 2, 3)).p == 1 / 256
    assert difference("affected", eight(1, 2, 3)).p == 2 / 256
    assert equivalence(claim("equivalence"), np.zeros((8, 3))).p == 1 / 256


def test_the_verdict_is_plain_json_and_its_line_shows_every_level():
    """If this fails, verdicts.json cannot be written, or the table hides the medians behind one slope."""
    rng = np.random.default_rng(1)
    table = 24 - 2 * np.array(LEVELS) + rng.standard_normal((8, 4)) / 10
    for verdict in (
        trend(claim("trend"), LEVELS, table),
        equivalence(claim("equivalence"), table, look=2, void=2),
        count(claim("count"), table[:, 0] > 0, claimed=1),
    ):
        assert json.loads(json.dumps(dataclasses.asdict(verdict), allow_nan=False))["outcome"] == verdict.outcome
    assert trend(claim("trend"), LEVELS, table).measured.startswith("psnr 24")
    assert trend(claim("trend"), LEVELS, table).measured.count("/") == 3


@unit
@given(
    table=arrays.arrays(float, (9, 3), elements=st.floats(-50, 50)),
    order=st.permutations(range(9)),
    shift=st.sampled_from([-64.0, 0.0, 64.0]),
)
def test_neither_the_order_of_the_blocks_nor_their_level_matters(table, order, shift):
    """If this fails, the verdict depends on which worker finished first, or on the origin of the metric."""
    table = np.round(table * 8) / 8  # exact under the shift
    moved = table[list(order)] + shift

    def verdicts(t):
        return [
            trend(claim("trend"), [0, 1, 2], t),
            paired(claim("paired"), t[:, 0], t[:, 1]),
            affected(claim("affected"), t[:, 0], t[:, 1]),
            equivalence(claim("equivalence"), t),
        ]

    for one, other in zip(verdicts(table), verdicts(moved), strict=True):
        assert (one.outcome, one.effect, one.interval) == (other.outcome, other.effect, other.interval)


def test_the_callers_table_is_left_as_it_was():
    """If this fails, a verdict sorts the store's numbers in place."""
    table = np.random.default_rng(2).standard_normal((8, 4))
    kept = table.copy()
    trend(claim("trend"), LEVELS, table)
    equivalence(claim("equivalence"), table)
    count(claim("count"), table, claimed=0)
    np.testing.assert_array_equal(table, kept)
