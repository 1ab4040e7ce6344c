"""What a level of a factor changes in a protocol, for every attack type and scale alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gia.experiment import Fishing, Protocol
from gia.federated import LocalTraining

#: State -> what it changes in the training. The paper attacks images that it trained on; "outside" leaves them out.
STATES: Mapping[str, Mapping[str, Any]] = {
    "untrained": {"fit.state": "untrained"},
    "trained": {"fit.state": "trained"},
    "half-trained": {"fit.state": "half-trained"},
    "trained, outside": {"fit.state": "trained", "fit.members": False},
}

#: Attacker -> what it knows of the local training. The paper's weak one assumes the same in every cell of Table III; it
#: is shown and not judged, so it has no control.
KNOWLEDGE: Mapping[str, Mapping[str, Any]] = {
    "strong": {"client.reveal": ("labels", "local")},
    "none": {},
    "weak": {"attacker.assumed": LocalTraining(epochs=2, batch_size=8, lr=1e-3), "scoring.control": None},
}

#: The level that shows class fishing on four equal labels, where feature fishing is judged.
CLASS_FISHING = "4, class fishing"


def batches_of(protocol: Protocol, batch_size: int) -> Protocol:
    """The same images of a block, attacked in batches of this size."""
    return protocol.with_({"batch.size": batch_size})


def resized(protocol: Protocol, pixels: int) -> Protocol:
    """The same images at this height and width."""
    return protocol.with_({"batch.image_size": pixels})


def with_equal_labels(protocol: Protocol, equal: int) -> Protocol:
    """The same protocol on batches in which `equal` images share a label."""
    return protocol.with_({"batch.pattern": equal, "batch.pattern_batch": protocol.batch.size})


def in_state(protocol: Protocol, state: str) -> Protocol:
    """The same images, and the victim in this state of its training."""
    return protocol.with_(STATES[state])


def on_network(protocol: Protocol, name: str) -> Protocol:
    """The same images, attacked in this network."""
    return protocol.with_({"victim.name": name})


def knowing(protocol: Protocol, knowledge: str) -> Protocol:
    """The same updates, with an attacker that knows this much of the local training."""
    return protocol.with_(KNOWLEDGE[knowledge])


def averaging(protocol: Protocol, aggregation: str) -> Protocol:
    """The same images behind one gradient ("FedSGD") or behind the update of the client's local training ("FedAvg")."""
    return protocol.with_({"client.local": None, "attacker.assumed": None}) if aggregation == "FedSGD" else protocol


def aggregated(protocol: Protocol, how: str) -> Protocol:
    """As `averaging`; with "FedAvg, simulated" the attacker knows the local training and simulates it."""
    return knowing(protocol, "strong") if how == "FedAvg, simulated" else averaging(protocol, how)


def trained_for(protocol: Protocol, epochs: int | str) -> Protocol:
    """The same images behind one gradient ("FedSGD"), or behind the update of this many epochs."""
    return averaging(protocol, "FedSGD") if epochs == "FedSGD" else protocol.with_({"client.local.epochs": epochs})


def fished(protocol: Protocol, level: int | str) -> Protocol:
    """Four images of which `level` share a label; `CLASS_FISHING` shows what class fishing can do with four of them."""
    if level == CLASS_FISHING:
        shown = {"victim.fish": Fishing(kind="class", targets=1), "scoring.control": None}
        return with_equal_labels(protocol.with_(shown), 4)
    return with_equal_labels(protocol, int(level))


def unchanged(protocol: Protocol, level: object) -> Protocol:
    """The protocol as it is, where there is one level."""
    return protocol
