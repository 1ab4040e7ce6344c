"""The register of claims: what each row of claims.toml says, and how a run must end to agree with it."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("universal", "exact", "trend", "paired", "affected", "equivalence", "count")
SCALES = ("reduced", "paper")
OUTCOMES = ("supported", "refuted", "inconclusive")
ATTACK_TYPES = ("op", "gen_z", "gen_w", "gen_inv", "ana_arch", "ana_param")
FACTORS = ("batch_size", "resolution", "same_labels", "training_state", "architecture", "fedavg")
COLUMNS = (*FACTORS, "original", "visual_quality", "reliance")

#: What the claim says of the metric as the level rises (trend), or of the second of a pair against the first (paired).
#: "worse" and "better" speak of the attack and are used with metrics of which more is a better attack.
SIDES = {"worse": -1, "lower": -1, "better": 1, "higher": 1}

_DIRECTED = ("trend", "paired")
_NEEDS_MARGIN = ("trend", "paired", "affected", "equivalence", "count")
_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")


class Expectation(NamedTuple):
    """How a claim is expected to end at one scale, and why."""

    outcome: str
    reason: str


@dataclass(frozen=True)
class Claim:
    """One row of the register: one test, one verdict.

    Args:
        id: `TYPE.FACTOR` for the 36 cells of the matrix, else a name of its own; unique.
        statement: The claim in one sentence.
        kind: One of `KINDS`; it decides the statistic.
        metric: The one metric that decides.
        unit: The unit of the effect and of the margin.
        margin: The smallest effect that counts, in `unit`; for `exact` the tolerance. None for `universal`.
        side: For `trend` and `paired` one of `SIDES`; None otherwise.
        source: Where the paper says so.
        paper: The paper's numbers as they are shown in tables.
        expected: Scale to the outcome that the run must have, with the reason.
        attack_type: One of `ATTACK_TYPES`, or None where the row is about several or none.
        factor: One of `FACTORS`, or None outside the matrix.
        pair: For `paired`: the two conditions (A, B). A must pass its control; `side` says how B stands to A.
        number: For `count`: the claimed number, where it is a single one.
        reported: Path in baselines/reported.json (dots between keys and list indices) to the number there.

    Raises:
        ValueError: naming the row, the key, what was expected and what came.
    """

    id: str
    statement: str
    kind: str
    metric: str
    unit: str
    margin: float | None
    side: str | None
    source: str
    paper: str
    expected: Mapping[str, Expectation]
    attack_type: str | None = None
    factor: str | None = None
    pair: tuple[str, str] | None = None
    number: float | None = None
    reported: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise self._wrong("id", "lower-case words joined by at most one dot", self.id)
        if self.kind not in KINDS:
            raise self._wrong("kind", f"one of {KINDS}", self.kind)
        if self.kind in _NEEDS_MARGIN and self.margin is None:
            raise self._wrong("margin", f"a positive number, since the kind is {self.kind!r}", self.margin)
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise self._wrong("margin", "a positive finite number", self.margin)
        if self.kind == "universal" and self.margin is not None:
            raise self._wrong("margin", "none, since one counterexample refutes a universal claim", self.margin)
        if self.kind in _DIRECTED and self.side not in SIDES:
            raise self._wrong("side", f"one of {tuple(SIDES)}, since the kind is {self.kind!r}", self.side)
        if self.kind not in _DIRECTED and self.side is not None:
            raise self._wrong("side", f"none, since the kind is {self.kind!r}", self.side)
        if self.number is not None and self.kind != "count":
            raise self._wrong("number", f"none, since the kind is {self.kind!r}", self.number)
        if self.pair is not None and self.kind != "paired":
            raise self._wrong("pair", f"none, since the kind is {self.kind!r}", self.pair)
        for scale, (outcome, reason) in self.expected.items():
            if scale not in SCALES:
                raise self._wrong("expected", f"scales among {SCALES}", scale)
            if outcome not in OUTCOMES:
                raise self._wrong(f"expected.{scale}", f"one of {OUTCOMES}", outcome)
            if not reason.strip():
                raise self._wrong(f"expected.{scale}", "a reason beside the outcome", reason)

    @property
    def sign(self) -> int:
        """+1 or -1, so that `sign * slope` (trend) or `sign * (b - a)` (paired) is positive on the claimed side."""
        return 1 if self.side is None else SIDES[self.side]

    def _wrong(self, key: str, expected: str, came: object) -> ValueError:
        return ValueError(f"claim {self.id!r}: {key} must be {expected}, but is {came!r}")


class Cell(NamedTuple):
    """One cell of the paper's Table I: its entry there and the rows that re-measure it."""

    paper: str
    rows: tuple[str, ...]


