"""The report of a run as one HTML page, which needs no network: what it shows, and how it stays small."""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from gia.harness.decide.register import OUTCOMES
from gia.harness.report import charts
from gia.harness.report.layout import group_of
from gia.harness.report.material import Material, file_of
from gia.harness.report.placebos import broken
from gia.harness.report.rows import NOT_APPLICABLE, Row, attention, effect

#: A page is at most this large; images are left out until it is.
MOST_BYTES = 8_000_000

_TEMPLATES = Path(__file__).with_name("templates")

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


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """A template of this package with what it shows, and its style; every id of a drawing is new."""
    numbers = count(1)
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    page: str = _templates().get_template(template).render(style=style, new_id=lambda: f"chart-{next(numbers)}", **view)
    return page


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def environment_of(material: Material) -> dict[str, str]:
    """What the numbers of a run depend on, name -> text; of an old folder what its rows say."""
    known: dict[str, str] = dict(material.about.get("environment", {}))
    first = material.rows[0] if material.rows else {}
    return known or {name: str(first[name]) for name in ("scale", "device", "torch", "commit") if name in first}


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
        id: _row(id, claim, now.get(id), material, user=user, tiles=tiles, pictures=pictures)
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
        "script": (_TEMPLATES / "script.js").read_text(encoding="utf-8"),
    }


def anchor(id: str) -> str:
    """Where a row stands in the page.

    >>> anchor("op.resolution/2")
    'row-op.resolution-2'
    """
    return f"row-{file_of(id)}"


def _row(
    id: str, claim: Mapping[str, Any], now: Row | None, material: Material, *, user: str, tiles: int, pictures: bool
) -> dict[str, Any]:
    """One row with all of its evidence. The verdict of a run with a user's attack or defenses comes first in it."""
    records, about = claim.get("records", {}), material.about
    found = material.evidence.get(id, {})
    confirmed, first = records.get("confirm"), records.get("claims")
    recorded, on_record = confirmed or first, ", on record with the protocols' own attack" if user else ""
    best = now or recorded if user else confirmed or now or first
    own = {} if now is None else now
    reach = records.get("reach")
    verdicts = [
        _verdict(f"confirmed{on_record}", confirmed, claim),
        _verdict(f"first look{on_record}", first, claim),
        _verdict(f"this run, with {user}" if user else "this run", now, claim),
    ]
    shown = [] if now is None or not pictures else _pictures(now, material.folder, drawn=bool(found))
    return {
        "id": id,
        "anchor": anchor(id),
        "statement": claim["statement"],
        "kind": claim["kind"],
        "metric": claim["metric"],
        "unit": claim["unit"],
        "margin": None if claim["margin"] is None else f"{claim['margin']:.3g} {claim['unit']}",
        "source": claim["source"],
        "paper": claim["paper"],
        "paper_says": claim["paper_says"],
        "by_construction": claim["by_construction"],
        "outcome": "not run" if best is None else best["outcome"],
        "where": _where(confirmed, now, first, user),
        "effect": "" if best is None else _effect(best, claim),
        "recorded": None if recorded is None else recorded["outcome"],
        "recorded_effect": "" if recorded is None else _effect(recorded, claim),
        "confirmed": confirmed is not None,
        "now": own.get("outcome"),
        "verdicts": [each for each in verdicts if each is not None],
        "against": best is not None and _against(best["outcome"], claim),
        "attention": [text.removeprefix(f"{id}: ") for text in attention({"disagrees": "", "notice": "", **own})],
        "measured": own.get("measured", ""),
        "why": own.get("why", ""),
        "charts": _charts(claim, now, found),
        "tiles": _tiles(found.get("tiles", []), tiles),
        "figures": _figures(found.get("figures", [])),
        "pictures": shown,
        "blocks": _blocks(found),
        "void": [each for each in _blocks(found) if not each["valid"]],
        "behind": "; ".join(filter(None, (_behind(found), _searches(own)))),
        "numbers": _numbers(own, found),
        "reach": None if reach is None else _reach(reach),
        "placebos": _placebos(about.get("placebos", {}).get(id, {}), claim["margin"]),
        "history": claim["history"],
        "ledger": [
            [each[name] for name in ("date", "kind", "before", "after")] + [each["commit"][:8], each["reason"]]
            for each in claim["ledger"]
        ],
        "command": about.get("commands", {}).get(id, ""),
    }


def _where(confirmed: object, now: object, first: object, user: str) -> str:
    """Where the verdict comes from that is shown for a row."""
    if user:
        return "this run" if now else "on record" if confirmed or first else ""
    return "confirmed" if confirmed else "this run" if now else "first look" if first else ""


