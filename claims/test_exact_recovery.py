"""Exact recovery by an imprint block: images of 64, by batch size and bins (arXiv 2503.11514, Table IV, Fig. 10)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from claims.protocols import PROTOCOLS
from claims.protocols.changes import batches_of
from gia.federated.server import Gaussian, imprint
from gia.harness.decide import verdicts
from gia.harness.table import LOOKS
from gia.models import build
from gia.theory import expected_exact_recoveries

EXACT_BATCH_SIZES = (1, 8, 32, 64)
BINS = (50, 100, 200, 400, 800)

#: Table IV, 1000 bins, CIFAR-10: images of 64.
TABLE4 = {1: 64, 8: 63, 32: 60, 64: 60}


def with_bins(protocol, bins):
    """The same batches of 64 against a block of so many bins."""
    return replace(protocol, batch_size=64, edit=replace(protocol.edit, bins=bins))


def counted(claims, id, claimed, shown=None):
    """The share of exact images at each batch size against the claimed ones; both claims read the same blocks."""
    claim = claims.claim(id)
    for look, blocks in enumerate(LOOKS, start=1):
        table = claims.table(
            "ana_arch.table4",
            # The control is a client for each of its images here, and the attack is alive on all or on none.
            replace(PROTOCOLS[claims.scale]["ana_arch"], control_images=8),
            levels=EXACT_BATCH_SIZES,
            change=batches_of,
            blocks=blocks,
        )
        verdict = verdicts.count(claim, table.values("exact_share"), claimed=claimed, void=table.void, look=look)
        if not verdicts.needs_second_look(verdict):
            break
    measured = f"{verdict.measured}; claimed {'/'.join(f'{share:.3f}' for share in claimed)}"
    claims.record(replace(verdict, measured=measured + (shown or "")), tables=[table])


@pytest.mark.claim("ana_arch.table4")
def test_a_thousand_bins_give_away_what_table4_says(claims):
    """64, 63, 60 and 60 of 64 images at B = 1, 8, 32 and 64."""
    counted(claims, "ana_arch.table4", [TABLE4[batch_size] / 64 for batch_size in EXACT_BATCH_SIZES])


@pytest.mark.claim("prop2.count")
def test_proposition2_predicts_the_count(claims):
    """Its formula, without and with equally likely bins that fill independently, beside a simulation of the latter."""
    g = np.random.default_rng(0)

    def simulated(batch_size):
        bins = np.sort(g.integers(1000, size=(2000, batch_size)), axis=1)
        apart = np.pad(np.diff(bins, axis=1) != 0, ((0, 0), (1, 1)), constant_values=True)
        return float((apart[:, 1:] & apart[:, :-1]).mean())

    shares = {
        model: [expected_exact_recoveries(size, 1000, model=model) / size for size in EXACT_BATCH_SIZES]
        for model in ("paper", "independent")
    }
    shares["simulated"] = [simulated(size) for size in EXACT_BATCH_SIZES]
    lines = {name: "/".join(f"{share:.3f}" for share in shares[name]) for name in ("independent", "simulated")}
    counted(claims, "prop2.count", shares["paper"], "".join(f"; {name} {line}" for name, line in lines.items()))


@pytest.mark.claim("ana_arch.bins")
def test_more_bins_give_away_more(claims):
    """Fig. 10: from 50 bins on, each doubling recovers at least one image more of 64."""
    protocol = PROTOCOLS[claims.scale]["ana_arch"]
    claims.trend("ana_arch.bins", protocol, levels=BINS, change=with_bins, x=math.log2)


@pytest.mark.claim("ana_arch.parameters")
def test_the_block_adds_2kd_k_and_d_parameters(claims):
    """For any size; d = 3072 gives Fig. 10's axis."""

    def error(channels, side, bins):
        model = build("mlp", num_classes=2, image_size=side, channels=channels, width=1, generator=torch.Generator())
        shape = (channels, side, side)
        sent = imprint(
            model, image_shape=shape, bins=bins, quantiles=Gaussian(0.5, 0.2), draws=1, generator=torch.Generator()
        )
        d = channels * side * side
        added = sum(p.numel() for p in sent.parameters()) - sum(p.numel() for p in model.parameters())
        return abs(added / (2 * bins * d + bins + d) - 1)

    strategies = {"channels": st.sampled_from([1, 3]), "side": st.integers(1, 32), "bins": st.integers(1, 300)}
    figure10 = [{"channels": 3, "side": 32, "bins": bins} for bins in (50, 1000)]
    claims.exact("ana_arch.parameters", error, strategies, examples=figure10)


@pytest.mark.baseline
@pytest.mark.parametrize("batch_size", [1, 16])
def test_quality_is_that_on_record(baseline, batch_size):
    """The block, its cut-offs or its inversion changed: on purpose, or by a regression."""
    protocol = replace(PROTOCOLS["reduced"]["ana_arch"], vary={}, dtype="float64", images=16, score=("psnr", "rmse"))
    few = replace(protocol, edit=replace(protocol.edit, bins=100))
    baseline.check_level(f"ana_arch/B={batch_size}", batches_of(few, batch_size))
