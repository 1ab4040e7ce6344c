"""Every attack type on the same pictures, faces of 32 pixels, to be told apart by how real the results look.

The smallest side at which LPIPS is defined; four people, one image a gradient, but for Fishing, which fishes in them.
"""

from __future__ import annotations

from dataclasses import replace

from claims.protocols import CELLS, PROTOCOLS
from gia.harness.controls import inverts_its_own_samples
from gia.harness.protocol import Protocol

#: Quality in Table I, from high to low.
GROUPS = {"high": ("ana_arch", "gen_z"), "middle": ("gen_w", "ana_param"), "low": ("op", "gen_inv")}

#: Latent search takes the trained generator of faces that the paper's kind of attacker would have.
GENERATED = {
    "equip": None,
    "judge": None,
    "settings": {"optimizer": "adam", "steps": 30},
    "control": inverts_its_own_samples,
    "control_images": 1,
    "vary": {"victim.width": tuple(range(20, 36)), "victim.activation": ("sigmoid", "tanh")},
}


#: At this size fewer than half of Fishing's searches live on narrower nets.
CAUGHT = {"settings": {"steps": 150, "total_variation": 3e-3}, "vary": {"victim.width": tuple(range(48, 64))}}


def of_faces(scale: str, attack_type: str) -> Protocol:
    """The attack type's protocol on the faces that all of them attack."""
    protocol = CELLS[scale]["original"][attack_type].protocol if attack_type != "gen_z" else PROTOCOLS[scale]["gen_z"]
    common = {"images": 4, "pattern": "distinct", "pattern_batch": 4, "score": ("lpips_nearest", "psnr")}
    if scale == "reduced":
        common |= {"data": "faces", "image_size": 32, "channels": None}
        common |= {"gen_z": GENERATED, "ana_param": CAUGHT}.get(attack_type, {"control_images": 2})
    if protocol.fish is None:
        common |= {"batch_size": 1}
    return replace(protocol, **common)
