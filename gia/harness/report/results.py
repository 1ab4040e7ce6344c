"""docs/results.md: the verdicts on record, made from the files of the records and the register.

    python -m gia report --markdown        # writes docs/results.md

The published verdict of a row is that of its confirm run. The first look of the claims run is shown next to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gia.harness.decide.ledger import Ledger
from gia.harness.decide.reach import SHOWN_BELOW
from gia.harness.decide.register import OUTCOMES, Claim, Register
from gia.harness.report.markdown import table_line
from gia.harness.report.project import Records, project_at
from gia.harness.report.rows import effect, reach

NOT_CONFIRMED = "not confirmed yet"

#: Argument of `results` -> the lane whose records it takes.
_LANES = {"confirm": "confirm", "claims": "claims", "reached": "reach"}


def results(register: Register, ledger: Ledger, *, confirm: Records, claims: Records, reached: Records) -> str:
    """The document, from the records of the lanes confirm, claims and reach, each claim id -> row.

    >>> claim = Claim("op.size", "More is worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
    >>> empty = Ledger(Path("none.toml"), Path("none.json"))
    >>> text = results(Register(("small",), [claim]), empty, confirm={}, claims={}, reached={})
    >>> text.splitlines()[-1]
    '| `op.size` More is worse. | not confirmed yet | never run | supported | - | - |'
    """
    confirmed = [confirm[id]["outcome"] for id in register if id in confirm and not register[id].by_construction]
    given = [id for id in register if register[id].by_construction]
    counts = ", ".join(f"{confirmed.count(name)} {name}" for name in OUTCOMES)
    waiting = sum(id not in confirm for id in register)
    others = ", ".join(register.scales[1:])
    intro = [
        "# Results",
        "Made by `python -m gia report --markdown` from `baselines/confirm.json`, `claims.json` and `reach.json`; "
        "do not edit. [method.md](method.md) explains how a verdict is reached.",
        f"{len(register)} rows. Confirmed: {counts}, without the {len(given)} that hold by construction. "
        f"{waiting} {'is' if waiting == 1 else 'are'} {NOT_CONFIRMED}.",
        '"Supported" means: in the median setting of the space that the row draws from, where the path works. Reach '
        "says in which share of all drawn settings the claim holds.",
    ]
    if others:
        intro.append(f"Measured at {register.scales[0]} scale. At {others} scale every row was never run.")
    header = ("claim", "confirmed", "first look", "the paper", "reach", "history")
    table = [table_line(header), table_line(["---"] * len(header))]
    for id, claim in register.items():
        cells = (
            f"`{id}` {claim.statement}"
            + (f" *By construction: {claim.by_construction}*" if claim.by_construction else ""),
            _verdict(claim, confirm.get(id)) or NOT_CONFIRMED,
            _verdict(claim, claims.get(id)) or "never run",
            claim.paper_says,
            _reach(reached.get(id)) or "-",
            ledger.history(id) or "-",
        )
        table.append(table_line(cells))
    return "\n\n".join([*intro, "\n".join(table)]) + "\n"


def from_files(root: Path) -> str:
    """The document of the repository at `root`."""
    project = project_at(root)
    lanes = {name: project.records.get(lane, {}) for name, lane in _LANES.items()}
    return results(project.register, project.ledger, **lanes)


def _verdict(claim: Claim, record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    number = effect({**record, "kind": claim.kind, "margin": claim.margin})
    return f"**{record['outcome']}**" + (f" {number}, {record['blocks']} blocks" if number else "")


def _reach(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    text = reach(entry["shares"])
    factor, again = entry["factor"], entry["stability"]
    if factor is not None and factor["p"] < SHOWN_BELOW:
        medians = ", ".join(f"{value} {median:+.3g}" for value, median in factor["medians"].items())
        text += f"; {factor['factor']} moves it most ({medians} {entry['unit']}, p = {factor['p']:.1g})"
    return f"{text}; {again['changed']} of {again['settings']} settings change when drawn again"
