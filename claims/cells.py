"""Tables that cost more than a run may: their cells are measured once, and each is stored as soon as it is finished."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.table1 import replaced
from gia.numerics import environment, fingerprint, replacing, reproducible

Cell = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    """What is stored in a file; nothing before the first cell."""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return stored


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


def complete(
    path: Path,
    planned: Iterable[tuple[str, Callable[[], Cell]]],
    setting: Mapping[str, Any],
    arguments: Sequence[str],
) -> dict[str, Cell]:
    """The cells of a file, after those that are missing have been measured.

    Args:
        path: JSON with the setting, the environment and the cells. Each cell also gets the commit, the fingerprint of
            the arithmetic, and the seconds of one core that it took.
        planned: key of each cell, and what measures it.
        setting: what all cells share, for readers of the file.
        arguments: of the command: none, or the minutes of one core after which no further cell is begun.
    """
    budget = 60 * float(arguments[0]) if arguments else None
    cells: dict[str, Cell] = load(path).get("cells", {})
    begun_at = commit()
    for key, measure in planned:
        if budget is not None and time.process_time() > budget:
            break
        if key in cells:
            continue
        began = time.process_time()
        with reproducible():
            cells[key] = {**measure(), "commit": begun_at, "fingerprint": fingerprint()}
        cells[key]["seconds"] = round(time.process_time() - began, 1)
        sys.stdout.write(f"{key}: {cells[key]}\n")
        sys.stdout.flush()
        with replacing(path) as writing:
            content = {"setting": dict(setting), "environment": environment(), "cells": cells}
            writing.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return cells


def write(page: Path, markers: tuple[str, str], text: str) -> None:
    """Put a text between two lines of a page."""
    page.write_text(replaced(page.read_text(encoding="utf-8"), text, markers=markers), encoding="utf-8")
