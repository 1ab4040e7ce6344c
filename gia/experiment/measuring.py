"""From a protocol and a block to a measurement: the only path."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from gia.experiment.exchange import Exchange
from gia.experiment.measurement import Measurement
from gia.experiment.protocol import Protocol
from gia.experiment.round import Block, Round
from gia.federated import Observation


def measure(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Measurement:
    """Attack the private images of a block in batches, score each image, and average.

    Victim, images and starts come from the block's own generators, so that all levels share what they can: the victim
    where its description is the same, the images where pattern and `pattern_batch` are. The attack gets the model as
    sent and the observations. Images are matched within their own batch; an unmatched one scores as its best placebo.

    Args:
        protocol: the level; the block's setting is put in.
        block: the setting, and a generator for each purpose.
        cache: a folder where trained nets are kept.

    >>> from gia.experiment import Attacker, Batch, Protocol, Scoring, Victim, measure
    >>> from gia.harness.blocks.block import Block
    >>> protocol = Protocol(
    ...     victim=Victim(name="mlp", options={"width": 8}),
    ...     batch=Batch(data="digits", image_size=8, images=1),
    ...     attacker=Attacker(attack="linear_layer"),
    ...     scoring=Scoring(metrics=("psnr",)),
    ... )
    >>> measure(protocol, Block("example", 0, {})).values["psnr"] > 60
    True
    """
    exchange = _exchange(protocol, block, cache)
    return exchange.attack("start")


def _exchange(protocol: Protocol, block: Block, cache: Path | None) -> Exchange:
    """The exchange of a block's private images; under a placebo the one before it, if only the placebo differs."""
    placebo = protocol.attacker.placebo
    if placebo is None:
        round = Round(protocol, block, cache=cache)
        return Exchange(round, round.private)
    attacked = protocol.with_({"attacker.placebo": None})
    if not _last or _last[0][:3] != (attacked, block, cache):
        round = Round(attacked, block, cache=cache)
        _last[:] = [(attacked, block, cache, Exchange(round, round.private))]
    exchange = _last[0][3]
    exchange.placebo = placebo
    return exchange


#: The exchange that was last measured under a placebo, behind what it was made from; empty before the first.
_last: list[tuple[Protocol, Block, Path | None, Exchange]] = []


def prepared(protocol: Protocol, block: Block, *, cache: Path | None = None) -> tuple[nn.Module, list[Observation]]:
    """What the attacks of a block are given, for timings: the victim as sent and one observation per batch."""
    round = Round(protocol, block, cache=cache)
    exchange = Exchange(round, round.private)
    return round.victim, exchange.observations
