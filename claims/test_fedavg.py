"""FedAvg: do several local steps protect the images? (arXiv 2503.11514, Sec. IV-B, Table III and Table I.)"""

from __future__ import annotations

import pytest

from claims.changes import averaging, knowing
from claims.factors import attack_types, decide, table
from claims.scales import Scale
from gia.harness.decide.table import Table
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("fedavg"))
def test_fedavg(claims: Claims, scale: Scale, attack_type: str) -> None:
    """An update in place of a gradient. For OP-GIA: not simulating the local steps has the lowest SSIM in 9 of 9."""
    decide(claims, scale, attack_type, "fedavg", averaging)


@pytest.mark.claim("op.fedavg_strong")
def test_full_knowledge_of_local_steps_does_not_make_up_for_them(claims: Claims, scale: Scale) -> None:
    """PSNR from a fully known update lies below that from one gradient of the same images.

    The paper compares with a gradient of as many images as a local batch holds: these are shown after the pair. The
    fully known updates are those of `op.fedavg`, on the same blocks; gradients have a separate control.
    """
    row = scale.ROWS["op.fedavg_strong"]
    first, *others = row.levels

    def blocks(count: int) -> Table:
        gradients = claims.table("op.fedavg", row.protocol, levels=tuple(row.levels), change=row.change, blocks=count)
        updates = table(claims, scale, "op", "fedavg", knowing, count)
        return gradients.joined(updates).of(first, "strong", *others)

    claims.paired_of("op.fedavg_strong", blocks)
