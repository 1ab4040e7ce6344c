"""Architecture: do deeper residual networks protect an image? (arXiv 2503.11514, Sec. IV-B, Fig. 3b and Table I.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.factors import attack_types, decide
from claims.protocols import CELLS
from claims.protocols.changes import on_network, pinned
from claims.protocols.op import DEEPENED

LARGE = {"reduced": 4, "paper": 64}
DEEP = {"reduced": {"depth": 9}, "paper": {"name": "resnet50"}}


@pytest.mark.parametrize("attack_type", attack_types("architecture"))
def test_architecture(claims, attack_type):
    """The same images behind another network: OP-GIA's SSIM .766/.618/.423/.317 for ResNet-18/34/50/101."""
    decide(claims, attack_type, "architecture", on_network)


@pytest.mark.claim("op.depth_over_batch")
def test_depth_protects_one_image_better_than_a_large_batch_does(claims):
    """PSNR of one image in the deep net lies below that of a large batch in the shallow one; .423 and .513 in SSIM."""
    size, protocol = LARGE[claims.scale], DEEPENED[claims.scale]
    large, deep, neither = f"shallow, {size} at once", "deep, one at a time", "shallow, one at a time"

    def standing(protocol, level):
        if level == deep:
            return replace(protocol, victim={**protocol.victim, **DEEP[claims.scale]})
        return replace(protocol, batch_size=size) if level == large else protocol

    claims.paired(
        "op.depth_over_batch",
        replace(protocol, control_images=size),
        levels=(large, deep, neither),
        change=standing,
    )


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
    baseline.check_level(f"op/{name}", on_network(pin, name))