def load_register(path: str | Path) -> dict[str, Claim]:
    """Reads every claim of a register, in the order of the file.

    A row that names no outcome for a scale takes that of the file's `[unmeasured]` table. Margins may be written as
    fractions ("8/64"). `attack_type` and `factor` follow from the id.

    Raises:
        ValueError: on an unknown, missing or wrong key and on a duplicate id, naming the row and the key.
    """
    document = _read(path)
    default = _expectations("[unmeasured]", document.get("unmeasured", {}))
    claims: dict[str, Claim] = {}
    for position, row in enumerate(document["claim"], start=1):
        claim = _claim(row, position, default)
        if claim.id in claims:
            raise ValueError(f"claim {claim.id!r}: id must be unique, but row {position} repeats it")
        if missing := [scale for scale in SCALES if scale not in claim.expected]:
            raise ValueError(f"claim {claim.id!r}: expected.{missing[0]} is missing, and [unmeasured] has none either")
        claims[claim.id] = claim
    return claims


def load_table1(path: str | Path) -> dict[str, dict[str, Cell]]:
    """Reads the paper's Table I: attack type, then column, to its cell.

    Raises:
        ValueError: if a cell is missing, unknown or names a row that the register does not have.
    """
    claims = load_register(path)
    table = _read(path)["table1"]
    _same_keys("table1", table, ATTACK_TYPES)
    for attack_type, row in table.items():
        _same_keys(f"table1.{attack_type}", row, COLUMNS)
        for column, cell in row.items():
            _same_keys(f"table1.{attack_type}.{column}", cell, Cell._fields)
            if missing := [name for name in cell["rows"] if name not in claims] or ([] if cell["rows"] else ["(none)"]):
                raise ValueError(f"table1.{attack_type}.{column}: rows must name claims of the register, not {missing}")
    return {
        attack_type: {column: Cell(cell["paper"], tuple(cell["rows"])) for column, cell in row.items()}
        for attack_type, row in table.items()
    }


def _read(path: str | Path) -> dict[str, Any]:
    document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    known = {"claim", "unmeasured", "table1", "taxonomy", "inconsistency"}
    if unknown := sorted(set(document) - known):
        raise ValueError(f"{path}: unknown tables {unknown}; a register has {sorted(known)}")
    if not isinstance(document.get("claim"), list):
        raise ValueError(f"{path}: expected rows under [[claim]], found none")
    return document


_DERIVED = {"attack_type", "factor"}
_KEYS = {f.name for f in fields(Claim)} - _DERIVED
_HAVE_DEFAULT = {f.name for f in fields(Claim) if f.default is not MISSING or f.default_factory is not MISSING}
_OPTIONAL = _HAVE_DEFAULT | {"margin", "side", "expected"}
_TEXTS = ("statement", "kind", "metric", "unit", "source", "paper")


def _claim(row: Mapping[str, Any], position: int, default: Mapping[str, Expectation]) -> Claim:
    name = row.get("id")
    if not isinstance(name, str):
        raise ValueError(f"claim row {position}: id must be a string, but is {name!r}")
    where = f"claim {name!r}"
    if unknown := sorted(set(row) - _KEYS):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; a row may have {sorted(_KEYS)}")
    if missing := sorted(_KEYS - _OPTIONAL - set(row)):
        raise ValueError(f"{where}: key {missing[0]!r} is missing")
    for key in _TEXTS:
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"{where}: {key} must be a non-empty string, but is {row[key]!r}")
    prefix, _, suffix = name.partition(".")
    attack_type = prefix if prefix in ATTACK_TYPES else None
    return Claim(
        id=name,
        **{key: row[key] for key in _TEXTS},
        margin=_number(where, "margin", row.get("margin")),
        side=row.get("side"),
        expected={**default, **_expectations(where, row.get("expected", {}))},
        attack_type=attack_type,
        factor=suffix if attack_type and suffix in FACTORS else None,
        pair=_pair(where, row.get("pair")),
        number=_number(where, "number", row.get("number")),
        reported=_reported(where, row.get("reported", {})),
    )


def _number(where: str, key: str, value: object) -> float | None:
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except ValueError:
            raise ValueError(f"{where}: {key} must be a number or a fraction like '8/64', but is {value!r}") from None
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise ValueError(f"{where}: {key} must be a number or a fraction like '8/64', but is {value!r}")


def _pair(where: str, value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) and name for name in value):
        return value[0], value[1]
    raise ValueError(f"{where}: pair must be the names of the two conditions, but is {value!r}")


def _expectations(where: str, table: object) -> dict[str, Expectation]:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected must be a table of scales, but is {table!r}")
    for scale, entry in table.items():
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise ValueError(f"{where}: expected.{scale} must be [outcome, reason], but is {entry!r}")
    return {scale: Expectation(*entry) for scale, entry in table.items()}


def _reported(where: str, table: object) -> dict[str, float]:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: reported must be a table of paths and numbers, but is {table!r}")
    numbers = {path: _number(where, f"reported.{path}", value) for path, value in table.items()}
    return {path: value for path, value in numbers.items() if value is not None}


def _same_keys(where: str, table: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if set(table) != set(names):
        raise ValueError(f"{where}: expected the keys {sorted(names)}, found {sorted(table)}")
