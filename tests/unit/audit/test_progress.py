"""How far an audit is, in a terminal and in a file."""

from __future__ import annotations

import io
import time

from gia.audit import progress
from gia.audit.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_file_gets_a_line_when_a_part_begins_and_when_it_ends(monkeypatch):
    """If it fails, an audit in CI is silent for minutes."""
    now = iter([0.0, 0.0, 40.4, 40.4, 41.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    file = io.StringIO()
    with Progress(file) as shown:
        for step in range(3):
            shown("op: search over pixels, 3 steps, about 40 CPU seconds", step, 3)
        shown("validation", 0, 0)  # which takes less than a second
    lines = ["op: search over pixels, 3 steps, about 40 CPU seconds", "  done in 40 s", "validation"]
    assert file.getvalue().splitlines() == lines


def test_a_part_that_takes_long_is_heard_of_again_although_it_says_nothing():
    """If it fails, a search with slow steps looks as if it hung."""
    file = io.StringIO()
    with Progress(file, every=0.01) as shown:
        time.sleep(0.1)
        shown("op", 1, 20)
        deadline = time.monotonic() + 10
        while file.getvalue().count("step 2 of 20, after 0 s") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert file.getvalue().startswith("  preparing model and images, after 0 s\n")
    assert file.getvalue().count("  step 2 of 20, after 0 s\n") >= 2
    assert not shown._clock.is_alive()


def test_a_terminal_gets_a_bar():
    """If it fails, a terminal is filled with lines, or a file with escape codes."""
    file = Terminal()
    with Progress(file) as shown:
        shown("op: 4 steps", 0, 4)
        shown("op: 4 steps", 3, 4)
        shown("validation", 0, 0)
    assert "op: 4 steps" in file.getvalue()
    assert "\n" not in file.getvalue().rstrip()
