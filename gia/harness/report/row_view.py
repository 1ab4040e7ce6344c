"""What the page shows of one row of the register: its verdicts, drawings, blocks and numbers, as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median
from typing import Any

from gia.harness.report import charts, drawings
from gia.harness.report.material import Material, file_of
from gia.harness.report.rows import NOT_APPLICABLE, Row, attention, effect


def anchor(id: str) -> str:
    """Where a row stands in the page.

    >>> anchor("op.resolution/2")
    'row-op.resolution-2'
    """
    return f"row-{file_of(id)}"


def row_view(
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
    shown = [] if now is None or not pictures else drawings.pictures(now, material.folder, drawn=bool(found))
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
        "charts": drawings.row_charts(claim, now, found, "" if now is None else _effect(now, claim)),
        "tiles": drawings.tiles(found.get("tiles", []), tiles),
        "figures": drawings.marked(found.get("figures", [])),
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
