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
from gia.harness.decide.looks import hopeless
from gia.harness.decide.register import Claim
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.claims import Claims

#: Quality in Table I, from high to low.
GROUPS = {"high": ("ana_arch", "gen_z"), "middle": ("gen_w", "ana_param"), "low": ("op", "gen_inv")}
TYPES = [attack_type for group in GROUPS.values() for attack_type in group]

#: The order in which they are measured: those first whose blocks are cheap, or often void.
FIRST = ("gen_inv", "ana_arch", "gen_z", "ana_param", "gen_w", "op")

#: (a type, one of a lower group), all of them.
_GROUPS = list(GROUPS.values())
PAIRS = [(a, b) for place, high in enumerate(_GROUPS) for low in _GROUPS[place + 1 :] for a in high for b in low]

#: The margin of rows that compare leaks in decibels; two types can be compared where both leak twice as much.
LEAK = 1.0


@pytest.mark.claim("visual_quality/2")
def test_results_look_less_real_from_group_to_group(claims: Claims, scale: Scale) -> None:
    """LPIPS to the nearest of 100 real faces that nobody attacked: types look more real than those of lower groups.

    The blocks of all types have the same private faces. A block counts only if the attack of every type passes its
    control, and two types are compared only where both leak: a dead attack would look as bad as the claim says. Types
    are measured until too many blocks are void for any verdict.
    """
    claim = claims.claim("visual_quality/2")

    def decide(tables: Mapping[str, Table], look: Look) -> Verdict:
        return decided(claim, tables, look, tries=claims.tries(claim.id))

    verdict, tables = claims.look(lambda blocks: measured(claims, scale, blocks), decide)
    scores = of_each(tables, "lpips_nearest")
    medians = zip(TYPES, np.median(scores, axis=0), strict=True) if len(scores) else []
    line = "; ".join(filter(None, [verdict.measured, ", ".join(f"{name} {median:.3f}" for name, median in medians)]))
    shown = drawn(claims.images / f"{claim.file}.png", tables)
    claims.record(replace(verdict, measured=line), tables=list(tables.values()), pictures=shown)


def decided(claim: Claim, tables: Mapping[str, Table], look: Look, *, tries: int) -> Verdict:
    """The verdict on the blocks that are alive, pair by pair."""
    scores, leaks = of_each(tables, "lpips_nearest"), of_each(tables, "leak")
    void = len(tables[FIRST[0]].results) - len(alive(tables))
    higher, lower = ([TYPES.index(pair[side]) for pair in PAIRS] for side in (0, 1))
    room = None
    if len(leaks):
        # In margins: decibels of leak over the margin of rows that compare leaks; this row's margin is one of LPIPS.
        least = np.minimum(*(np.median(leaks[:, side], axis=0) for side in (higher, lower)))
        room = least / LEAK * (claim.margin or 0.0)
    return verdicts.paired(claim, scores[:, higher], scores[:, lower], void=void, look=look, room=room, tries=tries)


def measured(claims: Claims, scale: Scale, blocks: int) -> dict[str, Table]:
    """The table of every attack type, or of the first ones where these leave too many blocks void."""
    tables: dict[str, Table] = {}
    for name in FIRST:
        protocol = scale.VISUAL[name]
        tables[name] = claims.table("visual_quality/2", protocol, levels=(name,), change=unchanged, blocks=blocks)
        if hopeless(len(tables[name].results) - len(alive(tables)), looks=claims.looks):
            return tables
    return {name: tables[name] for name in TYPES}


def alive(tables: Mapping[str, Table]) -> list[int]:
    """The places of the blocks that are valid for every attack type."""
    rows = zip(*(table.results for table in tables.values()), strict=True)
    return [place for place, row in enumerate(rows) if all(result.valid for result in row)]


def of_each(tables: Mapping[str, Table], metric: str) -> NDArray[np.float64]:
    """(blocks that are alive, attack types) of a metric; no block where not every type is measured."""
    rows = alive(tables) if len(tables) == len(TYPES) else []
    each = [[table.results[row].levels[name][metric] for name, table in tables.items()] for row in rows]
    return np.array(each, dtype=float).reshape(len(rows), len(TYPES))


def drawn(path: Path, tables: Mapping[str, Table]) -> list[Path]:
    """The results of all attack types in the first block that is alive."""
    rows = alive(tables) if len(tables) == len(TYPES) else []
    if not rows or not tables["op"].results[rows[0]].pictures:  # under a placebo there are none
        return []
    arrays = {name: load_pictures(table.results[rows[0]]) for name, table in tables.items()}
    results = {name: found[f"{name}/reconstructions"] for name, found in arrays.items()}
    pictures.grid(path, {"private": arrays["op"]["op/originals"], **results})
    return [path]
