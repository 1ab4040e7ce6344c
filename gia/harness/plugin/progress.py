"""What a person at the terminal sees while claims run: a live line per experiment, one line per verdict."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gia.harness.blocks.executor import Progress as Reporter
from gia.harness.ci import under_ci


class Progress:
    """Writes past pytest's capture; under CI and in files there are no live lines, with -q no lines at all.

    Args:
        left: says in words how long the whole run will still take; empty where that is not known.
    """

    def __init__(self, config: pytest.Config, left: Callable[[], str]) -> None:
        self._config, self._left = config, left

    def line(self, text: str) -> None:
        """One line that stays."""

        def write(terminal: pytest.TerminalReporter) -> None:
            terminal.ensure_newline()
            terminal.write_line(text)

        if self._config.option.verbose >= 0:
            self._write(write)

    def reporter(self, id: str) -> Reporter | None:
        """A reporter that keeps one line up to date and removes it at the end; None where nobody watches."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if under_ci() or terminal is None or not terminal.isatty or self._config.option.verbose < 0:
            return None
        began, left = time.perf_counter(), self._left()

        def show(done: int, total: int, cached: int) -> None:
            bar = "#" * round(20 * done / total)
            stored = f", {cached} from the store" if cached else ""
            text = f"{id} [{bar:<20}] {done}/{total} blocks{stored}, {time.perf_counter() - began:.0f} s"
            text = "; ".join(filter(None, (text, left)))
            self._write(lambda terminal: terminal.rewrite("" if done == total else text, erase=True))

        return show

    def _write(self, write: Callable[[pytest.TerminalReporter], object]) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if terminal is None:
            return
        if capture is None:
            write(terminal)
        else:
            with capture.global_and_fixture_disabled():
                write(terminal)
