"""Base against head, `nox -s bench -- --base REF`: what became slower, or vanished."""

from __future__ import annotations

from pathlib import Path

import pytest

from gia.harness.bench import Timings
from gia.harness.sides import head_over_base, names_of
from gia.harness.timing import compare_names
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
    timings.against(measure, case, head_over_base(HEAD, base, FILE, name, rounds=9))
