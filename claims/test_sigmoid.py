"""Why does a search over generator weights need Sigmoid? (arXiv 2503.11514, Sec. IV-C, Fig. 7a and 8, Table I.)"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from claims.scales import Scale
from gia.experiment import Exchange, Measurement, Protocol, Round
from gia.federated import set_mode
from gia.harness.blocks.block import Block
from gia.harness.decide import verdicts
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.claims import Claims
from gia.models.activations import ACTIVATIONS

#: The paper's R2 of a linear fit on [-2, 2].
LINEAR_FITS = {"sigmoid": 0.995, "tanh": 0.967, "relu": 0.800}
OTHERS = ("relu", "tanh", "leaky_relu", "rrelu", "gelu")
INSIDE = 2.0

#: Levels of `sigmoid.mechanism/2` in which a linear fit on [-2, 2] has R2 .900, .967, .995 and .9996.
LINEARITY = ("sigmoid(4x)", "sigmoid(2x)", "sigmoid", "sigmoid(x/2)")


def r_squared(activation: nn.Module, points: int) -> float:
    """R2 of the best straight line through the activation at this many even places of [-2, 2]."""
    x = torch.linspace(-INSIDE, INSIDE, points, dtype=torch.float64)
    return float(torch.corrcoef(torch.stack([x, activation(x)]))[0, 1].square())


def error_of_linearity(activation: str, points: int) -> float:
    """Distance from the paper's R2; where the paper has none, by how much it exceeds Sigmoid's."""
    found = r_squared(ACTIVATIONS[activation](), points)
    if activation in LINEAR_FITS:
        return abs(found - LINEAR_FITS[activation])
    return max(0.0, found - r_squared(nn.Sigmoid(), points))


@torch.no_grad()
def share_inside(protocol: Protocol, block: Block, *, cache: Path | None) -> Measurement:
    """Of the inputs to all activations in the pass whose gradient a client shares, the share within [-2, 2]."""
    round = Round(protocol, block, cache=cache)
    exchange = Exchange(round, round.private)
    norm = exchange.gradient_norm
    model = set_mode(round.victim, round.protocol.client.training)
    kind = type(ACTIVATIONS[round.protocol.at("victim.activation")]())
    inside, seen = 0, 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal inside, seen
        inside += int((inputs[0].abs() <= INSIDE).sum())
        seen += inputs[0].numel()

    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(count)
    for answer in exchange.answers:
        model(answer.reference)
    return Measurement(values={"share_inside": inside / seen}, details={"gradient_norm": norm})


@pytest.mark.claim("gen_w.sigmoid/2")
def test_sigmoid_is_what_the_search_relies_on(claims: Claims, scale: Scale) -> None:
    """Sigmoid against the best of the others in each block, with batch normalization in train mode and in eval mode."""
    claim, row = claims.claim("gen_w.sigmoid/2"), scale.ROWS["gen_w.sigmoid/2"]

    def measured(blocks: int) -> Table:
        return claims.table(claim.id, row.protocol, levels=tuple(row.levels), change=row.change, blocks=blocks)

    def decide(table: Table, look: Look) -> Verdict:
        by_mode = table.values(claim.metric).reshape(len(table.valid), 2, len(table.levels) // 2)
        sigmoid, best = by_mode[:, :, 0], by_mode[:, :, 1:].max(2)
        room = np.median(np.maximum(sigmoid, best), axis=0) if len(table.valid) else None
        tries = claims.tries(claim.id)
        return verdicts.paired(claim, sigmoid, best, void=table.void, look=look, room=room, tries=tries)

    verdict, table = claims.look(measured, decide)
    claims.record(verdict, tables=[table], pictures=claims.draw(claim.id, table))


@pytest.mark.claim("sigmoid.mechanism/2")
def test_more_linear_sigmoids_leak_more(claims: Claims, scale: Scale) -> None:
    """Leak over Sigmoids of equal range and rising linearity; what else distinguishes Sigmoid is shown after them.

    Without any curvature a single image in train mode leaves the same gradient as every other, except for what
    shortcuts that skip pixels let through, as those of the reduced scale's ResNet-8 do.
    """
    claim, row = claims.claim("sigmoid.mechanism/2"), scale.ROWS["sigmoid.mechanism/2"]

    def measured(blocks: int) -> Table:
        return claims.table(claim.id, row.protocol, levels=tuple(row.levels), change=row.change, blocks=blocks)

    def decide(table: Table, look: Look) -> Verdict:
        ordered = table.of(*LINEARITY)
        room = ordered.room(claim.metric)
        values, tries = ordered.values(claim.metric), claims.tries(claim.id)
        return verdicts.trend(claim, range(len(LINEARITY)), values, void=table.void, look=look, room=room, tries=tries)

    verdict, table = claims.look(measured, decide)
    claims.record(verdict, tables=[table], pictures=claims.draw(claim.id, table))


@pytest.mark.claim("sigmoid.inputs")
def test_inputs_to_activations_lie_where_sigmoid_is_linear(claims: Claims, scale: Scale) -> None:
    """The share of them in [-2, 2], in the paper's net or a narrow one of its kind: with Sigmoid, and with the paper's
    two others, for which the argument needs it as well."""
    row = scale.ROWS["sigmoid.inputs"]
    claims.count("sigmoid.inputs", row.protocol, levels=tuple(row.levels), change=row.change, measure=share_inside)


@pytest.mark.claim("sigmoid.linear")
def test_sigmoid_is_the_most_linear(claims: Claims) -> None:
    """R2 of a linear fit on [-2, 2] by any fine grid, against the paper's three; no other activation exceeds it."""
    drawn = {"activation": st.sampled_from(["sigmoid", *OTHERS]), "points": st.integers(1_000, 20_000)}
    claims.exact("sigmoid.linear", error_of_linearity, drawn)
