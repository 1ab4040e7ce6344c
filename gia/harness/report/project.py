"""What a project knows of its claims before a run: register, records of earlier runs, ledger, and the report's layout.

A run writes it into its folder (`about.json`), so that a report can be made again elsewhere.
"""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gia.harness.decide.ledger import Ledger
from gia.harness.decide.register import Register, load_register

#: The lanes whose records a report shows.
LANES = ("confirm", "claims", "reach")

_OF_A_CLAIM = (
    *("id", "statement", "kind", "metric", "unit", "margin", "direction", "source", "paper", "paper_says"),
    *("by_construction", "pair", "number"),
)

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Project:
    """A register and what is on record of its rows.

    Attributes:
        records: lane -> claim id -> record.
        layout: how the report is arranged (`gia.harness.report.layout`); empty where the project has none.
        machine: what the records were measured on, name -> text.
    """

    register: Register
    ledger: Ledger
    records: Mapping[str, Records]
    layout: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        rows = {}
        for id, claim in self.register.items():
            entries = [
                {name: getattr(entry, name) for name in ("date", "kind", "commit", "before", "after", "reason")}
                for entry in self.ledger.lineage(id)
            ]
            records = {lane: self.records[lane][id] for lane in LANES if id in self.records.get(lane, {})}
            about = {name: getattr(claim, name) for name in _OF_A_CLAIM}
            rows[id] = {**about, "history": self.ledger.history(id), "ledger": entries, "records": records}
        return {
            "scales": list(self.register.scales),
            "claims": rows,
            "layout": dict(self.layout),
            "machine": dict(self.machine),
        }


def project_at(root: Path, *, scale: str | None = None) -> Project:
    """The project in a folder, as its pyproject.toml describes it.

    A confirm run of a protocol that changed afterwards is not among the records: the row is not confirmed any more.

    Args:
        root: the folder with `pyproject.toml`, `claims/` and `baselines/`.
        scale: whose records are read; None takes the register's first.

    Raises:
        ValueError: if there is no register, or a file is not readable.
    """
    options = _options(root)
    path = root / str(options.get("claims_register") or "claims/claims.toml")
    if not path.exists():
        raise ValueError(f"root: expected a project with a register, got {root} without {path.relative_to(root)}")
    register = load_register(path)
    suffix = "" if scale in (None, register.scales[0]) else f"-{scale}"
    files = {lane: root / "baselines" / f"{lane}{suffix}.json" for lane in LANES}
    found = {lane: _json(file) for lane, file in files.items() if file.exists()}
    ledger = Ledger(path.parent / "ledger.toml", root / "baselines" / "ledger.json")
    records = {lane: content["rows"] for lane, content in found.items()}
    if "confirm" in records:
        records["confirm"] = {id: row for id, row in records["confirm"].items() if not ledger.outdated(id)}
    return Project(
        register,
        ledger,
        records,
        layout_of(str(options.get("claims_report") or ""), root),
        found.get("confirm", found.get("claims", {})).get("environment", {}),
    )


def layout_of(module: str, root: Path) -> dict[str, Any]:
    """What the function `layout(root)` of a module returns; empty without a name.

    Raises ValueError where the module cannot be imported or has no such function.
    """
    if not module:
        return {}
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        found: dict[str, Any] = importlib.import_module(module).layout(root)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"claims_report: expected a module with a function layout, got {module!r}: {error}") from error
    return found


def _options(root: Path) -> Mapping[str, Any]:
    """What pyproject.toml says to pytest, in its old and its new form."""
    path = root / "pyproject.toml"
    if not path.exists():
        return {}
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("pytest", {})
    return {**table.get("ini_options", {}), **table}


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["rows"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a file of records with 'rows', got {error}") from error
    return found
