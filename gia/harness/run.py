"""From a private batch to a score: the only path that carries a measurement out."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gia.federated import Observation
from gia.harness.blocks import Block
from gia.harness.casting import images_of, private
from gia.harness.protocol import Protocol
from gia.harness.scene import Measurement, Scene

Measure = Callable[[Protocol, Block], Measurement]


def measure(protocol: Protocol, block: Block) -> Measurement:
    """Attack the private images of a block in batches, score each image, and average: the only path that does.

    Victim, images and starts come from the block's own generators, so that all levels share what they can: the victim
    where its description is the same, the images where pattern and `pattern_batch` are. The attack gets the model as
    sent and the observations. Images are matched within their own batch; an unmatched one scores as the blind guess.
    """
    protocol = protocol.drawn(block.setting)
    data = images_of(protocol)
    return Scene(protocol, block, data, private(protocol, block, data)).attacked("start")


def prepared(protocol: Protocol, block: Block) -> tuple[nn.Module, list[Observation]]:
    """What the attacks of a block are given, for timings: the victim as sent and one observation per batch."""
    protocol = protocol.drawn(block.setting)
    data = images_of(protocol)
    scene = Scene(protocol, block, data, private(protocol, block, data))
    return scene.model, scene.observations
