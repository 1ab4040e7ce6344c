"""The report of a run as one HTML page, which needs no network: what it shows, and how it stays small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gia.harness.decide.register import OUTCOMES
from gia.harness.report import drawings
from gia.harness.report.layout import group_of
from gia.harness.report.material import Material, environment_of
from gia.harness.report.placebos import broken
from gia.harness.report.rendering import TEMPLATES, rendered
from gia.harness.report.row_view import anchor, row_view
from gia.harness.report.rows import Row

#: A page is at most this large; images are left out until it is.
MOST_BYTES = 8_000_000

#: How many tiles of each level, and whether other pictures are shown, from the fullest page to the smallest.
_FITS = ((4, True), (2, True), (1, True), (1, False), (0, False))


def html(material: Material, *, images: bool = True) -> str:
    """The page.

    Args:
        images: whether it shows any, which may be private, or may not be copied.

    Raises:
        ValueError: if even without images it is larger than `MOST_BYTES`.
    """
    for tiles, pictures in _FITS if images else _FITS[-1:]:
        page = rendered("report.html", view(material, tiles=tiles, pictures=pictures, asked=images))
        if len(page.encode("utf-8")) <= MOST_BYTES:
            return page
    raise ValueError(f"{material.folder}: expected a page of at most {MOST_BYTES} bytes, got {len(page)}")


def view(material: Material, *, tiles: int = 4, pictures: bool = True, asked: bool = True) -> dict[str, Any]:
    """What the template shows, as plain data.

    Args:
        tiles: images of each level.
        pictures: whether the pictures that tests drew are shown.
        asked: whether images are to be shown as far as there is room.
    """
    about, layout = material.about, material.about.get("layout", {})
    placebos = any("placebo" in row for row in material.rows)
    now = {} if placebos else {row["id"]: row for row in material.rows}
    claims = {**about.get("claims", {})}
    for id, row in now.items():  # of an old folder, or of a register that has changed since
        claims.setdefault(id, {**row, "history": row.get("history", ""), "ledger": [], "records": {}})
    environment = environment_of(material)
    user = " and ".join(environment[name] for name in ("attack", "defense") if name in environment)
    rows = {
        id: row_view(id, claim, now.get(id), material, user=user, tiles=tiles, pictures=pictures)
        for id, claim in claims.items()
    }
    for id, why in about.get("without_verdict", {}).items():
        if id in rows:
            rows[id]["attention"] = [f"no verdict: {why}"]
    groups = _groups(rows, layout.get("groups", []))
    return {
        "title": layout.get("title", "Claims on trial"),
        "text": layout.get("text", ""),
        "environment": environment,
        "run": _about_run(material),
        "user": user,
        "trial": [rows[id] for id in now] if user else [],
        "tally": _tally(rows, now, recorded=bool(user)),
        "matrix": _matrix(layout["matrix"], rows) if "matrix" in layout else None,
        "attention": [row for row in rows.values() if row["attention"]],
        "against": [row for row in rows.values() if row["against"]],
        "groups": groups,
        "inconsistencies": [_inconsistency(each, rows) for each in layout.get("inconsistencies", [])],
        "notices": [*_coverage(about), *about.get("notices", [])],
        "baselines": about.get("baselines", []),
        "placebo_runs": _placebo_table(material.rows) if placebos else None,
        "left_out": _left_out(tiles, pictures) if asked else "This page was made without images and pictures.",
        "provenance": _provenance(material, environment),
        "script": (TEMPLATES / "script.js").read_text(encoding="utf-8"),
    }


def _matrix(matrix: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    lines = []
    for key, (name, note) in matrix["rows"].items():
        cells = []
        for column in matrix["columns"]:
            cell = matrix["cells"][key][column]
            measured = [rows[id] for id in cell["rows"] if id in rows]
            cells.append({"mark": cell["mark"], "column": matrix["columns"][column], "rows": measured})
        lines.append({"key": key, "name": name, "note": note, "cells": cells})
    return {**matrix, "lines": lines}


def _groups(rows: Mapping[str, Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of the report; what no part asks for comes last."""
    members: list[list[Mapping[str, Any]]] = [[] for _ in range(len(groups) + 1)]
    for id, row in rows.items():
        number = group_of(id, groups)
        members[len(groups) if number is None else number].append(row)
    shown = []
    for number, group in enumerate([*groups, {"title": "Other rows" if groups else "Rows"}]):
        figures = drawings.marked(group.get("figures", []))
        if members[number] or figures:
            about = {name: group.get(name, "") for name in ("title", "short", "text")} | {
                "anchor": f"part-{number + 1}"
            }
            shown.append({**about, "rows": members[number], "figures": figures})
    return shown


