"""Base against head, `nox -s bench -- --base REF`: what became slower, or vanished."""

from __future__ import annotations

from pathlib import Path

import pytest

from gia.harness.timing.against_base import checked_out, head_over_base, names_of
from gia.harness.timing.goals import Timings
from gia.harness.timing.ratio import TimingFailed, compare_names
from tests.timing import workloads

HEAD = Path(__file__).parents[2]
FILE = Path(workloads.__file__)


@pytest.mark.timing
def test_no_benchmark_of_the_base_is_gone(base: Path) -> None:
    """A benchmark that is renamed or dropped compares with nothing, and whatever it cost is never seen again."""
    compare_names(names_of(base, base / FILE.relative_to(HEAD)), workloads.WORKLOADS)


@pytest.mark.timing
@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_a_step_is_not_slower_than_at_the_base(name: str, base: Path, timings: Timings) -> None:
    """A change that makes the step dearer stays within the goals' slack of a fifth, and the next one does too."""
    measure, case = name.split(" / ")
    timings.against(measure, case, head_over_base(HEAD, base, FILE, name, turns=9))


#: Makes the matching step cost 1.3 times as much, in any engine: it spins for three tenths of what the step took.
PLANTED = """

def _planted(call):
    from time import process_time

    def slow(*arguments, **settings):
        began = process_time()
        found = call(*arguments, **settings)
        end = process_time() + 0.3 * (process_time() - began)
        while process_time() < end:
            pass
        return found

    return slow


Matching.__call__ = _planted(Matching.__call__)
"""


@pytest.mark.timing
def test_a_planted_slowdown_is_told_from_a_clean_repeat(
    base: Path, timings: Timings, request: pytest.FixtureRequest
) -> None:
    """A comparison that misses 1.3x guards nothing, and one that cries wolf is switched off.

    The base with the slowdown planted into its source, and once more as it is, over the base; `--repeats 10` for ten.
    """
    option, repository = request.config.option, request.config.rootpath
    with checked_out(repository, option.gia_base) as slow:
        with open(slow / "gia" / "attacks" / "matching" / "__init__.py", "a", encoding="utf-8") as file:
            file.write(PLANTED)
        for repeat in range(1, option.gia_repeats + 1):
            name = "core / small, 1"
            timings.against("clean repeat", f"{repeat}", head_over_base(base, base, FILE, name, turns=9))
            with pytest.raises(TimingFailed, match="head over base"):
                timings.against("planted 1.3x", f"{repeat}", head_over_base(slow, base, FILE, name, turns=9))
