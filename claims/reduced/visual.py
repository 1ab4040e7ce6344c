"""Every attack type on the same pictures, so that results are compared by how real they look.

Faces of 32 pixels, the smallest size at which LPIPS is defined: four people, and one image behind a gradient, except
that Fishing fishes in all of them. The rest is drawn from each type's own space.
"""

from __future__ import annotations

from claims.reduced.spaces import ANA_ARCH, ANA_PARAM, CONVERGED, GEN_INV, GEN_W, GEN_Z, OP, narrowed
from gia.experiment import Protocol


def _on_faces(space: Protocol) -> Protocol:
    same = {
        "batch.data": "faces",
        "batch.image_size": 32,
        "batch.images": 4,
        "batch.size": 1 if space.victim.fish is None else 4,
        "batch.pattern": "distinct",
        "batch.pattern_batch": 4,
        "scoring.metrics": ("lpips_nearest", "psnr"),
        "attacker.seed": None,  # a shared attacker would reserve images, and blocks would attack other ones
    }
    return narrowed(space, changes=same)


#: Latent search takes the trained generator of faces that the paper's kind of attacker would have.
_GENERATED = {
    "attacker.equip": None,
    "attacker.settings": {"optimizer": "adam", "steps": 60, "lr": 0.2, "converged": CONVERGED},
    "scoring.judge": None,
}


#: Attack type -> its protocol on these faces.
PROTOCOLS = {
    "op": _on_faces(OP),
    "gen_z": narrowed(_on_faces(GEN_Z), changes=_GENERATED),
    "gen_w": _on_faces(GEN_W),
    "gen_inv": _on_faces(GEN_INV),
    "ana_arch": _on_faces(ANA_ARCH),
    "ana_param": _on_faces(ANA_PARAM),
}
