"""The ledger: what happened to each row of the register, in a file to which entries are only ever added.

    [[entry]]
    date = "2026-11-24"
    rows = ["op.resolution"]
    kind = "past"
    commit = "6bf82d4"
    digest = ""
    before = "inconclusive"
    after = "supported"
    reason = "..."
    chain = "c1f2..."

Each entry's chain is a digest of the chain before it and of the entry. A second file holds the list of all chains, so
that an entry cannot be changed, moved or dropped by an edit of one file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gia.harness.decide.register import OUTCOMES
from gia.numerics import digest_of, replacing

#: past: before there was a ledger. rules: the rules changed. changed: a protocol, margin, metric or space changed.
#: opened: a confirm run was announced. confirmed: its result.
KINDS = ("past", "rules", "changed", "opened", "confirmed")


class LedgerError(ValueError):
    """The ledger is not what was written to it."""


@dataclass(frozen=True)
class Entry:
    """One event.

    Args:
        date: YYYY-MM-DD.
        rows: ids of the claims that it concerns.
        kind: one of `KINDS`.
        commit: the one that made the change, or for "opened" the frozen commit in full.
        digest: of the protocol that was opened or confirmed, of the blocks that were decided on, or empty.
        before, after: outcomes, or what else changed, in words; empty where there is none.
        reason: why, in plain English.
        chain: filled in by `Ledger.append`.

    Raises ValueError: `entry DATE ROW: FIELD: expected X, got Y`.

    >>> Entry("2026-11-24", ("op.size",), "past", "6bf82d4", "", "inconclusive", "supported", "fewer steps").kind
    'past'
    """

    date: str
    rows: tuple[str, ...]
    kind: str
    commit: str
    digest: str
    before: str
    after: str
    reason: str
    chain: str = ""

    def __post_init__(self) -> None:
        where = f"entry {self.date} {self.rows[0] if self.rows else '-'}"
        if not self.rows:
            raise ValueError(f"{where}: rows: expected at least one id, got none")
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind: expected one of {KINDS}, got {self.kind!r}")
        if not self.reason.strip():
            raise ValueError(f"{where}: reason: expected a sentence, got {self.reason!r}")

    @property
    def changes(self) -> bool:
        """Whether a row has another protocol after it; a past entry without an outcome before is of a first run."""
        return self.kind in ("rules", "changed") or (self.kind == "past" and bool(self.before or not self.after))

    def chained(self, previous: str) -> Entry:
        """This entry behind another one."""
        content = asdict(replace(self, chain=""))
        return replace(self, chain=digest_of([previous, content]))


class Ledger:
    """The entries of a file, in their order; `witness` is the file with the list of their chains.

    Raises LedgerError where an entry is malformed, was changed or moved, or where one that the witness knows is gone.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ledger = Ledger(Path(folder) / "ledger.toml", Path(folder) / "ledger.json")
    ...     ledger.append(Entry("2026-11-22", ("op.size",), "past", "aab395e", "", "", "inconclusive", "first"))
    ...     ledger.append(Entry("2026-11-24", ("op.size",), "past", "6bf82d4", "", "inconclusive", "refuted", "net"))
    ...     ledger.history("op.size")
    'protocol 2; earlier inconclusive'
    """

    def __init__(self, path: Path, witness: Path) -> None:
        self._path, self._witness = path, witness
        self.entries: tuple[Entry, ...] = _read(path)
        self.check()

    def check(self) -> None:
        """Raise LedgerError unless every entry is behind the one that it was written behind, and none is missing."""
        previous = ""
        for number, entry in enumerate(self.entries, start=1):
            if entry.chained(previous).chain != entry.chain:
                raise LedgerError(
                    f"{self._path}: entry {number} ({entry.date}, {entry.rows[0]}): expected it as it was written and "
                    "where it was written, got an edited or moved one; entries are only added, by the harness"
                )
            previous = entry.chain
        known = _read_witness(self._witness)
        chains = [entry.chain for entry in self.entries]
        if chains != known:
            pairs = zip(known, chains, strict=False)
            kept = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(known), len(chains)))
            raise LedgerError(
                f"{self._path}: expected the {len(known)} entries that {self._witness} lists, got {len(chains)} that "
                f"differ from entry {kept + 1} on"
            )

    def append(self, *entries: Entry) -> None:
        """Add entries at the end of the file, and their chains to the witness."""
        chained, previous = [], self.entries[-1].chain if self.entries else ""
        for entry in entries:
            chained.append(entry.chained(previous))
            previous = chained[-1].chain
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        with replacing(self._path) as partial:
            partial.write_text(text + "".join(map(_to_toml, chained)), encoding="utf-8")
        self.entries = (*self.entries, *chained)
        self._witness.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._witness) as partial:
            partial.write_text(json.dumps([entry.chain for entry in self.entries], indent=1) + "\n", encoding="utf-8")

    def of(self, id: str, *kinds: str) -> list[Entry]:
        """The entries on a row, of these kinds only if any are named."""
        return [entry for entry in self.entries if id in entry.rows and (not kinds or entry.kind in kinds)]

    def lineage(self, id: str) -> list[Entry]:
        """The entries on a row and on its earlier forms: those on "op.size" belong to "op.size/2"."""
        versions = _versions(id)
        return [entry for entry in self.entries if versions & set(entry.rows)]

    def opened(self, id: str) -> Entry | None:
        """The last announcement of a confirm run; None if there is none since the row last changed."""
        last = [entry for entry in self.of(id) if entry.kind != "confirmed"][-1:]
        return last[0] if last and last[0].kind == "opened" else None

    def outdated(self, id: str) -> bool:
        """Whether the row changed after its last announcement: its confirm run is of an earlier protocol."""
        return self.tries(id) > 0 and self.opened(id) is None

    def tries(self, id: str) -> int:
        """How many confirm runs of a row were announced; one without a result is a used try."""
        return len(self.of(id, "opened"))

    def history(self, id: str) -> str:
        """Which protocol of the row this is, and its earlier outcomes; empty for a row that never changed.

        What "op.size" went through is part of the history of "op.size/2".
        """
        entries = self.lineage(id)
        number = len(_versions(id)) + sum(entry.changes for entry in entries)
        outcomes = [text for entry in entries for text in (entry.before, entry.after) if text in OUTCOMES]
        if entries and id in entries[-1].rows and entries[-1].after in OUTCOMES:
            outcomes.pop()  # today's
        distinct = [text for i, text in enumerate(outcomes) if i == 0 or outcomes[i - 1] != text]
        parts = [f"protocol {number}"] if number > 1 else []
        parts += [f"earlier {', '.join(distinct)}"] if distinct else []
        tries = self.tries(id)
        parts += [f"confirm run {tries}"] if tries > 1 else []
        return "; ".join(parts)


def _versions(id: str) -> set[str]:
    """The ids that a row has had: "op.size" and "op.size/2" for the second."""
    first, _, last = id.partition("/")
    return {first, *(f"{first}/{number}" for number in range(2, int(last or 1) + 1))}


def _read(path: Path) -> tuple[Entry, ...]:
    if not path.exists():
        return ()
    names = {field.name for field in fields(Entry)}
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("entry", [])
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError(f"expected tables [[entry]], got {rows!r}")
        for number, row in enumerate(rows, start=1):
            if set(row) != names or not isinstance(row["rows"], list):
                raise ValueError(f"entry {number}: expected the keys {sorted(names)}, got {sorted(row)}")
            values = [*row["rows"], *(value for name, value in row.items() if name != "rows")]
            if wrong := [value for value in values if not isinstance(value, str)]:
                raise ValueError(f"entry {number}: expected strings, got {wrong[0]!r}")
        return tuple(Entry(**{**row, "rows": tuple(row["rows"])}) for row in rows)
    except (ValueError, RecursionError, OSError) as error:
        raise LedgerError(f"{path}: {error}") from error


def _read_witness(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise LedgerError(f"{path}: expected a list of chains, got {error}") from error
    if not isinstance(known, list):
        raise LedgerError(f"{path}: expected a list of chains, got {known!r}")
    return known


def _to_toml(entry: Entry) -> str:
    """The entry as TOML; strings and lists of strings are written as in JSON."""
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in _plain(entry)]
    return "\n[[entry]]\n" + "\n".join(lines) + "\n"


def _plain(entry: Entry) -> Iterable[tuple[str, Any]]:
    return ((name, list(value) if isinstance(value, tuple) else value) for name, value in asdict(entry).items())
