"""A run folder with planted verdicts and evidence, and a page as a reader of HTML sees it, for tests of the report."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from gia.harness.report.material import file_of

#: One pixel, as PNG in base64.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="

LAYOUT: dict[str, Any] = {
    "title": "Planted claims",
    "text": "Measured again.",
    "matrix": {
        "title": "Table I",
        "text": "What the paper says.",
        "rows": {"op": ("Optimization", "IG"), "gen": ("Generation", "GGL")},
        "columns": {"size": "batch size", "depth": "depth"},
        "cells": {
            "op": {
                "size": {"mark": "yes", "rows": ["op.size", "op.size_too"]},
                "depth": {"mark": "no", "rows": ["op.depth/2"]},
            },
            "gen": {"size": {"mark": "no", "rows": ["gen.size"]}, "depth": {"mark": "yes", "rows": ["op.depth/2"]}},
        },
    },
    "groups": [
        {"title": "Optimization", "text": "", "prefixes": ["op"]},
        {
            "title": "Theory",
            "text": "Bounds.",
            "prefixes": ["thm"],
            "figures": [
                {
                    "title": "A bound",
                    "text": "It fails.",
                    "x": "steps",
                    "y": "error",
                    "log": True,
                    "series": [
                        {"name": "error", "points": [(0, 1.0), (10, 1e5)]},
                        {"name": "limits", "points": [(0, 1.0), (10, 0.4)], "dots": True, "labels": ["a", "b"]},
                    ],
                }
            ],
        },
    ],
    "inconsistencies": [
        {
            "title": "Two numbers",
            "paper": "They differ.",
            "rows": ["op.size", "thm.bound"],
            "numbers": {"fig3.1": "0.765"},
            "measured": "neither",
        }
    ],
}


def a_claim(id: str, kind: str = "trend", **changes: Any) -> dict[str, Any]:
    """What `about.json` says of a row."""
    return {
        "id": id,
        "statement": f"The statement of {id}.",
        "kind": kind,
        "metric": "leak",
        "unit": "dB",
        "margin": None if kind == "universal" else 0.5,
        "direction": "worse" if kind == "trend" else None,
        "source": "Fig. 1",
        "paper": "24 to 18 dB",
        "paper_says": "supported",
        "by_construction": None,
        "pair": None,
        "number": None,
        "history": "",
        "ledger": [],
        "records": {},
        **changes,
    }


def a_verdict(id: str, outcome: str = "supported", **changes: Any) -> dict[str, Any]:
    """A row of `verdicts.json`."""
    kind = changes.get("kind", "trend")
    return {
        **{name: value for name, value in a_claim(id, kind).items() if name not in ("ledger", "records", "direction")},
        **{"outcome": outcome, "recorded": None, "disagrees": "", "notice": "", "reach": None},
        **{"effect": 2.0, "interval": [1.5, 2.5], "blocks": 8, "void": 1, "cached": 0, "look": 1},
        **{"p": 0.001, "p_name": "Page", "measured": "leak 6/4/2", "why": "", "direction": "", "digest": "ab12"},
        **{"scale": "reduced", "seconds": 12.5, "tables": [a_table(id)], "pictures": []},
        **{"torch": "2.14.1", "device": "cpu", "commit": "0f3adc1"},
        **changes,
    }


def a_table(id: str) -> dict[str, Any]:
    """What a row says of its blocks."""
    return {
        "experiment": id,
        "levels": ["1", "2", "4"],
        "medians": {"leak": [6.0, 4.0, 2.0], "psnr": [20.0, 18.0, 16.0]},
        "void": {"3": "no objective sees the image"},
        "void_shares": {"victim.width": {"16": [1, 5], "24": [0, 4]}},
        "controls": {"ambiguous": 2, "not found": 6},
        "behind": {"images": 7, "shared attackers": 0},
        "seconds": 40.0,
        "seconds_per_look": [40.0, 0.0, 0.0],
    }


def evidence_of(id: str, blocks: int = 8) -> dict[str, Any]:
    """What the run kept of a row: one void block, three levels, two images."""
    slopes = np.linspace(1.5, 2.5, blocks)
    leak = [[6.0, 6.0 - slope, 6.0 - 2 * slope] for slope in slopes]
    void = {"level": "1", "passed": False, "reason": "no objective sees the image"}
    passed = {"level": "1", "passed": True, "reason": "found .002 below the placebos' .056"}
    about = {"experiment": id, "setting": {"victim.width": 16, "batch.data": "digits"}, "seconds": 5.0}
    return {
        "effects": slopes.tolist(),
        "curve": {
            "levels": ["1", "2", "4"],
            "values": leak,
            "reported": {"1": 0.765, "16": 0.6, "4": 0.7},
            "reported_as": "the paper's CW-SSIM",
        },
        "blocks": [
            {**about, "index": index, "valid": index != 3, "controls": [void if index == 3 else passed]}
            for index in range(blocks + 1)
        ],
        "tables": [
            {
                "experiment": id,
                "levels": ["1", "2", "4"],
                "metrics": {"leak": leak, "psnr": [[14 + value for value in row] for row in leak]},
                "placebo": {"psnr": [[14.0, 14.0, 14.0]] * blocks},
            }
        ],
        "attacked": {"digits": [1, 2, 3], "photos": [7]},
        "tiles": [
            {
                "level": level,
                "block": 0,
                "originals": [PIXEL, PIXEL] if level == "1" else [],
                "reconstructions": [PIXEL, PIXEL],
                "psnr": [24.06, None],
            }
            for level in ("1", "2", "4")
        ],
    }


def reach_of() -> dict[str, Any]:
    """What is on record of a row's reach: 20 settings hold, 4 are dead."""
    draws: list[dict[str, Any]] = [
        {
            "index": index,
            "setting": {"victim.width": 16 + 8 * (index % 2), "victim.activation": "relu" if index % 3 else "silu"},
            "label": "holds" if index < 20 else "dead" if index < 23 else "void",
            "effect": None if index == 23 else 2.0 - 0.1 * index,
        }
        for index in range(24)
    ]
    share = {"share": 20 / 24, "interval": [0.6, 0.95], "of_live": 1.0}
    return {
        "margin": 0.5,
        "unit": "dB",
        "shares": {"holds": {"count": 20, **share}, "dead": {"count": 4, **share}, "void": {"count": 0, **share}},
        "stability": {"settings": 16, "changed": 3},
        "factor": {"factor": "victim.activation", "p": 0.001, "medians": {"relu": 2.0, "silu": 0.1}},
        "draws": draws,
    }


