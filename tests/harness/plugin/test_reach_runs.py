"""Runs that ask in which share of the settings of a row its verdict holds."""

from __future__ import annotations

from tests.harness.plugin.inner_project import CONFIRM, Inner, announce, row

pytest_plugins = ["pytester"]


def test_reach_labels_every_drawn_setting_and_finds_what_moves_it(inner: Inner) -> None:
    """A verdict in the median setting would be taken for one everywhere."""
    tests = """
def by_activation(level, block, *, cache=None):
    slope = {"relu": 2.0, "silu": 0.0}[block.setting["activation"]]
    return measure(replace(level, slope=slope), block)

@pytest.mark.claim("toy.a")
def test_a(claims):
    level = Level(vary={"activation": ("relu", "silu"), "width": (1, 2, 3)}, control=fails_at_first, void=2)
    claims.trend("toy.a", level, levels=(1, 2, 4), change=batch, x=math.log2, measure=by_activation)
"""
    other = """
@pytest.mark.claim("toy.n")
def test_n(claims):
    claims.count("toy.n", Level(), levels=(1,), change=batch, claimed=20)
"""
    inner.write(row("toy.a"), row("toy.n", "count"), tests=tests + other)
    result = inner.run("--gia-lane=reach")
    result.assert_outcomes(passed=1, skipped=1)
    found = inner.records("reach")["toy.a"]
    assert sum(each["count"] for each in found["shares"].values()) == len(found["draws"]) == 24
    assert found["shares"]["void"]["count"] == 2
    for draw in found["draws"][2:]:
        assert draw["label"] == {"relu": "holds", "silu": "no effect"}[draw["setting"]["activation"]]
    assert found["factor"]["factor"] == "activation"
    assert found["factor"]["p"] < 0.01
    assert found["stability"]["settings"] == 16
    assert inner.verdicts["toy.a"]["pictures"] == ["images/toy.a-reach.png"]
    # Void settings are not attacked; the first 16 settings are drawn again in other blocks.
    assert [line for line in inner.computed if line.endswith(" 1")] == [
        *(f"toy.a {index} 1" for index in range(2, 24)),
        *(f"toy.a {1000 + index} 1" for index in range(16)),
    ]
    result = inner.run()
    result.stdout.fnmatch_lines(["*reach: holds *of all settings*"])


def test_a_setting_without_room_at_any_level_is_dead_whatever_its_effect(inner: Inner) -> None:
    """Settings where nothing leaks would count as settings where the factor has no effect."""
    tests = """
def by_activation(level, block, *, cache=None):
    alive = block.setting["activation"] == "relu"
    return Result({"leak": 6.0 + math.log2(level.size) if alive else 0.0})

@pytest.mark.claim("toy.a")
def test_a(claims):
    level = Level(vary={"activation": ("relu", "silu")})
    claims.trend("toy.a", level, levels=(1, 2, 4), change=batch, x=math.log2, measure=by_activation)
"""
    inner.write(row("toy.a", metric="leak"), tests=tests)
    inner.run("--gia-lane=reach").assert_outcomes(passed=1)
    for draw in inner.records("reach")["toy.a"]["draws"]:
        assert draw["label"] == {"relu": "reversed", "silu": "dead"}[draw["setting"]["activation"]]


def test_reach_asks_about_the_blocks_of_the_announced_confirm_run_and_measures_no_row_twice(inner: Inner) -> None:
    """Verdict and reach would be of two samples, and blocks that are stored would be computed again."""
    tests = """
@pytest.mark.claim("toy.{id}")
def test_{id}(claims):
    claims.trend("toy.{id}", Level(vary={"width": (1, 2)}), levels=(1, 2, 4), change=batch, x=math.log2)
"""
    inner.write(row("toy.a"), row("toy.b"), tests="".join(tests.replace("{id}", id) for id in "ab"))
    announce(inner)
    inner.run(CONFIRM, "-k", "test_a").assert_outcomes(passed=1, deselected=1)
    assert len(inner.computed) == 8 * 3
    inner.run("--gia-lane=reach", "-k", "test_a").assert_outcomes(passed=1, deselected=1)
    assert len(inner.computed) == (24 + 16) * 3
    assert "dead" not in inner.records("reach")["toy.a"]["shares"]  # this row is not about a leak
    inner.run(CONFIRM).assert_outcomes(passed=1, skipped=1)  # what reach wrote is no change of the code
    again = inner.run("--gia-lane=reach")
    again.assert_outcomes(passed=1, skipped=1)
    again.stdout.fnmatch_lines(["NOT toy.a: no verdict, reach is on record (*): holds *"])


def test_reach_decides_each_setting_as_the_row_does_and_leaves_out_rows_that_it_cannot(inner: Inner) -> None:
    """A row of two tables would be labelled by levels that it does not judge, or would end in an error."""
    tests = """
from gia.harness.decide import verdicts

VARIED = Level(vary={"width": (1, 2)})

def by_width(level, block, *, cache=None):
    return Result({"leak": 10.0 / level.size if block.setting.get("width", 1) == 1 else 0.0})

def decided(claims, id, base):
    def decide(table, look):
        return verdicts.trend(claims.claim(id), [0, 1], table.values("leak"), look=look, room=table.room("leak"))
    def measured(n):
        return claims.table(id, base, levels=(1, 2), change=batch, blocks=n, measure=by_width)
    return claims.look(measured, decide)

@pytest.mark.claim("toy.tables")
def test_tables(claims):
    def measured(n):
        each = lambda size: claims.table(
            "toy.tables", VARIED, levels=(size,), change=batch, blocks=n, measure=by_width
        )
        return {size: each(size) for size in (1, 2)}
    def decide(tables, look):
        a, b = (tables[size].values("leak")[:, 0] for size in (1, 2))
        return verdicts.paired(claims.claim("toy.tables"), a, b, look=look, room=[a.mean(), b.mean()])
    verdict, tables = claims.look(measured, decide)
    claims.record(verdict, tables=list(tables.values()))

@pytest.mark.claim("toy.apart")
def test_apart(claims):
    found = [decided(claims, "toy.apart", VARIED) for _ in range(2)]
    claims.record(found[0][0], tables=[table for _, table in found])

@pytest.mark.claim("toy.fixed")
def test_fixed(claims):
    verdict, table = decided(claims, "toy.fixed", Level())
    claims.record(verdict, tables=[table])
"""
    rows = [row("toy.tables", "paired", metric="leak"), row("toy.apart", metric="leak")]
    inner.write(*rows, row("toy.fixed", metric="leak"), tests=tests)
    result = inner.run("--gia-lane=reach")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "NOT toy.apart: no verdict, no reach: this row is decided on several tables, each of other settings",
            "NOT toy.fixed: no verdict, no reach: this row compares no levels in a space of settings",
        ]
    )
    assert set(inner.records("reach")) == {"toy.tables"}
    for draw in inner.records("reach")["toy.tables"]["draws"]:
        assert draw["label"] == {1: "holds", 2: "dead"}[draw["setting"]["width"]]
