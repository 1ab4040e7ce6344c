"""What a run folder holds for its report: verdicts, evidence, pictures, and what the project knew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gia.harness.report.project import project_at
from gia.harness.report.rows import Row

#: Files of a run folder that a report reads, and the page that it is.
VERDICTS, ABOUT, EVIDENCE, RUN, PAGE = "verdicts.json", "about.json", "evidence", "run.json", "report.html"


@dataclass(frozen=True)
class Material:
    """Everything that the report of one run is made from.

    Attributes:
        folder: of the run.
        rows: of `verdicts.json`.
        about: what the project knew (`gia.harness.report.project.Project.about`), and of the run: "commands" (claim id
            -> the command that runs its test), "placebos" (claim id -> placebo -> outcome and leak, from the last
            placebo run), "without_verdict", "not_covered", "notices", "baselines", "environment".
        run: the run's manifest; empty without one.
        evidence: claim id -> what its verdict was decided on.
    """

    folder: Path
    rows: list[Row]
    about: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def material_in(folder: Path, *, root: Path | None = None) -> Material:
    """Read a run folder.

    Args:
        folder: of a run, with `verdicts.json`.
        root: the project to ask where an old folder lacks `about.json`; None leaves out what the project knows.

    Raises:
        ValueError: if there is no `verdicts.json`, or a file is not readable.
    """
    rows = rows_in(folder)
    known = (folder / ABOUT).exists()
    about = _json(folder / ABOUT) if known else {} if root is None else project_at(root).about()
    evidence = {
        row["id"]: _json(path) for row in rows if (path := folder / EVIDENCE / f"{file_of(row['id'])}.json").exists()
    }
    run = _json(folder / RUN) if (folder / RUN).exists() else {}
    return Material(folder, rows, about, run, evidence)


def environment_of(material: Material) -> dict[str, str]:
    """What the numbers of a run depend on, name -> text; of an old folder what its rows say."""
    known: dict[str, str] = dict(material.about.get("environment", {}))
    first = material.rows[0] if material.rows else {}
    return known or {name: str(first[name]) for name in ("scale", "device", "torch", "commit") if name in first}


def rows_in(folder: Path) -> list[Row]:
    """The verdicts of a run. Raises ValueError where they are missing or not readable."""
    if not (folder / VERDICTS).is_file():
        raise ValueError(f"RUN_DIR: expected the folder of a run, got {folder} without {VERDICTS}")
    rows: list[Row] = _json(folder / VERDICTS)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"id", "outcome"} <= set(row) for row in rows):
        raise ValueError(f"{folder / VERDICTS}: expected a list of verdicts, got something else")
    return rows


def file_of(id: str) -> str:
    """A claim's id as a part of file names, as `gia.harness.decide.register.Claim.file`."""
    return id.replace("/", "-")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
