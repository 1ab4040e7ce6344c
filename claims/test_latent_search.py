"""Latent search: a look-alike of the right class, from the labels and the generator more than from the gradient.

The cells of the matrix for GGL are in the factor modules. Here: the same search without the gradient, and without the
right generator (arXiv 2503.11514, Fig. 6 and Table I). What a larger budget buys is stored by `claims.stored_latents`.
"""

from __future__ import annotations

import pytest

from claims.defenses import noise_in_place
from claims.factors import cell_of
from claims.scales import Scale
from gia.experiment import Protocol
from gia.harness.plugin.claims import Claims


def guided_by(protocol: Protocol, guide: str) -> Protocol:
    """The same search after what the client shares, or after noise of its size, which no control can pass."""
    if guide == "the gradient":
        return protocol
    return protocol.with_({"client.defenses": (noise_in_place,), "scoring.control": None})


def with_generator(protocol: Protocol, domain: str) -> Protocol:
    """The same attack with a generator that was trained on other digits, or on forty people's faces."""
    if domain == "in the generator's domain":
        return protocol
    return protocol.with_({"attacker.public": "faces", "scoring.control": None})


@pytest.mark.claim("gen_z.noise/2")
def test_noise_in_place_of_the_gradient_finds_as_good_a_look_alike(claims: Claims, scale: Scale) -> None:
    """What the search adds to an unsearched sample is the same after noise of the gradient's norm (Fig. 6c).

    How often the judge sees the right class is shown. The label is given to a class-conditional decoder, so that share
    says little about the gradient.
    """
    claims.equivalence("gen_z.noise/2", scale.PROTOCOLS["gen_z"], levels=("the gradient", "noise"), change=guided_by)


@pytest.mark.claim("gen_z.domain")
def test_a_generator_of_another_domain_does_not_even_find_the_class(claims: Claims, scale: Scale) -> None:
    """Digits attacked with a decoder of digits and with one of faces, whose first ten people stand for the labels."""
    levels = ("in the generator's domain", "outside")
    protocol = cell_of(scale, "gen_z", "original").protocol
    protocol = protocol.with_(
        {"batch.data": "digits", "vary": {key: of for key, of in protocol.vary.items() if key != "batch.data"}}
    )
    claims.paired("gen_z.domain", protocol, levels=levels, change=with_generator)
