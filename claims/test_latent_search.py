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
    """The same search after what the client shares, or after noise of its size."""
    return protocol if guide == "the gradient" else protocol.with_({"client.defenses": (noise_in_place,)})


def with_generator(protocol: Protocol, domain: str) -> Protocol:
    """The same attack with a generator that was trained on other digits, or on forty people's faces."""
    return protocol if domain == "in the generator's domain" else protocol.with_({"attacker.public": "faces"})


@pytest.mark.claim("gen_z.noise")
def test_noise_in_place_of_the_gradient_finds_as_good_a_look_alike(claims: Claims, scale: Scale) -> None:
    """The judge sees the right class as often after noise of the gradient's norm as after the gradient (Fig. 6c).

    PSNR is measured too: it shows what the gradient does add. The claim holds for small budgets: a thousand evaluations
    after noise lead out of the generator's domain, and cost up to 12 points (baselines/stored/latent_budget.json).
    """
    claims.equivalence("gen_z.noise", scale.PROTOCOLS["gen_z"], levels=("the gradient", "noise"), change=guided_by)


@pytest.mark.claim("gen_z.domain")
def test_a_generator_of_another_domain_does_not_even_find_the_class(claims: Claims, scale: Scale) -> None:
    """Digits attacked with a decoder of digits and with one of faces, whose first ten people stand for the labels."""
    levels = ("in the generator's domain", "outside")
    protocol = cell_of(scale, "gen_z", "original").protocol
    claims.paired("gen_z.domain", protocol, levels=levels, change=with_generator)
