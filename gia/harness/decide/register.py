"""The register: the claims that tests decide on, read from a TOML file."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

KINDS = ("universal", "exact", "trend", "paired", "affected", "equivalence", "count")
OUTCOMES = ("supported", "refuted", "inconclusive")

#: What the paper says of a claim: that it holds, that it does not, or nothing.
PAPER_SAYS = ("supported", "refuted", "nothing")

#: Where the metric moves as the level rises (trend), or from the first condition of a pair to the second (paired).
#: "worse" and "better" are meant for the attack: use them with metrics that are higher for a better attack.
DIRECTIONS = {"worse": -1, "lower": -1, "better": 1, "higher": 1}

_DIRECTED = ("trend", "paired")
_NEEDS_MARGIN = ("trend", "paired", "affected", "equivalence", "count")
_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?(/([2-9]|[1-9][0-9]+))?")


@dataclass(frozen=True)
class Claim:
    """One row of the register: one test decides on it, with one verdict.

    Args:
        id: lower-case words, joined by at most one dot; unique in the register. A row whose statement, margin, kind or
            direction changed after a verdict ends in /2, then /3 ...
        statement: the claim in one sentence.
        kind: one of `KINDS`; it decides the statistic.
        metric: the one metric that decides.
        unit: the unit of the effect and of the margin.
        margin: the smallest effect that counts, in `unit`, above 0. For `exact` it is the tolerance, or None for an
            error of exactly 0; for `universal` it is None.
        direction: for `trend` and `paired` one of `DIRECTIONS`, otherwise None.
        source: where the claim is published.
        paper: the published numbers, as tables show them.
        paper_says: one of `PAPER_SAYS`; shown next to the outcome, and no outcome depends on it.
        by_construction: why the row cannot fail, if it holds by algebra or its answer is given; counted apart.
        leak: whether the metric is what the gradient adds, so that a verdict needs room (from `leak_metrics`).
        pair: for `paired` the two conditions (A, B). A must pass its control; `direction` leads from A to B.
        number: for `count` the claimed number, if it is a single one.
        reported: path in baselines/reported.json (keys and list indices joined by dots) -> the number there.

    Raises:
        ValueError: `claim 'ID': FIELD: expected X, got Y`.

    >>> row = Claim("op.size", "More is worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
    >>> row.sign, row.paper_says
    (-1, 'supported')
    """

    id: str
    statement: str
    kind: str
    metric: str
    unit: str
    margin: float | None
    direction: str | None
    source: str
    paper: str
    paper_says: str = "supported"
    by_construction: str | None = None
    leak: bool = False
    pair: tuple[str, str] | None = None
    number: float | None = None
    reported: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = f"for the kind {self.kind!r}"
        if not _ID.fullmatch(self.id):
            raise self._wrong(
                "id", "lower-case words joined by at most one dot, and /2 or more after a change", self.id
            )
        if self.kind not in KINDS:
            raise self._wrong("kind", f"one of {KINDS}", self.kind)
        if self.kind in _NEEDS_MARGIN and self.margin is None:
            raise self._wrong("margin", f"a positive number {kind}", self.margin)
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise self._wrong("margin", "a positive finite number", self.margin)
        if self.kind == "universal" and self.margin is not None:
            raise self._wrong("margin", "no value, since one counterexample refutes a universal claim", self.margin)
        if self.kind in _DIRECTED and self.direction not in DIRECTIONS:
            raise self._wrong("direction", f"one of {tuple(DIRECTIONS)} {kind}", self.direction)
        for name, kinds in (("direction", _DIRECTED), ("number", ("count",)), ("pair", ("paired",))):
            if self.kind not in kinds and getattr(self, name) is not None:
                raise self._wrong(name, f"no value {kind}", getattr(self, name))
        if self.paper_says not in PAPER_SAYS:
            raise self._wrong("paper_says", f"one of {PAPER_SAYS}", self.paper_says)
        if self.by_construction is not None and not self.by_construction.strip():
            raise self._wrong("by_construction", "a reason, or no value", self.by_construction)

    @property
    def sign(self) -> int:
        """+1 or -1: `sign * slope` (trend) and `sign * (b - a)` (paired) are positive in the claimed direction."""
        return 1 if self.direction is None else DIRECTIONS[self.direction]

    @property
    def file(self) -> str:
        """The id as a part of file names: "op.resolution-2" for "op.resolution/2"."""
        return self.id.replace("/", "-")

    def _wrong(self, name: str, expected: str, got: object) -> ValueError:
        return ValueError(f"claim {self.id!r}: {name}: expected {expected}, got {got!r}")


class Register(Mapping[str, Claim]):
    """The claims of a register by id, in the order of its file.

    Attributes:
        scales: the names of the scales at which claims are measured; the first is the default.

    >>> row = Claim("op.size", "More is worse.", "trend", "psnr", "dB", 0.5, "worse", "Fig. 1", "24 to 18 dB")
    >>> register = Register(("small", "large"), [row])
    >>> register
    <Register of 1 claims at the scales small, large>
    >>> register.claim("op.sise")
    Traceback (most recent call last):
    ValueError: id: expected a claim of the register, got 'op.sise'; did you mean 'op.size'?
    """

    def __init__(self, scales: Collection[str], claims: Collection[Claim]) -> None:
        self.scales = tuple(scales)
        self._claims = {claim.id: claim for claim in claims}

    def __getitem__(self, id: str) -> Claim:
        return self._claims[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def __repr__(self) -> str:
        return f"<Register of {len(self)} claims at the scales {', '.join(self.scales)}>"

    def claim(self, id: str) -> Claim:
        """The claim with this id. Raises ValueError for an unknown id, with the most similar one."""
        if id not in self._claims:
            raise ValueError(f"id: expected a claim of the register, got {id!r}{_did_you_mean(id, self._claims)}")
        return self._claims[id]


def load_register(path: str | Path) -> Register:
    """Read a register. The keys of its file are `scales`, `leak_metrics` and `[[claim]]`.

    `leak_metrics` names the metrics that measure what the gradient adds (none by default). Margins may be fractions
    ("8/64"). Further tables are allowed and not read, unless their name resembles one of those three keys.

    Raises:
        ValueError: for an unknown, missing or malformed key and for a repeated id, naming the claim and the key.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
    ...     _ = file.write('''
    ...     scales = ["small"]
    ...     leak_metrics = ["leak"]
    ...     [[claim]]
    ...     id = "dlg.size"
    ...     statement = "Larger batches are reconstructed worse."
    ...     kind = "trend"
    ...     metric = "leak"
    ...     unit = "dB per doubling"
    ...     margin = 0.5
    ...     direction = "worse"
    ...     source = "Fig. 3"
    ...     paper = "24 to 18 dB"
    ...     ''')
    ...     file.flush()
    ...     claim = load_register(file.name)["dlg.size"]
    >>> claim.margin, claim.leak
    (0.5, True)
    """
    document = _read(path)
    scales = _names("scales", document.get("scales"))
    leaks = _names("leak_metrics", document["leak_metrics"]) if "leak_metrics" in document else ()
    claims: dict[str, Claim] = {}
    for position, row in enumerate(document["claim"], start=1):
        claim = _claim(row, position, leaks)
        if claim.id in claims:
            raise ValueError(f"claim {claim.id!r}: id: expected a unique one, got it again in row {position}")
        claims[claim.id] = claim
    return Register(scales, claims.values())


def _read(path: str | Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: expected a readable TOML file, got {type(error).__name__}: {error}") from error
    known = ("scales", "leak_metrics", "claim")
    for key, value in document.items():
        hint = _did_you_mean(key, known)
        if key not in known and (hint or not _is_table(value)):
            raise ValueError(f"{path}: expected tables and the keys {list(known)}, got {key!r}{hint}")
    if not (isinstance(document.get("claim"), list) and _is_table(document["claim"])):
        raise ValueError(f"{path}: claim: expected rows under [[claim]], got {document.get('claim')!r}")
    return document


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(row, dict) for row in value))


def _names(key: str, value: Any) -> tuple[str, ...]:
    names = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    if value and names and len(set(value)) == len(value):
        return tuple(value)
    raise ValueError(f"{key}: expected a list of distinct names, at least one, got {value!r}")


_KEYS = {f.name for f in fields(Claim)} - {"leak"}
_HAVE_DEFAULT = {f.name for f in fields(Claim) if f.default is not MISSING or f.default_factory is not MISSING}
_OPTIONAL = _HAVE_DEFAULT | {"margin", "direction"}
_TEXTS = ("statement", "kind", "metric", "unit", "source", "paper")


def _claim(row: Mapping[str, Any], position: int, leak_metrics: Collection[str]) -> Claim:
    name = row.get("id")
    if not isinstance(name, str):
        raise ValueError(f"claim row {position}: id: expected a string, got {name!r}")
    where = f"claim {name!r}"
    if unknown := sorted(set(row) - _KEYS):
        hint = _did_you_mean(unknown[0], _KEYS)
        raise ValueError(f"{where}: expected keys among {sorted(_KEYS)}, got {unknown[0]!r}{hint}")
    if missing := sorted(_KEYS - _OPTIONAL - set(row)):
        raise ValueError(f"{where}: {missing[0]}: expected a value, got none")
    for key in (*_TEXTS, *({"paper_says", "by_construction"} & set(row))):
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"{where}: {key}: expected a non-empty string, got {row[key]!r}")
    return Claim(
        id=name,
        **{key: row[key] for key in _TEXTS},
        margin=_number(f"{where}: margin", row.get("margin")),
        direction=_text(f"{where}: direction", row.get("direction")),
        paper_says=row.get("paper_says", "supported"),
        by_construction=row.get("by_construction"),
        leak=row["metric"] in leak_metrics,
        pair=_pair(f"{where}: pair", row.get("pair")),
        number=_number(f"{where}: number", row.get("number")),
        reported=_reported(f"{where}: reported", row.get("reported", {})),
    )


def _number(where: str, value: object) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(Fraction(value) if isinstance(value, str) else value)
            if math.isfinite(number):
                return number
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise ValueError(f"{where}: expected a number or a fraction like '8/64', got {value!r}")


def _text(where: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: expected a string, got {value!r}")
    return value


def _pair(where: str, value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) and name for name in value):
        return value[0], value[1]
    raise ValueError(f"{where}: expected the names of the two conditions, got {value!r}")


def _reported(where: str, table: object) -> dict[str, float]:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected a table of paths and numbers, got {table!r}")
    numbers = {path: _number(f"{where}.{path}", value) for path, value in table.items()}
    return {path: value for path, value in numbers.items() if value is not None}


def _did_you_mean(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
