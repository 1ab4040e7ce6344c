"""The part of the plugin that reports timings: which of them run, and the table and files at the end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gia.harness.plugin.folder import RunFolder
from gia.harness.timing import goals
from gia.harness.timing.plot import costs


class TimingRun:
    """Registered as a plugin.

    With `--gia-base` only the timings that ask for the fixture `base` run; without it all others.
    """

    def __init__(self, config: pytest.Config, folder: RunFolder, about: Mapping[str, str]) -> None:
        self._config, self._folder, self._about = config, folder, about
        self.timings = goals.Timings()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the timings of the other kind."""
        compares = self._config.option.gia_base is not None
        left_out = [
            item
            for item in items
            if item.get_closest_marker("timing") and ("base" in getattr(item, "fixturenames", ())) != compares
        ]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            self._config.hook.pytest_deselected(items=left_out)

    def pytest_sessionfinish(self) -> None:
        """Write bench.json, bench.md and the plot; with `--gia-base` base.json and base.md."""
        if not self.timings.rows and not self.timings.points:
            return
        base, about, pictures = self._config.option.gia_base, {**self._about, **goals.facts()}, []
        self._folder.begin()
        folder = self._folder.path
        if base is not None:
            about["base"] = base
        if self.timings.points:
            pictures = ["images/bench-cost.png"]
            (folder / "images").mkdir(exist_ok=True)
            costs(folder / pictures[0], self.timings.points, unit="training steps per trial and step")
        name = "bench" if base is None else "base"
        (folder / f"{name}.json").write_text(goals.to_json(self.timings, about), encoding="utf-8")
        (folder / f"{name}.md").write_text(goals.markdown(self.timings, about, pictures), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table."""
        if self.timings.rows or self.timings.points:
            base = self._config.option.gia_base
            terminalreporter.section("what things cost" if base is None else f"this working tree over {base}")
            terminalreporter.write_line(goals.terminal(self.timings))
            terminalreporter.write_line(f"reports: {self._folder.path}")
