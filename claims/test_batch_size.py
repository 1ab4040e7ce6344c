"""Batch size: does a larger batch protect its images? (arXiv 2503.11514, Sec. IV-B, Fig. 3a and Table I.)"""

from __future__ import annotations

import math

import pytest
import torch

from claims.factors import attack_types, decide
from claims.protocols import CELLS, PROTOCOLS
from claims.protocols.changes import batches_of, pinned
from gia.attacks import run_many
from gia.harness.blocks import Block
from gia.harness.run import prepared


@pytest.mark.parametrize("attack_type", attack_types("batch_size"))
def test_batch_size(claims, attack_type):
    """The same images in larger batches, per doubling: OP-GIA's SSIM falls from .765 at B=1 to .513 at B=64."""
    decide(claims, attack_type, "batch_size", batches_of, math.log2)


@pytest.mark.baseline
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("attack_type", ["op", "gen_w"])
def test_quality_is_that_on_record(baseline, attack_type, batch_size):
    """An attack that became worse, or better, than its stored sample changed: on purpose, or by a regression."""
    protocol = batches_of(pinned(PROTOCOLS["reduced"][attack_type]), batch_size)
    baseline.check_level(f"{attack_type}/B={batch_size}", protocol)


@pytest.mark.timing
@pytest.mark.parametrize("batch_size", CELLS["reduced"]["batch_size"]["op"].levels)
@pytest.mark.parametrize("attack_type", ["op"])
def test_ten_steps(benchmark, attack_type, batch_size):
    """pytest-benchmark's row for ten steps of the attack on all eight images of a block, set-up outside."""
    protocol = batches_of(PROTOCOLS["reduced"][attack_type], batch_size)
    model, observations = prepared(protocol, Block("timing", 0, {}))
    settings = {**protocol.settings, "steps": 10}

    def attack():
        generators = [torch.Generator().manual_seed(trial) for trial in range(len(observations))]
        return run_many(protocol.attack, model, observations, generators=generators, **settings)

    found = benchmark.pedantic(attack, rounds=5, iterations=1, warmup_rounds=1)
    benchmark.extra_info["gradient evaluations"] = sum(result.gradient_evaluations for result in found)
    assert all(result.images.shape[0] == batch_size for result in found)