def an_about(**changes: Any) -> dict[str, Any]:
    """`about.json`: five rows, one of them confirmed, one never run."""
    record = {"outcome": "refuted", "effect": 0.1, "interval": [-0.0, 0.3], "unit": "dB", "blocks": 16, "void": 0}
    records = {"confirm": {**record, "look": 2, "commit": "c562e36"}, "reach": reach_of()}
    entry = {"date": "2026-11-24", "kind": "changed", "commit": "6bf82d4", "before": "inconclusive"}
    ledger = [{**entry, "after": "supported", "reason": "Fewer <steps>."}]
    claims = [
        a_claim("op.size", records=records, ledger=ledger, history="protocol 2"),
        a_claim("op.size_too", by_construction="the label is given"),
        a_claim("op.depth/2", "equivalence", paper_says="refuted"),
        a_claim("gen.size"),
        a_claim("thm.bound", "universal"),
    ]
    placebo = {"outcome": "inconclusive", "leak": 0.1, "leak_decides": True}
    return {
        "scales": ["reduced", "paper"],
        "claims": {claim["id"]: claim for claim in claims},
        "layout": LAYOUT,
        "machine": {"cpu": "x86_64"},
        "commands": {"op.size": "python -m pytest 'claims/test_size.py::test_size[op]'"},
        "placebos": {"op.size": {"noise": placebo, "saboteur": {**placebo, "outcome": "not applicable"}}},
        "environment": {"scale": "reduced", "torch": "2.14.1", "commit": "0f3adc1"},
        "here": {"threads": "1"},
        "without_verdict": {},
        "not_covered": None,
        "notices": ["a store was damaged"],
        "baselines": ["batch_size: as stored"],
        **changes,
    }


