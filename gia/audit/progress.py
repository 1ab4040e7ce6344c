"""How far an audit is: a bar in a terminal, lines in a file or a log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """Shows what `gia.audit.audit(progress=...)` reports: a bar in a terminal, else lines.

    A line is written when a part begins, when it ends, and in between.

    Args:
        file: where it is written; None takes the standard error stream.
        every: seconds between lines about a part that still runs.

    >>> import sys
    >>> from gia.audit.progress import Progress
    >>> with Progress(sys.stdout) as progress:
    ...     progress("op: search over pixels, 20 steps", 0, 20)
    op: search over pixels, 20 steps
    """

    def __init__(self, file: TextIO | None = None, *, every: float = 30.0) -> None:
        self._file, self._every = sys.stderr if file is None else file, every
        self._bar: Any = None
        self._what, self._step, self._steps, self._began = "", 0, 0, 0.0
        self._over, self._lock = threading.Event(), threading.Lock()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        if self._file.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}"
            self._bar = tqdm(file=self._file, leave=False, bar_format=form)
        else:
            self._began = time.monotonic()
            self._clock.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
            return
        self._over.set()
        self._clock.join()
        if kind is None:
            self._end()

    def __call__(self, what: str, step: int, steps: int) -> None:
        """Take note of step `step` of `steps`, which are 0 for a part without steps."""
        if self._bar is not None:
            if what != self._what:
                self._bar.reset(total=max(steps, 1))
                self._bar.set_description(what)
            self._bar.update(step - self._bar.n)
            self._what = what
            return
        with self._lock:
            if what != self._what:
                self._end()
                self._what, self._began = what, time.monotonic()
                self._write(what)
            self._step, self._steps = step, steps

    def _end(self) -> None:
        if self._what and (seconds := time.monotonic() - self._began) >= 1:
            self._write(f"  done in {seconds:.0f} s")

    def _tick(self) -> None:
        """Write a line about what runs, from time to time; the search itself may be silent for long."""
        while not self._over.wait(self._every):
            with self._lock:
                where = f"step {self._step + 1} of {self._steps}, " if self._steps else ""
                where = where if self._what else "preparing model and images, "
                self._write(f"  {where}after {time.monotonic() - self._began:.0f} s")

    def _write(self, line: str) -> None:
        print(line, file=self._file, flush=True)
