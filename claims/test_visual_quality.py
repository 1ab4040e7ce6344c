"""Visual quality: whose results look like real photographs? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from claims.changes import unchanged
from claims.scales import Scale
from gia import pictures
from gia.harness.blocks.store import load_pictures
from gia.harness.decide import verdicts
from gia.harness.decide.looks import look_twice
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.claims import Claims

#: Quality in Table I, from high to low.
GROUPS = {"high": ("ana_arch", "gen_z"), "middle": ("gen_w", "ana_param"), "low": ("op", "gen_inv")}
TYPES = [attack_type for group in GROUPS.values() for attack_type in group]


@pytest.mark.claim("visual_quality")
def test_results_look_less_real_from_group_to_group(claims: Claims, scale: Scale) -> None:
    """LPIPS to the nearest of 100 real faces that nobody attacked, over Table I's groups from high to low.

    The blocks of all types have the same private faces. A block counts only if the attack of every type passes its
    control, since a dead attack would look as bad as the claim says.
    """
    claim = claims.claim("visual_quality")

    def measured(blocks: int) -> dict[str, Table]:
        return {
            name: claims.table(claim.id, scale.VISUAL[name], levels=(name,), change=unchanged, blocks=blocks)
            for name in TYPES
        }

    def decide(tables: Mapping[str, Table], look: Look) -> Verdict:
        scores = by_type(tables)
        grouped = scores.reshape(len(scores), len(GROUPS), -1).mean(2)
        void = len(tables["op"].results) - len(scores)
        return verdicts.trend(claim, range(len(GROUPS)), grouped, void=void, look=look)

    verdict, tables = look_twice(measured, decide)
    medians = zip(TYPES, np.median(by_type(tables), axis=0), strict=True)
    line = f"{verdict.measured}; {', '.join(f'{name} {median:.3f}' for name, median in medians)}"
    shown = drawn(claims.images / f"{claim.id}.png", tables)
    claims.record(replace(verdict, measured=line), tables=list(tables.values()), pictures=shown)


def alive(tables: Mapping[str, Table]) -> list[int]:
    """The places of the blocks that are valid for every attack type."""
    rows = zip(*(table.results for table in tables.values()), strict=True)
    return [place for place, row in enumerate(rows) if all(result.valid for result in row)]


def by_type(tables: Mapping[str, Table]) -> NDArray[np.float64]:
    """(blocks that are alive, attack types) of the deciding metric."""
    rows = alive(tables)
    each = [[table.results[row].levels[name]["lpips_nearest"] for name, table in tables.items()] for row in rows]
    return np.array(each, dtype=float).reshape(len(rows), len(tables))


def drawn(path: Path, tables: Mapping[str, Table]) -> list[Path]:
    """The results of all attack types in the first block that is alive."""
    rows = alive(tables)
    if not rows:
        return []
    arrays = {name: load_pictures(table.results[rows[0]]) for name, table in tables.items()}
    results = {name: found[f"{name}/reconstructions"] for name, found in arrays.items()}
    pictures.grid(path, {"private": arrays["op"]["op/originals"], **results})
    return [path]
