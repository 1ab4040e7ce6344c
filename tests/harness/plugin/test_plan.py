"""`--plan`: what rows cost is printed, and nothing is measured, written or read."""

from __future__ import annotations

import pytest

from tests.harness.plugin.inner_project import Inner, row, trend

pytest_plugins = ["pytester"]

COST = """

from types import SimpleNamespace

def cost(level):
    if level.size == 4 and level.slope == 1.0:
        raise ValueError("equip: expected an attack\\n without training, got Inverting")
    without = ("training the victim",) if level.slope == 3.0 else ()
    return SimpleNamespace(steps=300, step=level.size, seconds=300.0 * level.size, memory=10**9, without=without)
"""

UNIVERSAL = """
@pytest.mark.claim("toy.exact")
def test_exact(claims):
    claims.without_attack()
    raise AssertionError("not reached")
"""

TABLE = """
@pytest.mark.claim("toy.table")
def test_table(claims):
    claims.table("toy.table", Level(), levels=(1, 2), change=batch, blocks=3)
    raise AssertionError("not reached")
"""


def planning(inner: Inner) -> None:
    """Give the inner laboratory a `cost`."""
    with (inner.path / "planted.py").open("a", encoding="utf-8") as source:
        source.write(COST)


def test_a_plan_has_a_line_for_each_row_and_measures_nothing(inner: Inner) -> None:
    """A run of days would begin unseen, or the plan would begin it."""
    planning(inner)
    rows = [row(f"toy.{name}") for name in ("first", "second", "third", "table")]
    tests = trend("toy.first") + trend("toy.second", slope=1.0) + trend("toy.third", slope=3.0) + TABLE + UNIVERSAL
    inner.write(*rows, row("toy.exact", kind="exact"), tests=tests)
    result = inner.run("--gia-plan")
    result.assert_outcomes(skipped=5)
    assert result.ret == pytest.ExitCode.OK
    text = result.stdout.str()
    for line in (
        "toy.first: 8 blocks x 3 levels, 300 steps of 1 to 4 s: 4.67 h, 1 GB",  # 8 * 300 * (1 + 2 + 4) s
        "toy.second: 8 blocks x 2 levels, 300 steps of 1 to 2 s: 2 h, 1 GB",
        "toy.second: cannot be planned: equip: expected an attack without training, got Inverting",
        "not counted: training the victim",
        "toy.table: 3 blocks x 2 levels, 300 steps of 1 to 2 s: 45 min, 1 GB",
        "4 rows: 12.1 h in one process",
        "not in the sum: toy.second.",
    ):
        assert line in text, line
    assert inner.computed == []
    assert not (inner.path / ".gia" / "runs").exists()


def test_a_plan_divides_by_the_workers(inner: Inner) -> None:
    """A user with eight cores would read eight times the hours."""
    planning(inner)
    inner.write(row("toy.first"), tests=trend("toy.first"))
    text = inner.run("--gia-plan", "--gia-workers=4").stdout.str()
    assert "1 rows: 4.67 h in one process, 1.17 h in 4 if each has one core or device" in text


def test_a_plan_needs_a_laboratory_that_knows_costs(inner: Inner) -> None:
    """An error of the harness would be shown in place of what is missing."""
    inner.write(row("toy.first"), tests=trend("toy.first"))
    result = inner.run("--gia-plan")
    assert "--gia-plan: expected a claims_experiment with 'cost'" in result.stdout.str() + result.stderr.str()
    assert result.ret != pytest.ExitCode.OK
    assert inner.computed == []


@pytest.mark.parametrize("other", ["--gia-lane=confirm", "--gia-placebo=blind", "--gia-lane=reach"])
def test_a_plan_stands_alone(inner: Inner, other: str) -> None:
    """A confirm run would be spent by a question about its cost."""
    planning(inner)
    inner.write(row("toy.first"), tests=trend("toy.first"))
    inner.commit()
    result = inner.run("--gia-plan", other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--gia-plan: expected alone" in result.stderr.str()
