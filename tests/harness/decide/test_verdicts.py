"""Every kind of table to its verdict: the rules at their borders, the signs, the refusals."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gia.harness.decide.register import Claim
from gia.harness.decide.verdicts import NOTHING_TO_LOSE, affected, count, equivalence, paired, trend

unit = settings(settings.get_profile("unit"), max_examples=25)
LEVELS = [0.0, 1.0, 2.0, 3.0]


def claim(kind, *, margin=1.0, direction=None, number=None):
    """A row of the register with this kind, in the direction "worse" if the kind needs one."""
    direction = direction or ("worse" if kind in ("trend", "paired") else None)
    return Claim("c.x", "It is so.", kind, "psnr", "dB", margin, direction, "Fig. 1", "1 to 2", number=number)


def eight(low, middle, high):
    """Eight blocks whose minimum, median and maximum these are."""
    return np.array([low, *[middle] * 6, high])


def difference(kind, effects, **options):
    """A verdict on pairs with these effects in the claimed direction."""
    decide = {"paired": paired, "affected": affected}[kind]
    return decide(claim(kind), np.zeros(len(effects)), -effects if kind == "paired" else effects, **options)


# Rules: truth.md, rule 8, with margin 1.


@pytest.mark.parametrize(
    ("low", "middle", "high", "outcome", "direction"),
    [
        (1.1, 1.5, 2.0, "supported", None),
        (1.0, 1.5, 2.0, "inconclusive", "certain"),  # the low end at the margin
        (0.1, 1.5, 2.0, "inconclusive", "certain"),  # a large median with a low end below the margin
        (0.1, 0.5, 1.0, "inconclusive", "certain"),  # the high end at the margin
        (0.0, 1.5, 2.0, "inconclusive", None),  # 0 in the interval
        (-0.5, 1.5, 2.0, "inconclusive", None),
        (0.1, 0.5, 0.9, "refuted", "certain"),  # smaller than the margin, if it exists
        (-3.0, -2.0, -1.0, "refuted", None),  # the other way round
        (0.0, 0.0, 0.0, "refuted", None),  # dead
    ],
)
def test_a_pair_or_trend_needs_an_interval_above_the_margin(low, middle, high, outcome, direction):
    """If this fails, verdicts follow another rule than the committed one: l > m; h < m; direction where l > 0."""
    effects = eight(low, middle, high)
    pair = difference("paired", effects)
    slope = trend(claim("trend"), LEVELS, 20 - effects[:, None] * np.array(LEVELS))
    assert slope.effect == pytest.approx(middle)
    assert pair.interval == (low, high)
    exact = {low, middle, high} & {0.0, 1.0}  # a least-squares slope is exact up to rounding only
    for verdict in [pair] if exact else [pair, slope]:
        assert verdict.outcome == outcome
        assert verdict.detail.get("direction") == direction
        assert ("direction certain" in verdict.measured) == (direction is not None)
        assert ("direction certain, size not" in verdict.measured) == (direction is not None and outcome != "refuted")


def test_an_effect_of_exactly_the_margin_in_every_block_is_neither_supported_nor_refuted():
    """If this fails, an inequality is not strict, and rounding decides."""
    assert difference("paired", eight(1, 1, 1)).outcome == "inconclusive"
    assert difference("affected", eight(1, 1, 1)).outcome == "inconclusive"
    assert difference("affected", eight(-1, -1, -1)).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("levels", "outcome", "reason"),
    [
        ([0.0, 5.0, 7.0], "supported", "the interval lies above the margin, and no step reverses by it"),
        ([0.0, 7.0, 6.1], "supported", "the interval lies above the margin, and no step reverses by it"),
        ([0.0, 8.0, 6.9], "refuted", "a step between levels reverses by the margin"),  # slope 3.45
        ([0.0, -1.1, 9.0], "refuted", "a step between levels reverses by the margin"),
        ([0.0, 0.5, 0.6], "refuted", "the interval lies below the margin"),
    ],
)
def test_a_trend_is_ordered_at_every_step(levels, outcome, reason):
    """If this fails, a slope, (last - first) / 2 over three levels, supports tables that go up and down."""
    verdict = trend(claim("trend", direction="better"), [0, 1, 2], np.array(levels) + np.arange(8)[:, None] / 100)
    assert (verdict.outcome, verdict.detail["reason"]) == (outcome, reason)
    assert len(verdict.detail["steps"]) == 2


def test_a_step_that_reverses_is_no_certain_direction():
    """If this fails, a table that falls for certain between two levels is said to rise for certain."""
    falls = np.array([0.0, 2.1, 0.9]) + np.arange(8)[:, None] / 100  # slope .45, last step -1.2
    verdict = trend(claim("trend", direction="better"), [0, 1, 2], falls)
    assert (verdict.outcome, verdict.detail["reason"]) == ("refuted", "a step between levels reverses by the margin")
    assert "direction" not in verdict.detail
    assert "direction" not in verdict.measured


def test_a_step_that_may_reverse_withholds_support():
    """If this fails, one step that goes either way passes for ordered, since the slope is steep."""
    rises = np.array([0.0, 8.0, 8.0]) + np.zeros((8, 1))
    rises[:4, 2] -= 1.5  # in half of the blocks
    verdict = trend(claim("trend", direction="better"), [0, 1, 2], rises)
    assert verdict.interval[0] > 1
    assert verdict.outcome == "inconclusive"
    assert "may reverse" in verdict.detail["reason"]
    assert "direction" not in verdict.detail


def test_a_step_is_judged_per_unit_of_the_levels():
    """If this fails, a long step may reverse by less than a short one. -1.5 over a step of 2 is within the margin."""
    table = np.array([0.0, 10.0, 8.5]) + np.arange(8)[:, None] / 100
    assert trend(claim("trend", direction="better"), [0, 1, 3], table).outcome == "supported"
    assert trend(claim("trend", direction="better"), [0, 1, 2], table).outcome == "refuted"
    assert trend(claim("trend", direction="worse"), [0, 1, 3], -table).outcome == "supported"


@pytest.mark.parametrize(
    ("low", "middle", "high", "outcome", "words"),
    [
        (1.1, 1.5, 2.0, "supported", "B is higher"),
        (-2.0, -1.5, -1.1, "supported", "B is lower"),  # either direction
        (0.1, 1.5, 2.0, "inconclusive", None),  # apart from 0, but the low end is inside the margin
        (1.0, 1.5, 2.0, "inconclusive", None),
        (-1.0, 0.0, 0.9, "inconclusive", None),  # the low end at the margin
        (-0.9, 0.0, 0.9, "refuted", None),
        (0.1, 0.5, 0.9, "refuted", None),  # different from 0, but by less than the margin
    ],
)
def test_affected_is_two_sided_and_says_which_way(low, middle, high, outcome, words):
    """If this fails, verdicts follow another rule: [l, h] wholly outside [-m, m]; inside (-m, m)."""
    verdict = difference("affected", eight(low, middle, high))
    assert verdict.outcome == outcome
    assert ("B is" in verdict.measured) == (words is not None)
    assert words is None or words in verdict.measured


@pytest.mark.parametrize(
    ("second", "outcome", "shown"),
    [
        ((1.2, 1.5, 2.0), "supported", (1.1, 3.0)),  # the weaker one is shown
        ((0.5, 1.5, 2.0), "inconclusive", (0.5, 2.0)),
        ((0.1, 0.2, 0.9), "refuted", (0.1, 0.9)),
        ((-2.0, -1.5, -1.0), "refuted", (-2.0, -1.0)),
    ],
)
def test_a_pair_of_several_comparisons_holds_if_all_do_and_fails_if_one_does(second, outcome, shown):
    """If this fails, one comparison in three carries the others, or the one that failed is not shown."""
    b = -np.stack([eight(1.1, 2.0, 3.0), eight(*second)], axis=1)
    verdict = paired(claim("paired"), np.zeros((8, 2)), b)
    assert (verdict.outcome, verdict.interval) == (outcome, shown)
    assert "the worst of 2 comparisons decides" in verdict.measured
    assert verdict.p == max(difference("paired", -column).p for column in b.T)
    assert (verdict.detail.get("direction") == "certain") == (outcome != "supported" and second[0] > 0)
    alone = paired(claim("paired"), np.zeros((8, 1)), b[:, :1])
    assert (alone.outcome, alone.interval) == ("supported", (1.1, 3.0))


# Room: truth.md, rule 2, with margin 1: 2 for two levels, and 2 / .5, 2 / .4 for trends over three and four.


def roomy(kind, room, *, outcome="supported"):
    """A verdict that is "supported" or "refuted" with this room."""
    size = 3.0 if (outcome == "supported") != (kind == "equivalence") else 0.0
    falling = 20 - size * np.arange(3) + np.arange(8)[:, None] / 100
    return {
        "trend": lambda c: trend(c, [0, 1, 2], falling, room=room),
        "paired": lambda c: paired(c, falling[:, 0], falling[:, 1], room=room),
        "affected": lambda c: affected(c, falling[:, 0], falling[:, 1], room=room),
        "equivalence": lambda c: equivalence(c, falling, room=room),
        "count": lambda c: count(c, falling, claimed=falling[0] if outcome == "supported" else 0, room=room),
    }[kind](claim(kind))


@pytest.mark.parametrize("outcome", ["supported", "refuted"])
@pytest.mark.parametrize(
    ("kind", "enough", "little", "needed"),
    [
        ("trend", [0.0, 4.0, 1.0], [3.9, 3.9, 3.9], 4.0),
        ("paired", [2.0, 0.0], [1.9, 1.9], 2.0),
        ("affected", [0.0, 2.0], [1.9, 1.9], 2.0),
        ("equivalence", [0.0, 2.0, 0.0], [1.9, 1.9, 1.9], 2.0),
        ("count", [0.0, 2.0, 0.0], [1.9, 1.9, 1.9], 2.0),
    ],
)
def test_without_room_a_row_is_neither_supported_nor_refuted(kind, enough, little, needed, outcome):
    """If this fails, levels that leak nothing are equal, or worse, or refute what could not be seen in them."""
    assert roomy(kind, None, outcome=outcome).outcome == outcome
    assert roomy(kind, enough, outcome=outcome).outcome == outcome
    without = roomy(kind, little, outcome=outcome)
    assert (without.outcome, without.detail["reason"]) == ("inconclusive", NOTHING_TO_LOSE)
    assert without.detail["room"] == {"largest": max(little), "needed": pytest.approx(needed)}
    assert "nothing to lose" in without.measured
    assert "direction" not in without.detail


def test_the_room_of_a_trend_follows_its_levels():
    """If this fails, a trend over four levels is judged where its slope cannot reach twice the margin: 2 / .4 = 5."""
    falling = 20 - 3 * np.array(LEVELS) + np.arange(8)[:, None] / 100
    assert trend(claim("trend"), LEVELS, falling, room=[5.0, 0, 0, 0]).outcome == "supported"
    assert trend(claim("trend"), LEVELS, falling, room=[4.9, 0, 0, 0]).outcome == "inconclusive"


def test_every_one_of_several_comparisons_needs_room():
    """If this fails, a type of attack that leaks nothing is placed among those that do."""
    a, b = np.zeros((8, 2)), np.full((8, 2), -3.0)
    assert paired(claim("paired"), a, b, room=[2.0, 2.0]).outcome == "supported"
    assert paired(claim("paired"), a, b, room=[9.0, 1.9]).detail["reason"] == NOTHING_TO_LOSE


@pytest.mark.parametrize("room", [[1.0], [1.0, np.nan], [[1.0, 2.0]], 3.0])
def test_a_room_that_does_not_fit_is_refused(room):
    """If this fails, the room of one level speaks for another, or NaN for any."""
    with pytest.raises(ValueError, match="room: expected 2 finite medians, got"):
        paired(claim("paired"), np.ones(8), np.ones(8), room=room)


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


@pytest.mark.parametrize(("blocks", "left_out", "coverage"), [(16, 1, 65502 / 65536), (32, 7, 0.9979)])
def test_later_looks_leave_blocks_at_each_end_out(blocks, left_out, coverage):
    """If this fails, a later look is a test at another level. Ranks 2 of 16 and 8 of 32: truth.md, rule 8."""
    outliers = np.linspace(5, 9, left_out)
    effects = np.array([*-outliers, *np.linspace(2, 3, blocks - 2 * left_out), *outliers])
    verdict = difference("paired", effects, look=2 if blocks == 16 else 3)
    assert (verdict.outcome, verdict.interval) == ("supported", (2.0, 3.0))
    assert verdict.look == (2 if blocks == 16 else 3)
    assert verdict.detail["coverage"] == pytest.approx(coverage, abs=5e-5)


@pytest.mark.parametrize("blocks", [0, 1, 7, 9, 31])
@pytest.mark.parametrize("kind", ["trend", "paired", "affected", "equivalence", "count"])
def test_another_number_of_valid_blocks_is_inconclusive_whatever_they_say(kind, blocks):
    """If this fails, seven blocks that agree pass for evidence at 99 %, or a run without valid blocks crashes."""
    falling = 90 - 30 * np.arange(3) + np.zeros((blocks, 1))
    verdict = {
        "trend": lambda c: trend(c, [0, 1, 2], falling, void=2, room=[9, 9, 9]),
        "paired": lambda c: paired(c, falling[:, 0], falling[:, 1], void=2, room=[0, 0]),
        "affected": lambda c: affected(c, falling[:, 0], falling[:, 1], void=2),
        "equivalence": lambda c: equivalence(c, falling * 0, void=2),
        "count": lambda c: count(c, falling[:, 0], claimed=90, void=2),
    }[kind](claim(kind))
    assert verdict.outcome == "inconclusive"
    assert (verdict.interval, verdict.blocks, verdict.void) == (None, blocks, 2)
    assert verdict.detail["reason"] == f"{blocks} valid blocks, and 2 void: expected 8, 16 or 32 valid ones"
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
        (
            lambda: paired(claim("paired"), np.ones(8), np.ones(7)),
            r"a, b: expected shape \(blocks,\) or ",
        ),
        (lambda: affected(claim("affected"), np.ones((8, 1)), np.ones((8, 1))), "a, b: expected shape"),
        (lambda: paired(claim("paired"), np.ones(8), np.ones(8), look=4), "look: expected 1, 2 or 3"),
        (lambda: paired(claim("paired"), np.ones(8), np.ones(8), void=-1), "void: expected a number of blocks"),
    ],
)
def test_a_call_that_does_not_fit_the_claim_is_refused(call, message):
    """If this fails, a table is judged by the rules of another kind, or by numbers that are not its own."""
    with pytest.raises(ValueError, match=message):
        call()


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
    table=arrays.arrays(float, (8, 3), elements=st.floats(-50, 50)),
    order=st.permutations(range(8)),
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
