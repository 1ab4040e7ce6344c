"""A run gives idle workers the blocks of rows to come: the verdicts are the same, and no row pays for another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from gia.harness.blocks.ahead import Ahead
from gia.harness.blocks.store import Store
from gia.harness.plugin.coming import Coming
from tests.harness.plugin.inner_project import RECORD, Inner, row, trend

pytest_plugins = ["pytester"]

#: A row whose blocks wait until a block of another row has begun, which only an idle worker can do.
WAITING = """
import time
from pathlib import Path

def waits(level, block, *, cache=None):
    limit = time.monotonic() + 20
    log = Path("computed.txt")
    while not (log.exists() and "toy.second" in log.read_text(encoding="utf-8")) and time.monotonic() < limit:
        time.sleep(.02)
    return measure(level, block)
"""

TWO = [row("toy.first"), row("toy.second")]


def run(inner: Inner, *options: str) -> pytest.RunResult:
    """Run with two workers, in a process of its own."""
    return inner.pytester.runpytest_subprocess("claims", "--gia-workers=2", *options)


def write_waiting(inner: Inner, *rows: str, tests: str) -> None:
    """A first row whose last block waits for the second row, and the other tests."""
    (inner.path / "planted.py").write_text(
        (inner.path / "planted.py").read_text(encoding="utf-8")
        + WAITING
        + "\n\ndef last_waits(level, block, *, cache=None):\n"
        + "    return (waits if block.index == 7 else measure)(level, block, cache=cache)\n",
        encoding="utf-8",
    )
    inner.write(*(rows or TWO), tests=trend("toy.first", measure="last_waits") + tests)


def test_blocks_of_the_next_row_are_computed_while_the_first_runs(inner: Inner) -> None:
    """The other core would be idle while the last block of a row runs."""
    write_waiting(inner, tests=trend("toy.second"))
    run(inner).assert_outcomes(passed=2)
    order = [line.split()[0] for line in inner.computed]
    assert order.index("toy.second") < len(order) - 1 - order[::-1].index("toy.first")
    assert len(inner.computed) == len(set(inner.computed)) == 2 * 8 * 3  # nothing twice, and nothing more
    assert [(each["blocks"], each["cached"]) for each in inner.verdicts.values()] == [(8, 0), (8, 0)]


def test_verdicts_do_not_depend_on_it(inner: Inner) -> None:
    """A block would have other numbers when another row's test asked for it."""
    inner.write(*TWO, tests=trend("toy.first") + trend("toy.second", slope=1.0))
    inner.run(*RECORD, "--gia-run-dir=alone")
    digests = {id: row["digest"] for id, row in inner.records("claims").items()}
    effects = {id: row["effect"] for id, row in inner.records("claims").items()}
    run(inner, "--gia-run-dir=together").assert_outcomes(passed=2)
    rows = json.loads((inner.path / "together" / "verdicts.json").read_text(encoding="utf-8"))
    assert {row["id"]: row["digest"] for row in rows} == digests
    assert {row["id"]: row["effect"] for row in rows} == effects


def test_a_test_that_is_no_row_s_has_the_machine_for_itself(inner: Inner) -> None:
    """A timing between two rows would be measured beside busy workers."""
    timing = "\ndef test_between():\n    log = Path('computed.txt').read_text()\n    assert 'toy.second' not in log\n"
    inner.write(*TWO, tests="from pathlib import Path\n" + trend("toy.first") + timing + trend("toy.second"))
    run(inner).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("second", "ended"),
    [
        (trend("toy.second").replace("@pytest", "@pytest.mark.skip(reason='planted')\n@pytest", 1), {"errors": 1}),
        (trend("toy.second").replace("Level(", "1 / 0, Level("), {"failed": 1}),
        (trend("toy.second", measure="crashing"), {"failed": 1}),
    ],
    ids=["skipped", "its test is at fault", "its block is at fault"],
)
def test_what_is_wrong_with_a_row_is_its_own(inner: Inner, second: str, ended: dict[str, int]) -> None:
    """The row that runs would fail for one to come, or a skipped one would be computed."""
    inner.write(*TWO, tests=trend("toy.first") + second)
    run(inner).assert_outcomes(passed=1, **ended)
    assert inner.verdicts.keys() == {"toy.first"}
    if "skip" in second:
        assert not any("toy.second" in line for line in inner.computed)


