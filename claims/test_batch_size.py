"""Batch size: does a larger batch protect its images? (arXiv 2503.11514, Sec. IV-B, Fig. 3a and Table I.)"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from claims import reduced
from claims.changes import batches_of
from claims.factors import attack_types, decide
from claims.scales import Scale
from gia.attacks import Reconstruction, run_many
from gia.experiment import prepared
from gia.harness.blocks.block import Block
from gia.harness.plugin.claims import Claims


@pytest.mark.parametrize("attack_type", attack_types("batch_size"))
def test_batch_size(claims: Claims, scale: Scale, attack_type: str) -> None:
    """The same images in larger batches, per doubling: OP-GIA's SSIM falls from .765 at B=1 to .513 at B=64."""
    decide(claims, scale, attack_type, "batch_size", batches_of, x=math.log2)


@pytest.mark.timing
@pytest.mark.parametrize("batch_size", reduced.CELLS["batch_size"]["op"].levels)
@pytest.mark.parametrize("attack_type", ["op"])
def test_ten_steps(benchmark: Any, attack_type: str, batch_size: int) -> None:
    """pytest-benchmark's row for ten steps of the attack on all images of a block, set-up outside."""
    protocol = batches_of(reduced.CELLS["batch_size"][attack_type].protocol, batch_size)
    model, observations = prepared(protocol, Block("timing", 0, {}))
    settings = {**protocol.attacker.settings, "steps": 10}

    def attack() -> list[Reconstruction]:
        generators = [torch.Generator().manual_seed(trial) for trial in range(len(observations))]
        return run_many(protocol.attacker.attack, model, observations, generators=generators, **settings)

    results = benchmark.pedantic(attack, rounds=5, iterations=1, warmup_rounds=1)
    benchmark.extra_info["gradient evaluations"] = sum(result.gradient_evaluations for result in results)
    assert all(result.images.shape[0] == batch_size for result in results)
