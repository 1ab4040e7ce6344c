"""Every attack type on single images of four classes, so that results are compared by how real they look."""

from __future__ import annotations

from claims.paper import ana_arch, ana_param, gen_inv, gen_w, gen_z, op
from gia.experiment import Protocol


def _alike(protocol: Protocol) -> Protocol:
    fishes = protocol.victim.fish is not None
    return protocol.with_(
        {
            "batch.images": 4,
            "batch.size": 4 if fishes else 1,
            "batch.pattern": "distinct",
            "batch.pattern_batch": 4,
            "scoring.metrics": ("lpips_nearest", "psnr"),
        }
    )


#: Attack type -> its protocol. Fishing fishes in all four images.
PROTOCOLS = {
    "op": _alike(op.ORIGINAL),
    "gen_z": _alike(gen_z.PROTOCOL),
    "gen_w": _alike(gen_w.ORIGINAL),
    "gen_inv": _alike(gen_inv.PROTOCOL),
    "ana_arch": _alike(ana_arch.ORIGINAL),
    "ana_param": _alike(ana_param.ORIGINAL),
}
