"""What the user puts in the place of a protocol's own attack, and into its clients, and how its errors are shown."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Generator
from concurrent.futures import BrokenExecutor
from typing import Any

import pytest

from gia.harness.blocks.entries import ERRORS
from gia.harness.blocks.workers import WorkerError
from gia.harness.plugin.folder import RunFolder
from gia.harness.plugin.laboratory import Laboratory, Substitution
from gia.harness.plugin.options import foreign
from gia.harness.plugin.selection import claim_ids


def substitution(laboratory: Laboratory, option: Any) -> Substitution:
    """The user's attack in the place of a protocol's own, and the user's defenses in its clients.

    Args:
        option: with the attack, its settings and the defenses, of which at least one is given.

    Raises:
        UsageError: for an attack, settings or a defense that the laboratory does not take.
    """
    changes = [] if option.gia_attack is None else [_attacked(laboratory, option)]
    if option.gia_defense:
        try:
            changes.append(laboratory.defended(option.gia_defense))
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"--gia-defense: {_told(error, 'defense')}") from error

    def substitute(level: Any) -> Any:
        for change in changes:
            level = level if isinstance(level, str) else change(level)
        return level

    return substitute


def _attacked(laboratory: Laboratory, option: Any) -> Substitution:
    try:
        settings = json.loads(option.gia_attack_settings or "{}")
    except ValueError as error:
        raise pytest.UsageError(
            f"--gia-attack-settings: expected JSON, got {option.gia_attack_settings}: {error}"
        ) from error
    if not isinstance(settings, dict):
        raise pytest.UsageError(f"--gia-attack-settings: expected an object, got {option.gia_attack_settings}")
    try:
        return laboratory.substitution(option.gia_attack, settings)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"--gia-attack: {_told(error, 'attack')}") from error


def _told(error: Exception, argument: str) -> str:
    """What an error says, without the name of its argument, and what else may be given or was searched."""
    text = str(error).removeprefix(f"{argument}: ")
    if isinstance(error.__cause__, ImportError):
        return f"{text}; modules are looked for in the current folder and on PYTHONPATH"
    return re.sub(r"\], got (?='[^':]*')", "] or package.module:name, got ", text)


class Outside:
    """Registered as a plugin of a run with the user's attack or defenses: an error in a block ends in one line.

    The traceback is in the run folder. With -v or --tb, and without worker processes, pytest shows it too.
    """

    def __init__(self, config: pytest.Config, folder: RunFolder) -> None:
        self._config, self._folder = config, folder

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Replace what pytest says of an error of a block."""
        report = yield
        error, option = None if call.excinfo is None else call.excinfo.value, self._config.option
        if isinstance(error, WorkerError) and not isinstance(error.__cause__, BrokenExecutor | None):
            path = self._folder.path / ERRORS
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{' '.join(claim_ids(item))}: {error}\n\n{report.longreprtext}\n\n")
            if option.verbose <= 0 and option.tbstyle == "auto":
                report.longrepr = self._line(error, os.path.relpath(path, self._config.invocation_params.dir))
        return report

    def _line(self, error: WorkerError, path: str) -> str:
        where, cause = str(error).partition(" (setting ")[0], error.__cause__
        said = textwrap.shorten(f"{type(cause).__name__}: {cause}", 300, placeholder=" ...")
        parts = [f"{' and '.join(foreign(self._config.option))}: {said}, in {where}"]
        if self._config.option.gia_attack is not None:
            parts.append("rows that lack what an attack needs are skipped if it has a gia.attacks.Card(needs=...)")
        return "; ".join([*parts, f"traceback: {path}, or -v"])