UNIVERSAL = """
import time
from hypothesis import strategies as st
from pathlib import Path

def note(text):
    with open("asked.txt", "a", encoding="utf-8") as log:
        log.write(text)

def waits_for(path):
    limit = time.monotonic() + 20
    while not path.exists() and time.monotonic() < limit:
        time.sleep(.05)

def square(x):
    note(f"{x} ")
    WAIT
    return float(x * x)

@pytest.mark.claim("toy.all")
def test_all(claims):
    claims.universal("toy.all", square, {"x": st.integers(0, 99)}, minimum=5)
"""

DIRECT = """
from gia.harness.plugin.deciding import decided

@pytest.mark.claim("toy.second")
def test_second(claims):
    table = claims.table("toy.second", Level(), levels=(1, 2, 4), change=batch, blocks=8)
    open("asked.txt", "a", encoding="utf-8").write("decided ")
    claims.record(decided(claims.claim("toy.second"), table, 1, 1, {}), tables=[table])
"""


def asked(inner: Inner) -> list[str]:
    """What the tests wrote down."""
    return (inner.path / "asked.txt").read_text(encoding="utf-8").split()


def test_workers_are_busy_while_a_row_checks_examples(inner: Inner) -> None:
    """Both cores but one would be idle for as long as a row that computes in this process runs."""
    waiting = "waits_for(Path('computed.txt'))"
    universal = UNIVERSAL.replace("WAIT", waiting)
    inner.write(row("toy.all", "universal"), row("toy.second"), tests=universal + trend("toy.second"))
    result = run(inner)
    result.assert_outcomes(passed=2)
    assert result.duration < 20


def test_a_row_that_checks_examples_is_not_asked_for_them(inner: Inner) -> None:
    """It would check them twice, and its verdict would be given before its test runs."""
    rows = (row("toy.first"), row("toy.all", "universal"))
    inner.write(*rows, tests=trend("toy.first") + UNIVERSAL.replace("WAIT", "pass"))
    run(inner).assert_outcomes(passed=2)
    assert len(asked(inner)) == len(set(asked(inner)))


def test_a_test_is_not_asked_beyond_its_first_blocks(inner: Inner) -> None:
    """What follows in it would run on an empty table."""
    inner.write(*TWO, tests=trend("toy.first") + DIRECT)
    run(inner).assert_outcomes(passed=2)
    assert asked(inner) == ["decided"]
    assert len(inner.computed) == 2 * 8 * 3


class Noting:
    """Workers that note when they are to settle."""

    room = 2

    def __init__(self) -> None:
        self.settled = 0

    def settle(self) -> None:
        """Count."""
        self.settled += 1


def item(nodeid: str, *ids: str) -> SimpleNamespace:
    """A test as far as `Coming` looks at it."""
    markers = [pytest.mark.claim(*ids).mark] if ids else []
    return SimpleNamespace(
        nodeid=nodeid,
        iter_markers=lambda name: iter(markers),
        get_closest_marker=lambda name: next(iter(markers), None),
    )


def test_what_is_under_way_ends_before_a_test_that_is_no_row_s(tmp_path: Path) -> None:
    """Blocks that a look did not need in the end would run beside a timing."""
    claim, timing, workers = item("first", "toy.first"), item("timing"), Noting()
    coming = Coming([claim, timing], lambda item, arguments: [], Ahead(Store(tmp_path / "blocks")), workers)
    coming.begin(claim)
    assert workers.settled == 0
    coming.begin(timing)
    assert workers.settled == 1


def test_only_what_a_look_needs_is_asked_for(inner: Inner) -> None:
    """Idle workers would compute all blocks of a row of which two say everything."""
    waiting = UNIVERSAL.replace("WAIT", "waits_for(Path('computed.txt')); time.sleep(0.5)")  # 5 examples or more
    undecided = trend("toy.second", measure="always_undecided")
    inner.write(row("toy.all", "universal"), row("toy.second"), tests=waiting + undecided)
    inner.run("-k", "second", *RECORD)
    witness = inner.records("claims")["toy.second"]["witness"][0]
    shutil.rmtree(inner.path / ".gia")
    (inner.path / "computed.txt").unlink()
    run(inner, "--gia-stop-early").assert_outcomes(passed=2)
    assert {int(line.split()[1]) for line in inner.computed} == set(witness)