def _inconsistency(entry: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    measured = entry["measured"]
    return {
        **entry,
        "measured": measured[:1].upper() + measured[1:] + ("" if not measured or measured.endswith(".") else "."),
        "rows": [rows[id] for id in entry["rows"] if id in rows],
    }


def _tally(rows: Mapping[str, Mapping[str, Any]], now: Mapping[str, Row], *, recorded: bool) -> dict[str, Any]:
    """How many rows of each outcome there are, those that hold by construction apart; or what is `recorded` of them."""
    evidence = [row for row in rows.values() if not row["by_construction"]]
    outcome = "recorded" if recorded else "outcome"
    confirmed = [row[outcome] for row in evidence if row["confirmed"]]
    shown = confirmed or [row[outcome] for row in evidence]
    counts = {name: shown.count(name) for name in OUTCOMES}
    others = len(evidence) - sum(counts.values())
    given = [row for row in rows.values() if row["by_construction"]]
    this = [row["outcome"] for row in now.values()]
    return {
        "name": "confirmed" if confirmed else "rows",
        "counts": counts,
        "others": others,
        "total": len(evidence),
        "by_construction": len(given),
        "now": {name: this.count(name) for name in dict.fromkeys([*OUTCOMES, *this])},
        "measured": len(this),
    }


def _placebo_table(rows: Sequence[Row]) -> dict[str, Any]:
    """The matrix of a run of placebos."""
    names = list(dict.fromkeys(row["placebo"] for row in rows))
    cells = {(row["id"], row["placebo"]): row for row in rows}
    lines = []
    for id in dict.fromkeys(row["id"] for row in rows):
        found = [cells.get((id, name)) for name in names]
        lines.append({"id": id, "cells": [None if row is None else _placebo_cell(row) for row in found]})
    return {"names": names, "lines": lines, "broken": sum(broken(row) is not None for row in rows)}


def _placebo_cell(row: Row) -> dict[str, Any]:
    leak = row["leak"]
    return {"outcome": row["outcome"], "leak": "" if leak is None else f"leak {leak:.3g}", "broken": broken(row)}


def _coverage(about: Mapping[str, Any]) -> list[str]:
    if "not_covered" not in about:
        return []
    missing = about["not_covered"]
    if missing is None:
        return ["This run selected a part of the claims. Rows that it left out show what is on record."]
    return [f"No test covers {', '.join(missing)}."] if missing else []


def _left_out(tiles: int, pictures: bool) -> str:
    if (tiles, pictures) == _FITS[0]:
        return ""
    what = "all images" if not tiles else f"more than {tiles} images of each level"
    return (
        f"To keep this page below {MOST_BYTES // 1_000_000} MB, {what}{'' if pictures else ' and plots'} were left out."
    )


def _about_run(material: Material) -> dict[str, str]:
    run = material.run
    started = str(run.get("started", ""))
    try:
        when = f"{datetime.strptime(started[:15], '%Y%m%d-%H%M%S'):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        when = started
    return {"folder": material.folder.name, "when": when, "state": str(run.get("state", ""))}


def _provenance(material: Material, environment: Mapping[str, str]) -> dict[str, Any]:
    images: dict[str, set[Any]] = {}
    for found in material.evidence.values():
        for data, names in found.get("attacked", {}).items():
            images.setdefault(data, set()).update(names)
    seconds = sorted(
        ((row["id"], row["seconds"], row.get("cached", 0)) for row in material.rows), key=lambda each: -each[1]
    )
    return {
        "facts": {
            **environment,
            **{f"records: {name}": text for name, text in material.about.get("machine", {}).items()},
        },
        "machine": {
            name: text for name, text in material.about.get("here", {}).items() if environment.get(name) != text
        },
        "images": {data: len(names) for data, names in images.items()},
        "wall": f"{sum(each[1] for each in seconds) / 60:.1f} min" if seconds else "",
        "seconds": [{"id": id, "anchor": anchor(id), "seconds": f"{s:.1f}", "cached": c} for id, s, c in seconds],
    }
