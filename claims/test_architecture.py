"""Architecture: do deeper residual networks protect an image? (arXiv 2503.11514, Sec. IV-B, Fig. 3b and Table I.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.factors import attack_types, decide
from claims.protocols import CELLS
from claims.protocols.changes import on_network, pinned

LARGE = {"reduced": 4, "paper": 64}
DEEP = {"reduced": "resnet34", "paper": "resnet50"}
AGAINST = ("shallow, large batch", "deep, one image", "shallow, one image")


@pytest.mark.parametrize("attack_type", attack_types("architecture"))
def test_architecture(claims, attack_type):
    """The same images behind another network: OP-GIA's SSIM .766/.618/.423/.317 for ResNet-18/34/50/101."""
    decide(claims, attack_type, "architecture", on_network)


@pytest.mark.claim("op.depth_over_batch")
def test_depth_protects_one_image_better_than_a_large_batch_does(claims):
    """PSNR of one image in the deep net lies below that of a large batch in the shallow one; .423 and .513 in SSIM."""
    scale = claims.scale

    def standing(protocol, what):
        if what == AGAINST[0]:
            return replace(protocol, batch_size=LARGE[scale], images=max(LARGE[scale], protocol.images))
        return on_network(protocol, DEEP[scale]) if what == AGAINST[1] else protocol

    protocol = replace(CELLS[scale]["architecture"]["op"].protocol, control_images=LARGE[scale])
    claims.paired("op.depth_over_batch", protocol, levels=AGAINST, change=standing)


@pytest.mark.baseline
@pytest.mark.parametrize("name", ["resnet10"])  # a deeper one costs more than a commit's check may
def test_quality_is_that_on_record(baseline, name):
    """An attack that became worse, or better, than its stored sample changed: on purpose, or by a regression."""
    pin = replace(
        pinned(CELLS["reduced"]["architecture"]["op"].protocol.drawn({"victim.width": 16})),
        images=1,
        pattern_batch=None,
        score=("psnr", "ssim", "rmse"),
    )
    baseline.check_attack(f"op/{name}", on_network(pin, name))
