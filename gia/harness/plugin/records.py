"""What earlier runs found: the records of verdicts, one file per lane, the reach of rows, and the ledger."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from gia import numerics
from gia.harness.decide.ledger import Entry, Ledger
from gia.harness.decide.record import disagreement, notice
from gia.harness.decide.verdicts import Verdict
from gia.numerics import replacing

#: What a row of a file must have, and of which types.
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "outcome": (str,),
    "effect": (int, float, NoneType),
    "unit": (str,),
    "digest": (str,),
    "commit": (str,),
}
_OF_LANE: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "claims": _FIELDS,
    "confirm": {**_FIELDS, "frozen": (str,), "protocol": (str,)},
    "reach": {"shares": (dict,), "draws": (list,)},
}


class Records:
    """The records of one scale.

    Args:
        baselines: the folder of `<lane>.json`, and of the ledger's witness.
        ledger: the file of the ledger.
        scale: at which is measured; empty for the register's first one, whose files have no suffix.
        commit: of this run.

    Attributes:
        stored: claim id and file of the rows that this run put on record.

    Raises LedgerError for a ledger that is not as it was written.
    """

    def __init__(self, baselines: Path, ledger: Path, *, scale: str, commit: str) -> None:
        self.folder, self._suffix, self._commit = baselines, f"-{scale}" if scale else "", commit
        self.ledger = Ledger(ledger, baselines / "ledger.json")
        self.stored: list[tuple[str, str]] = []

    def rows(self, lane: str) -> dict[str, dict[str, Any]]:
        """Claim id -> what the lane's file says. Raises ValueError for a file that is not readable or malformed."""
        path = self._path(lane)
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{path}: expected a file of records with 'rows', got {error}") from error
        rows = content.get("rows") if isinstance(content, dict) else content
        if not (isinstance(content, dict) and isinstance(rows, dict)):
            raise ValueError(f"{path}: expected a file of records with 'rows', one for each id, got {_short(rows)}")
        fields = _OF_LANE.get(lane, {})
        for id, row in rows.items():
            wrong = [name for name, types in fields.items() if not (isinstance(row, dict) and _is(row, name, types))]
            if wrong:
                raise ValueError(f"{path}: {id}: expected a record with {', '.join(wrong)}, got {_short(row)}")
        return dict(rows)

    def current(self, lane: str, id: str) -> dict[str, Any] | None:
        """What is on record of a row; None where that is nothing, or a confirm run of a protocol that changed since."""
        return None if lane == "confirm" and self.ledger.outdated(id) else self.rows(lane).get(id)

    def store(self, lane: str, id: str, row: Mapping[str, Any]) -> None:
        """Put one row on record at once, so that an interrupted run keeps what it finished."""
        path = self._path(lane)
        environment = {**numerics.environment(), "fingerprint": numerics.fingerprint()}
        content = {"environment": environment, "rows": {**self.rows(lane), id: dict(row)}}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
            partial.write_text(text + "\n", encoding="utf-8")
        self.stored.append((id, f"{path.parent.name}/{path.name}"))

    def compared(self, verdict: Verdict, *, digest: str, lane: str, margin: float | None) -> tuple[str, str]:
        """Why a verdict fails against the records of the lanes "claims" and "confirm", and what else is to be said."""
        failures, notices = [], []
        for other in ("claims", "confirm"):
            record = self.current(other, verdict.id)
            about = {"digest": digest, "lane_of_record": other, "lane": lane}
            failures.append(disagreement(record, verdict, **about))
            if record is not None or other == lane:
                notices.append(notice(record, verdict, margin=margin, **about))
        return "; ".join(filter(None, failures)), "; ".join(filter(None, notices))

    def enter(self, kind: str, *rows: str, digest: str = "", reason: str, **more: str) -> None:
        """Add an entry of today to the ledger; `more` holds `before`, `after` and `commit`, by default this run's."""
        fields = {"before": "", "after": "", "commit": self._commit, **more}
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        self.ledger.append(Entry(today, rows, kind, digest=digest, reason=reason, **fields))

    def _path(self, lane: str) -> Path:
        return self.folder / f"{lane}{self._suffix}.json"


def _is(row: Mapping[str, Any], name: str, types: tuple[type, ...]) -> bool:
    return name in row and isinstance(row[name], types) and not isinstance(row[name], bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