def _verdict(name: str, record: Mapping[str, Any] | None, claim: Mapping[str, Any]) -> dict[str, Any] | None:
    if record is None:
        return None
    look = record.get("look", 1)
    return {
        "name": name,
        "outcome": record["outcome"],
        "effect": _effect(record, claim).removesuffix(f" {claim['unit']}"),
        "blocks": f"{record['blocks']}" + (f", {record['void']} void" if record["void"] else ""),
        "look": f"{('first', 'second', 'third')[look - 1]} look",
        "commit": record.get("commit", ""),
        "direction": "direction certain, size not" if record.get("direction") == "certain" else "",
    }


def _effect(record: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    about = {"kind": claim["kind"], "margin": claim["margin"], "unit": claim["unit"]}
    if "effect" not in record:
        return ""
    text = effect({**about, "interval": None, **record}, margin=False)
    text = re.sub(r"(?<=\de)-|(?<!\w)-(?=\d)", charts.MINUS, text)  # in numbers, not in the unit
    return re.sub(rf"[+{charts.MINUS}]0(?![\d.])", "0", text)


def _against(outcome: str, claim: Mapping[str, Any]) -> bool:
    """Whether an outcome is the contrary of what the paper says."""
    return {outcome, claim["paper_says"]} == {"supported", "refuted"}


def _charts(claim: Mapping[str, Any], now: Row | None, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The drawings of a row, each with its heading, its text for those who cannot see it, and its macro."""
    if now is None or not found:
        return []
    drawn: list[dict[str, Any]] = []

    def add(macro: str, chart: charts.Chart | None, heading: str, alt: str, line: str = "") -> None:
        if chart is not None:
            drawn.append({"macro": macro, "chart": chart, "heading": heading, "alt": f"{heading}: {alt}", "line": line})

    number = _effect(now, claim)
    kept = charts.strip(
        found["effects"],
        interval=now["interval"],
        effect=now["effect"],
        margin=claim["margin"],
        kind=claim["kind"],
    )
    add("strip", kept, f"Effect of each block, in {claim['unit']}", f"median and interval {number}, {now['outcome']}")
    curve, metric = found.get("curve", {}), claim["metric"]
    tables = found.get("tables", [])
    if curve.get("values"):
        names, values = curve["levels"], curve["values"]
        chart = charts.levels(names, values)
        add("levels", chart, f"{metric} at each level", _medians(chart))
    for place, table in enumerate(tables, start=1):
        several = f", {table['experiment']} {place}" if len(tables) > 1 else ""
        if not curve.get("values") and metric in table["metrics"]:
            chart = charts.levels(table["levels"], table["metrics"][metric])
            add("levels", chart, f"{metric} at each level{several}", _medians(chart))
        placebo = table["placebo"].get("psnr")
        if placebo and "psnr" in table["metrics"]:
            chart = charts.levels(table["levels"], table["metrics"]["psnr"], placebo=placebo)
            add(
                "levels",
                chart,
                f"PSNR in dB, and the best placebo's{several}",
                f"{_medians(chart)}; placebo {_placebo_medians(table)}",
                line="placebo",
            )
    if reported := curve.get("reported"):
        chart = charts.bars(reported)
        heading = curve.get("reported_as") or "the paper's numbers"
        add("levels", chart, heading[0].upper() + heading[1:], _medians(chart), line="paper")
    return drawn


def _medians(chart: charts.Chart | None) -> str:
    """What a curve shows, in words."""
    if chart is None:
        return ""
    texts = {each["x"]: each["text"] for each in chart["medians"]}
    return ", ".join(f"{place['text']}: {texts.get(place['x'], 'n/a')}" for place in chart["x"])


def _placebo_medians(table: Mapping[str, Any]) -> str:
    return _medians(charts.levels(table["levels"], table["placebo"]["psnr"]))


def _tiles(levels: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Strips of images: originals, and below them what came back at each level, with dB."""
    strips: list[dict[str, Any]] = []
    for level in levels if most else ():
        if level["originals"]:
            again = f" at {level['level']}" if strips else ""
            images = [
                {"src": image, "alt": f"original {number}{again}, block {level['block']}", "caption": ""}
                for number, image in enumerate(level["originals"][:most], start=1)
            ]
            strips.append({"name": f"originals{again}", "images": images})
        scores = [*level["psnr"], *[None] * len(level["reconstructions"])]
        images = [
            {
                "src": image,
                "alt": f"reconstruction {number} at {level['level']}"
                + (f", {score:.1f} dB" if score is not None else ""),
                "caption": "" if score is None else f"{score:.1f} dB".replace("-", charts.MINUS),
            }
            for number, (image, score) in enumerate(zip(level["reconstructions"][:most], scores, strict=False), start=1)
        ]
        strips.append({"name": level["level"], "images": images})
    return strips


def _pictures(row: Row, folder: Path, *, drawn: bool) -> list[dict[str, str]]:
    """What a test drew, except what the page draws by itself."""
    own = {f"{file_of(row['id'])}-levels.png", f"{file_of(row['id'])}.png"} if drawn and row.get("tables") else set()
    shown = []
    for name in row.get("pictures", []):
        path = folder / name
        if path.name in own or not path.is_file():
            continue
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        shown.append({"src": f"data:{kind};base64,{content}", "alt": f"{row['id']}: {row.get('measured', path.stem)}"})
    return shown


def _blocks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **block,
            "drawn": ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in block["setting"].items()) or "-",
            "said": next((each["reason"] for each in block["controls"] if not each["passed"]), "")
            or "; ".join(f"{each['level']}: {each['reason']}" for each in block["controls"]),
            "seconds": f"{block['seconds']:.1f}",
        }
        for block in found.get("blocks", [])
    ]


