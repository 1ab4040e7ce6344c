"""What a level of a factor changes in a protocol, for every attack type alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gia.federated import LocalTraining
from gia.harness.protocol import Protocol

#: The paper's numbers by figure and table.
REPORTED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "baselines" / "reported.json").read_text(encoding="utf-8")
)

#: CIFAR's channel means and deviations, as the paper's code standardizes.
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}

#: State -> what it changes in a `Fitting`. The paper attacks images that it trained on; "outside" leaves them out.
STATES = {
    "untrained": {"state": "untrained"},
    "trained": {"state": "trained"},
    "half-trained": {"state": "half-trained"},
    "trained, outside": {"state": "trained", "members": False},
}

#: Attacker -> what it takes for the local training. The paper's weak one assumes the same in every cell of Table III.
KNOWLEDGE = {
    "strong": {"reveal": ("labels", "local")},
    "none": {},
    "weak": {"assumed": LocalTraining(epochs=2, batch_size=8, lr=1e-3)},
}

#: The paper's clients of federated averaging (Table III), and what it varies.
PAPER_LOCAL = LocalTraining(epochs=1, batch_size=8, lr=0.01)
PAPER_LOCAL_VARIED = {"local.epochs": (1, 2, 5), "local.batch_size": (1, 8, 16)}


def batches_of(protocol: Protocol, batch_size: int) -> Protocol:
    """The same images of a block, attacked in batches of this size."""
    return replace(protocol, batch_size=batch_size)


def resized(protocol: Protocol, side: int) -> Protocol:
    """The same images at this side."""
    return replace(protocol, image_size=side)


def with_equal_labels(protocol: Protocol, equal: int) -> Protocol:
    """The same protocol on batches in which so many images share a label."""
    return replace(protocol, pattern=equal, pattern_batch=protocol.batch_size)


def in_state(protocol: Protocol, state: str) -> Protocol:
    """The same images and victim, trained so far."""
    assert protocol.fit is not None
    return replace(protocol, fit=replace(protocol.fit, **STATES[state]))


def on_network(protocol: Protocol, name: str) -> Protocol:
    """The same images, attacked in this network."""
    return replace(protocol, victim={**protocol.victim, "name": name})


def knowing(protocol: Protocol, knowledge: str) -> Protocol:
    """The same updates, with an attacker that knows this much of the local training."""
    return replace(protocol, **KNOWLEDGE[knowledge])


def averaging(protocol: Protocol, aggregation: str) -> Protocol:
    """The same images behind one gradient ("FedSGD") or behind the update of the protocol's `local` ("FedAvg")."""
    return replace(protocol, local=None, assumed=None) if aggregation == "FedSGD" else protocol


def pinned(protocol: Protocol) -> Protocol:
    """The form in which a protocol's quality is stored: nothing drawn, float64, cheap enough for every commit."""
    settings = {**protocol.settings, "steps": 100}
    return replace(protocol, vary={}, dtype="float64", images=4, pattern_batch=4, settings=settings, device="cpu")
