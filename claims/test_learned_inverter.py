"""Learned inverters: do they need auxiliary images like those they attack? (arXiv 2503.11514, Table I.)

The rows of the matrix for Learning to Invert stand in the factor modules.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.protocols.changes import pinned
from claims.protocols.gen_inv import FACES, PROTOCOLS, Inverting

NEAR, FAR, NOISE = "other people's faces", "digits", "noise"


def trained_on(protocol, auxiliary):
    """The same attack by an attacker that has only these images. Far ones too come under labels of the victim's."""
    if auxiliary == NEAR:
        return protocol
    if auxiliary == NOISE:
        return replace(protocol, equip=replace(protocol.equip, noise=True))
    return replace(protocol, public="digits", equip=replace(protocol.equip, most=300))


@pytest.mark.claim("gen_inv.auxiliary")
def test_an_inverter_needs_auxiliary_images_like_those_it_attacks(claims):
    """Faces attacked by inverters of other people's faces and of digits; noise stands beside them.

    The attacked people are never among the auxiliary ones.
    """
    claims.paired("gen_inv.auxiliary", FACES[claims.scale], levels=(NEAR, FAR, NOISE), change=trained_on)


@pytest.mark.baseline
@pytest.mark.parametrize("batch_size", [1, 4])
def test_quality_is_that_on_record(baseline, batch_size):
    """The pairs, the training or the hash changed: on purpose, or by a regression."""
    protocol = replace(pinned(PROTOCOLS["reduced"]), settings={}, pattern_batch=None, batch_size=batch_size)
    equip = Inverting(epochs=8, most=300, hashed=128, hidden=(64,))
    baseline.check_level(f"gen_inv/B={batch_size}", replace(protocol, equip=equip))