def _behind(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{len(images)} images of {data}" for data, images in found.get("attacked", {}).items())


def _searches(row: Mapping[str, Any]) -> str:
    """How the searches of the controls ended."""
    counts: dict[str, int] = {}
    for table in row.get("tables", []):
        for name, number in table["controls"].items():
            counts[name] = counts.get(name, 0) + number
    return ", ".join(f"{number} searches of the controls {name}" for name, number in counts.items() if number)


def _numbers(row: Mapping[str, Any], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The medians of every metric at every level, table by table, and those of the best placebo."""
    shown = []
    kept = found.get("tables", [])
    for number, table in enumerate(row.get("tables", [])):
        defined = {name: values for name, values in table["medians"].items() if any(v is not None for v in values)}
        lines = [[name, *map(_short, values)] for name, values in defined.items()]
        placebo = kept[number]["placebo"].get("psnr") if number < len(kept) else None
        if placebo:
            columns = [[value for value in column if value is not None] for column in zip(*placebo, strict=True)]
            lines.append(["psnr of the best placebo", *(_short(median(each)) if each else "-" for each in columns)])
        if lines:
            name = f"{table['experiment']} {number + 1}" if len(kept) > 1 else table["experiment"]
            shown.append({"experiment": name, "levels": table["levels"], "lines": lines})
    return shown


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}".replace("-", charts.MINUS)


def _reach(entry: Mapping[str, Any]) -> dict[str, Any]:
    """In which share of the drawn settings a claim holds."""
    drawn = len(entry["draws"])
    shares = {name: each for name, each in entry["shares"].items() if each["count"]}
    holds = entry["shares"].get("holds", {"count": 0})["count"]
    counts = ", ".join(f"{name} {each['count']}" for name, each in shares.items())
    factor, again = entry["factor"], entry["stability"]
    chart = charts.specification(entry["draws"], entry["margin"])
    return {
        "short": f"{holds} of {drawn} settings",
        "counts": f"{counts}, of {drawn} drawn settings",
        "names": list(shares),
        "stability": f"{again['changed']} of {again['settings']} settings show something else when drawn again",
        "factor": None
        if factor is None
        else f"{factor['factor']} moves the effect most (p = {factor['p']:.1g}): "
        + ", ".join(f"{value} {median:+.3g}" for value, median in factor["medians"].items()),
        "chart": chart,
        "alt": f"Effects of {drawn} drawn settings in rising order, with their values below: {counts}",
    }


def _placebos(found: Mapping[str, Mapping[str, Any]], margin: float | None) -> list[list[str]]:
    """What each placebo got in the last run of placebos: its name, its outcome, its leak, and how much it may leak."""
    limit = None if margin is None else margin / 2
    return [
        [name, each["outcome"], _short(each["leak"]), _short(limit if each["leak_decides"] else None)]
        for name, each in found.items()
        if each["outcome"] != NOT_APPLICABLE
    ]


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
        figures = _figures(group.get("figures", []))
        if members[number] or figures:
            about = {name: group.get(name, "") for name in ("title", "short", "text")} | {
                "anchor": f"part-{number + 1}"
            }
            shown.append({**about, "rows": members[number], "figures": figures})
    return shown


def _figures(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each `gia.harness.report.layout.Figure` with where its marks lie."""
    return [{**each, "chart": charts.figure(each["series"], log=each["log"])} for each in figures]


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


def verdicts_schema() -> dict[str, Any]:
    """The JSON schema of `verdicts.json`.

    >>> verdicts_schema()["type"]
    'array'
    """
    found: dict[str, Any] = json.loads(Path(__file__).with_name("verdicts.schema.json").read_text(encoding="utf-8"))
    return found
