"""The paper's Table I as data: attack types and factors, each cell's entry there, and the claims that re-measure it.

python -m claims.table1        # writes the table with our verdicts into README.md, between its two markers
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from gia.attacks.trials import TYPES
from gia.harness.decide.register import load_register
from gia.harness.report.markdown import table_line
from gia.harness.report.project import Records, project_at

ROOT = Path(__file__).parents[1]

#: Id of an attack type -> its name in the paper.
NAMES = dict(TYPES.values())
ATTACK_TYPES = tuple(NAMES)
FACTORS = ("batch_size", "resolution", "same_labels", "training_state", "architecture", "fedavg")
COLUMNS = (*FACTORS, "original", "visual_quality", "reliance")

#: What stands for an outcome in a cell; a first look that is not confirmed is in parentheses, and a row that holds by
#: construction has a dagger.
MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "?"}

#: Between these two lines README.md holds the generated table.
MARKERS = ("<!-- Table I: written by `python -m claims.table1` -->", "<!-- end of Table I -->")


class Table1Cell(NamedTuple):
    """One cell of Table I: its entry in the paper, and the ids of the claims that re-measure it."""

    paper: str
    claims: tuple[str, ...]


def load_table1(path: str | Path) -> dict[str, dict[str, Table1Cell]]:
    """Read Table I from the `[table1]` of the register's file.

    Args:
        path: the register's TOML file. A cell is `column = { paper = "yes", rows = ["op.batch_size"] }` under
            `[table1.ATTACK_TYPE]`.

    Returns:
        Attack type -> column -> cell, for all of `ATTACK_TYPES` and `COLUMNS`.

    Raises:
        ValueError: if a cell is missing, unknown, or names no claim or one that the register does not have.

    >>> load_table1("claims/claims.toml")["op"]["fedavg"].claims[0]
    'op.fedavg'
    """
    register = load_register(path)
    table = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("table1", {})
    _check_keys("table1", table, ATTACK_TYPES)
    cells: dict[str, dict[str, Table1Cell]] = {}
    for attack_type, row in table.items():
        _check_keys(f"table1.{attack_type}", row, COLUMNS)
        cells[attack_type] = {}
        for column, cell in row.items():
            where = f"table1.{attack_type}.{column}"
            _check_keys(where, cell, ("paper", "rows"))
            if unknown := [id for id in cell["rows"] if id not in register] or ([] if cell["rows"] else ["(none)"]):
                raise ValueError(f"{where}: rows: expected ids of the register, got {unknown}")
            cells[attack_type][column] = Table1Cell(cell["paper"], tuple(cell["rows"]))
    return cells


def markdown(
    cells: Mapping[str, Mapping[str, Table1Cell]], *, confirm: Records, claims: Records, given: Collection[str] = ()
) -> str:
    """The six factors and the column `original` as a Markdown table: the paper's entry and the mark of our verdict.

    Args:
        cells: as `load_table1` returns them. A cell shows the verdict of its first row.
        confirm: claim id -> record of the confirmed verdicts, which count first.
        claims: claim id -> record of the first looks; their marks are in parentheses.
        given: ids of rows that hold by construction.

    >>> cells = load_table1("claims/claims.toml")
    >>> confirm, claims = {"op.fedavg": {"outcome": "refuted"}}, {"op.original": {"outcome": "supported"}}
    >>> markdown({"op": cells["op"]}, confirm=confirm, claims=claims).splitlines()[-1]
    '| OP-GIA (`op`) | yes - | yes - | yes - | yes - | yes - | yes ✗ | yes (✓) |'
    """
    columns = (*FACTORS, "original")
    lines = [("attack type", *(column.replace("_", " ") for column in columns)), ("---",) * (len(columns) + 1)]
    for attack_type, row in cells.items():
        marked = (f"{row[column].paper} {_mark(row[column].claims[0], confirm, claims, given)}" for column in columns)
        lines.append((f"{NAMES[attack_type]} (`{attack_type}`)", *marked))
    return "\n".join(table_line(line) for line in lines)


def from_files(root: Path) -> str:
    """The table of the repository at `root`."""
    project = project_at(root)
    given = {id for id, claim in project.register.items() if claim.by_construction}
    cells = load_table1(root / "claims" / "claims.toml")
    return markdown(cells, confirm=project.records["confirm"], claims=project.records["claims"], given=given)


def replaced(text: str, table: str, *, markers: tuple[str, str] = MARKERS) -> str:
    """A document with this table between its two markers.

    Args:
        text: the document.
        table: what stands between the markers afterwards.
        markers: two lines of the document; those of Table I by default.

    Raises:
        ValueError: if the document does not have each marker once.

    >>> replaced("\\n".join(["Above.", *MARKERS, "Below."]), "| a |").splitlines()[2:4]
    ['', '| a |']
    """
    start, end = markers
    if (text.count(start), text.count(end)) != (1, 1):
        raise ValueError(f"text: expected each of the lines {markers} once, got {text.count(start)}, {text.count(end)}")
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


def _mark(claim: str, confirm: Records, claims: Records, given: Collection[str]) -> str:
    dagger = "†" if claim in given else ""
    if claim in confirm:
        return MARKS[confirm[claim]["outcome"]] + dagger
    return f"({MARKS[claims[claim]['outcome']]}{dagger})" if claim in claims else "-"


def _check_keys(where: str, table: Mapping[str, object], names: Collection[str]) -> None:
    if set(table) != set(names):
        raise ValueError(f"{where}: expected the keys {sorted(names)}, got {sorted(table)}")


def main() -> None:
    """Write the table into README.md."""
    readme = ROOT / "README.md"
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), from_files(ROOT)), encoding="utf-8")


if __name__ == "__main__":
    main()
