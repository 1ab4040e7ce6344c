"""The paper's Table I as data: attack types and factors, each cell's entry there, and the claims that re-measure it."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from gia.harness.decide.register import load_register

ATTACK_TYPES = ("op", "gen_z", "gen_w", "gen_inv", "ana_arch", "ana_param")
FACTORS = ("batch_size", "resolution", "same_labels", "training_state", "architecture", "fedavg")
COLUMNS = (*FACTORS, "original", "visual_quality", "reliance")


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


def _check_keys(where: str, table: Mapping[str, object], names: Collection[str]) -> None:
    if set(table) != set(names):
        raise ValueError(f"{where}: expected the keys {sorted(names)}, got {sorted(table)}")
