"""Exact recovery by an imprint block: images of 64, by batch size and bins (arXiv 2503.11514, Table IV, Fig. 10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from claims.changes import batches_of
from claims.scales import Scale
from gia.experiment import Protocol
from gia.federated.server import Gaussian, imprint
from gia.harness.decide import verdicts
from gia.harness.decide.table import Table
from gia.harness.plugin.claims import Claims
from gia.models import build
from gia.theory import expected_exact_recoveries

EXACT_BATCH_SIZES = (1, 8, 32, 64)
BINS = (50, 100, 200, 400, 800)

#: Table IV, 1000 bins, CIFAR-10: images of 64.
TABLE4 = {1: 64, 8: 63, 32: 60, 64: 60}


def with_bins(protocol: Protocol, bins: int) -> Protocol:
    """The same batches of 64 against a block with this many bins."""
    return protocol.with_({"batch.size": 64, "victim.edit.bins": bins})


def counted(claims: Claims, scale: Scale, id: str, claimed: Sequence[float], shown: str = "") -> None:
    """The share of exact images at each batch size against the claimed ones; both claims read the same blocks."""
    claim = claims.claim(id)
    protocol = scale.PROTOCOLS["ana_arch"]

    def measured(blocks: int) -> Table:
        return claims.table("ana_arch.table4", protocol, levels=EXACT_BATCH_SIZES, change=batches_of, blocks=blocks)

    verdict, table = claims.look(
        measured,
        lambda table, look: verdicts.count(
            claim,
            table.values("exact_share"),
            claimed=claimed,
            void=table.void,
            look=look,
            tries=claims.tries(claim.id),
        ),
    )
    line = f"{verdict.measured}; claimed {'/'.join(f'{share:.3f}' for share in claimed)}{shown}"
    claims.record(replace(verdict, measured=line), tables=[table])


@pytest.mark.claim("ana_arch.table4")
def test_a_thousand_bins_give_away_what_table4_says(claims: Claims, scale: Scale) -> None:
    """64, 63, 60 and 60 of 64 images at B = 1, 8, 32 and 64."""
    counted(claims, scale, "ana_arch.table4", [TABLE4[batch_size] / 64 for batch_size in EXACT_BATCH_SIZES])


@pytest.mark.claim("prop2.count")
def test_proposition2_predicts_the_count(claims: Claims, scale: Scale) -> None:
    """Its formula; for equally likely bins that fill independently, another formula and a simulation are shown."""
    g = np.random.default_rng(0)

    def simulated(batch_size: int) -> float:
        bins = np.sort(g.integers(1000, size=(2000, batch_size)), axis=1)
        apart = np.pad(np.diff(bins, axis=1) != 0, ((0, 0), (1, 1)), constant_values=True)
        return float((apart[:, 1:] & apart[:, :-1]).mean())

    def predicted(model: Literal["paper", "independent"]) -> list[float]:
        return [expected_exact_recoveries(size, 1000, model=model) / size for size in EXACT_BATCH_SIZES]

    paper = predicted("paper")
    shares = {"independent": predicted("independent"), "simulated": [simulated(size) for size in EXACT_BATCH_SIZES]}
    lines = {name: "/".join(f"{share:.3f}" for share in shares[name]) for name in shares}
    counted(claims, scale, "prop2.count", paper, "".join(f"; {name} {line}" for name, line in lines.items()))


@pytest.mark.claim("ana_arch.bins")
def test_more_bins_give_away_more(claims: Claims, scale: Scale) -> None:
    """Fig. 10: from 50 bins on, each doubling recovers at least one image more of 64."""
    claims.trend("ana_arch.bins", scale.PROTOCOLS["ana_arch"], levels=BINS, change=with_bins, x=math.log2)


@pytest.mark.claim("ana_arch.parameters")
def test_the_block_adds_2kd_k_and_d_parameters(claims: Claims) -> None:
    """For any size; d = 3072 gives Fig. 10's axis."""

    def error(channels: int, side: int, bins: int) -> float:
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
