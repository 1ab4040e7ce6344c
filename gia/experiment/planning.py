"""What a level costs on this machine: a few steps of its attack on made-up images, scaled to the images of a block.

Nothing is attacked that is private, and no data set is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from types import MappingProxyType
from typing import Any

import torch

from gia import attacks
from gia.attacks.matching import Progress
from gia.attacks.matching.memory import peak_bytes
from gia.data import Images
from gia.errors import expected_one_of
from gia.experiment.exchange import Exchange
from gia.experiment.protocol import Protocol
from gia.experiment.round import Round
from gia.experiment.scoring import Scoring
from gia.numerics import generator_of

#: Classes of the data sets that the user provides, which are not read here, and of the bundled ones.
_CLASSES = {
    **{"cifar10": 10, "cifar100": 100, "celeba": 1000, "imagenet": 1000, "faces": 40, "photos": 4, "digits": 10},
    **{"cifar10-samples": 10, "cifar100-samples": 100, "imagenet-samples": 1000},
}
_GRAY = {"faces", "digits"}

#: Steps whose time is taken, after a first one that warms up.
_TIMED = 2

#: Pixels of one channel that are attacked at most to take the time of a step: four images of 32 px, one of 64.
_PIXELS = 4 * 32 * 32


@dataclass(frozen=True)
class Cost:
    """What a level of one block costs.

    Attributes:
        steps: of its search; 1 for an attack that does not search.
        step: seconds of one step for all images of the block.
        memory: bytes that tensors hold at the peak of a step of all images at once, about.
        without: what is done besides and is not counted, in words.
    """

    steps: int
    step: float
    memory: int
    without: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.steps * self.step


class _Measured(Exception):
    """Ends a search after the steps that were timed."""


def cost(protocol: Protocol) -> Cost:
    """What one level costs on this machine, from a few steps on made-up images.

    A step is timed on few images and scaled by their number, since convolutions take the same time for each image. The
    settings that blocks draw are at the middle of their values. A trained victim is replaced by an untrained one.

    Args:
        protocol: the level.

    Raises:
        ValueError: its attack needs what cannot be made without data, such as a trained generator, or fails on made-up
            images; the message says what.

    >>> from gia.experiment import Attacker, Batch, Protocol, Victim, cost
    >>> protocol = Protocol(
    ...     victim=Victim(name="mlp", options={"width": 8}),
    ...     batch=Batch(data="digits", image_size=8, images=4),
    ...     attacker=Attacker(attack="inverting_gradients", settings={"steps": 300}),
    ... )
    >>> found = cost(protocol)
    >>> found.steps, 0 < found.step < 1, found.memory > 0
    (300, True, True)
    """
    protocol = protocol.drawn({key: values[len(values) // 2] for key, values in protocol.vary.items()})
    without = []
    if protocol.fit is not None:
        without.append(f"training the victim for {protocol.fit.epochs} epochs")
        protocol = protocol.with_({"fit": None})
    if (equip := protocol.attacker.equip) is not None:
        if not _searches(protocol):
            raise ValueError(f"equip: expected an attack that searches, got {_name(equip)}, which trains on images")
        without.append(f"what {_name(equip)} trains")
    if protocol.scoring.judge is not None:
        without.append("training the judge")
    batch, fish = protocol.batch, protocol.victim.fish
    trials = batch.images // batch.size if fish is None else fish.targets
    attacked = batch.images if fish is None else fish.targets  # a fished image is attacked alone
    few = max(1, min(batch.size, _PIXELS // batch.image_size**2))
    try:
        steps = _steps(protocol)
        step, one, two = _measured(protocol, few)
    except (RuntimeError, ValueError, attacks.NothingFound) as error:
        name = _name(protocol.attacker.attack)
        raise ValueError(f"attack: expected {name} to run on made-up images, got {error}") from error
    each = two - one if two > one else one
    return Cost(steps, step * attacked, trials * (one - each) + attacked * each, tuple(without))


def _measured(protocol: Protocol, few: int) -> tuple[float, int, int]:
    """Seconds of a step for each image, and bytes with one and with two images behind a gradient."""
    batch = protocol.batch
    same = {"batch.pattern": "any", "batch.pattern_batch": None, "batch.images": max(batch.size, _targets(protocol))}
    key = protocol.with_({"scoring": Scoring(), "vary": {}, **same}).digest()
    if key not in _known:
        fishes = protocol.victim.fish is not None
        seconds = _seconds(protocol, few) / (1 if fishes else few)
        several = 2 if batch.size > 1 and not fishes else 1
        _known[key] = seconds, _memory(protocol, 1), _memory(protocol, several)
    return _known[key]


#: What was measured, by the digest of what matters: many rows share a level.
_known: dict[str, tuple[float, int, int]] = {}


def _steps(protocol: Protocol) -> int:
    """How many steps the attack takes; some choose it by the size of the batch, so the attack is asked."""
    if not _searches(protocol):
        return 1
    given = protocol.attacker.settings.get("steps")
    if isinstance(given, int):
        return given
    asked: list[int] = []

    def ask(progress: Progress) -> None:
        asked.append(progress.steps)
        raise _Measured

    _run(protocol, protocol.batch.size, ask)
    return asked[0]


def _seconds(protocol: Protocol, count: int) -> float:
    """Of one step on a batch of `count` images, or of the whole attack where it does not search."""
    times: list[float] = []

    def clock(_: Progress) -> None:
        if protocol.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        if len(times) == _TIMED + 2:
            raise _Measured

    began = time.perf_counter()
    _run(protocol, count, clock)
    if not _searches(protocol):
        return time.perf_counter() - began
    return median(after - before for before, after in pairwise(times[1:]))


def _memory(protocol: Protocol, count: int) -> int:
    """Bytes at the peak of one step on a batch of `count` images."""

    def stop(progress: Progress) -> None:
        if progress.step == 1:
            raise _Measured

    return peak_bytes(lambda: _run(protocol, count, stop))


def _run(protocol: Protocol, count: int, callback: Callable[[Progress], None]) -> None:
    """Attack made-up images, until the callback ends it."""
    exchange = _made_up(protocol, count)
    settings: dict[str, Any] = {"callback": callback} if _searches(protocol) else {}
    if "steps" in protocol.attacker.settings:
        settings["steps"] = max(_TIMED + 2, int(protocol.attacker.settings["steps"]))
    with suppress(_Measured):
        exchange.attacked(exchange.answers[:1], "plan", settings)


def _made_up(protocol: Protocol, count: int) -> Exchange:
    """What the client of a batch of noise shares."""
    data, side = protocol.batch.data, protocol.batch.image_size
    if data not in _CLASSES:
        raise ValueError(expected_one_of("data", data, _CLASSES))
    changes: dict[str, Any] = {
        "batch.images": count,
        "batch.size": count,
        "batch.pattern": "any",
        "batch.pattern_batch": None,
    }
    if (fish := protocol.victim.fish) is not None:
        changes |= {"victim.fish": type(fish)(kind="class", targets=1)}
    channels = protocol.batch.channels or (1 if data in _GRAY else 3)
    draw = generator_of("plan", data, side, count)
    made = Images(
        images=torch.rand(max(count, 2), channels, side, side, generator=draw, dtype=torch.float32),
        labels=torch.arange(max(count, 2)) % _CLASSES[data],
        source="noise",
        licence="none",
        num_classes=_CLASSES[data],
    )
    round = Round(protocol.with_(changes), _Drawn())
    round.__dict__.update(data=made, private=torch.arange(count), public=made)
    return Exchange(round, round.private)


class _Drawn:
    """A block whose setting is drawn already."""

    setting: Mapping[str, object] = MappingProxyType({})
    lane = "plan"

    def generator(self, *purpose: str | int) -> torch.Generator:
        return generator_of("plan", *purpose)


def _targets(protocol: Protocol) -> int:
    return 1 if protocol.victim.fish is None else protocol.victim.fish.targets


def _searches(protocol: Protocol) -> bool:
    card = attacks.card_of(protocol.attacker.attack)
    return card is not None and card.iterative


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or (value if isinstance(value, str) else type(value).__name__)
