"""Latent search: a look-alike of the right class, from the labels and the generator more than from the gradient.

The rows of the matrix for GGL stand in the factor modules. Here: what is left without the gradient, and without the
right generator (arXiv 2503.11514, Fig. 6 and Table I). What a larger budget buys is kept by `claims.stored_latents`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.protocols import CELLS, PROTOCOLS
from claims.protocols.changes import pinned
from claims.protocols.gen_z import noise_in_place


def guided_by(protocol, what):
    """The same search after what the client shares, or after noise of its size."""
    return protocol if what == "the gradient" else replace(protocol, defenses=(noise_in_place,))


def with_generator(protocol, domain):
    """The same attack with a generator that was trained on other digits, or on forty people's faces."""
    return protocol if domain == "in the generator's domain" else replace(protocol, public="faces")


@pytest.mark.claim("gen_z.noise")
def test_noise_in_place_of_the_gradient_finds_as_good_a_look_alike(claims):
    """The judge sees the right class as often after noise of the gradient's norm as after the gradient (Fig. 6c).

    PSNR stands beside it: it tells what the gradient does add. It holds for small budgets: a thousand evaluations after
    noise lead out of the generator's domain, and cost up to 12 points (baselines/stored/latent_budget.json).
    """
    claims.equivalence(
        "gen_z.noise", PROTOCOLS[claims.scale]["gen_z"], levels=("the gradient", "noise"), change=guided_by
    )


@pytest.mark.claim("gen_z.domain")
def test_a_generator_of_another_domain_does_not_even_find_the_class(claims):
    """Digits attacked with a decoder of digits and with one of faces, whose first ten people stand for the labels."""
    levels = ("in the generator's domain", "outside")
    protocol = CELLS[claims.scale]["original"]["gen_z"].protocol
    claims.paired("gen_z.domain", protocol, levels=levels, change=with_generator)


@pytest.mark.baseline
@pytest.mark.parametrize("optimizer", ["cma", "adam"])
def test_quality_is_that_on_record(baseline, optimizer):
    """The search, or the training of its decoder, changed: on purpose, or by a regression."""
    settings = {"optimizer": optimizer, "steps": 50, "population": 10}
    # The decoder learns from what the control's images leave, so their number is pinned with the rest.
    fixed = {"settings": settings, "score": ("psnr", "rmse"), "judge": None, "control_images": 8}
    protocol = replace(pinned(PROTOCOLS["reduced"]["gen_z"]), **fixed)
    baseline.check_level(f"gen_z/{optimizer}", protocol)
