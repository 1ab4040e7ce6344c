"""Architecture: do deeper residual networks protect an image? (arXiv 2503.11514, Sec. IV-B, Fig. 3b and Table I.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from claims.factors import attack_types, decide, table
from claims.protocols import CELLS
from claims.protocols.changes import on_network, pinned

LARGE = {"reduced": 4, "paper": 64}
PAIR = {"reduced": ("resnet10", "resnet34"), "paper": ("resnet18", "resnet50")}


@pytest.mark.parametrize("attack_type", attack_types("architecture"))
def test_architecture(claims, attack_type):
    """The same images behind another network: OP-GIA's SSIM .766/.618/.423/.317 for ResNet-18/34/50/101."""
    decide(claims, attack_type, "architecture", on_network)


@pytest.mark.claim("op.depth_over_batch")
def test_depth_protects_one_image_better_than_a_large_batch_does(claims):
    """PSNR of one image in the deep net lies below that of a large batch in the shallow one; .423 and .513 in SSIM.

    The nets at one image are those of `op.architecture`, on the same blocks; the large batch has a control of its own.
    """
    protocol, size = CELLS[claims.scale]["architecture"]["op"].protocol, LARGE[claims.scale]
    shallow, deep = PAIR[claims.scale]

    def in_a_large_batch(protocol, _):
        return replace(protocol, batch_size=size, images=max(size, protocol.images), control_images=size)

    def blocks(count):
        large = claims.table(
            "op.architecture", protocol, levels=(f"{shallow}, B={size}",), change=in_a_large_batch, blocks=count
        )
        together = large.beside(table(claims, "op", "architecture", on_network, count))
        return together.of(f"{shallow}, B={size}", deep, shallow)

    claims.paired("op.depth_over_batch", blocks)


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
