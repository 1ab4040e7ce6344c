"""Every attack type on the same pictures, so that results are compared by how real they look (docs/pilots.md).

Faces of 32 pixels, the smallest size at which LPIPS is defined: four people, and one image behind a gradient, except
that Fishing fishes in all of them.
"""

from __future__ import annotations

from typing import Any

from claims.reduced import ana_arch, ana_param, gen_inv, gen_w, gen_z, op
from gia.experiment import Protocol
from gia.experiment.controls import inverts_its_own_samples


def _on_faces(protocol: Protocol, changes: dict[str, Any]) -> Protocol:
    common: dict[str, Any] = {
        "batch.data": "faces",
        "batch.image_size": 32,
        "batch.channels": None,
        "batch.images": 4,
        "batch.pattern": "distinct",
        "batch.pattern_batch": 4,
        "scoring.metrics": ("lpips_nearest", "psnr"),
    }
    single = {"batch.size": 1} if protocol.victim.fish is None else {}
    return protocol.with_(common | single | changes)


_TWO_IN_THE_CONTROL = {"scoring.control_images": 2}

#: Latent search takes the trained generator of faces that the paper's kind of attacker would have. Its settings are
#: those with which it recovers the generator's own samples in nearly every block.
_GENERATED = {
    "attacker.equip": None,
    "attacker.settings": {"optimizer": "adam", "steps": 30, "lr": 0.2},
    "scoring.judge": None,
    "scoring.control": inverts_its_own_samples,
    "scoring.control_images": 4,
    "vary": {"victim.width": tuple(range(20, 36)), "victim.activation": ("sigmoid",)},
}

#: On nets with ReLU, which are not smooth, Fishing's search sometimes ends below the blind guess at this size.
_CAUGHT = {
    "attacker.settings": {"steps": 150, "total_variation": 3e-3},
    "vary": {"victim.width": tuple(range(40, 56)), "victim.activation": ("gelu", "sigmoid")},
}

#: Attack type -> its protocol on these faces.
PROTOCOLS = {
    "op": _on_faces(op.ORIGINAL, _TWO_IN_THE_CONTROL),
    "gen_z": _on_faces(gen_z.PROTOCOL, _GENERATED),
    "gen_w": _on_faces(gen_w.ORIGINAL, _TWO_IN_THE_CONTROL),
    "gen_inv": _on_faces(gen_inv.PROTOCOL, _TWO_IN_THE_CONTROL),
    "ana_arch": _on_faces(ana_arch.ORIGINAL, _TWO_IN_THE_CONTROL),
    "ana_param": _on_faces(ana_param.ORIGINAL, _CAUGHT),
}
