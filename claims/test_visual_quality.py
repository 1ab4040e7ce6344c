"""Visual quality: whose results look like real photographs? (arXiv 2503.11514, Table I.)"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from claims.protocols.visual import GROUPS, of_faces
from gia.harness import pictures
from gia.harness.decide import verdicts
from gia.harness.store import load_pictures
from gia.harness.table import LOOKS


@pytest.mark.claim("visual_quality")
def test_results_look_less_real_from_group_to_group(claims):
    """LPIPS to the nearest of 100 real faces that nobody attacked, over Table I's groups from high to low.

    The blocks of all types have the same private faces; a block counts where the attack of every type passed a control
    of its own, since a dead attack would look as bad as the claim says.
    """
    claim = claims.claim("visual_quality")
    types = [attack_type for group in GROUPS.values() for attack_type in group]
    for look, blocks in enumerate(LOOKS, start=1):
        tables = [
            claims.table(
                claim.id,
                of_faces(claims.scale, attack_type),
                levels=(attack_type,),
                change=lambda protocol, level: protocol,
                blocks=blocks,
            )
            for attack_type in types
        ]
        alive = [all(result.valid for result in row) for row in zip(*(table.results for table in tables), strict=True)]
        rows = [i for i, fine in enumerate(alive) if fine]
        each = np.array(
            [
                [table.results[i].levels[name]["lpips_nearest"] for table, name in zip(tables, types, strict=True)]
                for i in rows
            ]
        ).reshape(len(rows), len(types))
        grouped = each.reshape(len(rows), len(GROUPS), -1).mean(2)
        verdict = verdicts.trend(claim, range(len(GROUPS)), grouped, void=len(alive) - len(rows), look=look)
        if not verdicts.needs_second_look(verdict):
            break
    medians = ", ".join(f"{name} {value:.3f}" for name, value in zip(types, np.median(each, axis=0), strict=True))
    shown = []
    if rows:
        arrays = {name: load_pictures(table.results[rows[0]]) for name, table in zip(types, tables, strict=True)}
        grid = {"private": arrays["op"]["op/originals"]}
        grid |= {name: found[f"{name}/reconstructions"] for name, found in arrays.items()}
        shown = [claims.images / f"{claim.id}.png"]
        pictures.grid(shown[0], grid)
    claims.record(replace(verdict, measured=f"{verdict.measured}; {medians}"), tables=tables, pictures=shown)