def verdicts() -> list[dict[str, Any]]:
    """Of three rows."""
    universal = {"kind": "universal", "margin": None, "interval": None, "tables": [], "effect": 0.25}
    return [
        a_verdict("op.size"),
        a_verdict("op.depth/2", "inconclusive", kind="equivalence", why="one interval contains an end of the margin"),
        a_verdict("thm.bound", "refuted", **universal),
    ]


def write_folder(
    folder: Path,
    rows: list[dict[str, Any]] | None = None,
    about: dict[str, Any] | None = None,
    evidence: dict[str, Any] | None = None,
) -> Path:
    """A run folder; `about` None leaves the file out, as old runs do."""
    rows = verdicts() if rows is None else rows
    (folder / "evidence").mkdir(parents=True)
    (folder / "verdicts.json").write_text(json.dumps(rows), encoding="utf-8")
    manifest = {"written_by": "gia.harness", "started": "20261130-003346-524289", "state": "ended", "kind": "reduced"}
    (folder / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    if about is not None:
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    kept = {row["id"]: evidence_of(row["id"]) for row in rows[:2]} if evidence is None else evidence
    for id, content in kept.items():
        (folder / "evidence" / f"{file_of(id)}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """What a page says to those who do not look at it.

    Attributes:
        ids: in their order.
        links: of all anchors.
        outside: whatever a browser would fetch.
        faults: elements that say nothing where they should: images without a text, headers without a scope ...
        rows: the ids inside of rows that fold.
        cells: the links of each cell of the matrix.
        text: of everything, styles and scripts left out.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.faults: list[str] = []
        self.rows: list[str] = []
        self.cells: list[list[str]] = []
        self.labelled: list[str] = []
        self._texts: list[str] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self._texts).split())
        if self._open:
            self.faults.append(f"never closed: {[tag for tag, _ in self._open]}")

    _ALONE = frozenset({"meta", "link", "img", "input", "br"})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.append(found["id"])
            if any(self._is_row(*each) for each in self._open):
                self.rows.append(found["id"])
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            if name in found and not found[name].startswith(("#", "data:")):
                self.outside.append(f"{tag} {name}={found[name]}")
        self.labelled += found.get("aria-labelledby", "").split() + ([found["for"]] if "for" in found else [])
        if tag == "a":
            self.links.append(found.get("href", ""))
            if self.cells and any(name == "td" and "data-column" in about for name, about in self._open):
                self.cells[-1].append(found.get("href", ""))
        if tag == "td" and "data-column" in found:
            self.cells.append([])
        if tag == "img" and not found.get("alt", "").strip():
            self.faults.append("an image without a text")
        if tag == "th" and found.get("scope") not in ("row", "col"):
            self.faults.append("a table header without a scope")
        if tag == "svg" and found.get("aria-hidden") != "true" and found.get("role") != "img":
            self.faults.append("a drawing without a role")
        if tag not in self._ALONE and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self._open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        """Close an element, which must be the last one that is open."""
        if tag in self._ALONE:
            return
        if self._open and self._open[-1][0] == tag:
            self._open.pop()
        elif self._open and self._open[-1][0] == "p":  # may be left open
            self._open.pop()
            self.handle_endtag(tag)
        else:
            self.faults.append(f"</{tag}> where {self._open[-1:]} is open")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element of a drawing."""
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if not any(tag in ("style", "script") for tag, _ in self._open):
            self._texts.append(data)

    @staticmethod
    def _is_row(tag: str, about: dict[str, str]) -> bool:
        return tag == "details" and about.get("class") == "row"
