"""Another attack in the place of a protocol's own: which protocols it can take, and why it cannot take the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gia import attacks
from gia.experiment.protocol import Protocol


def substitute(protocol: Protocol, attack: str, settings: Mapping[str, Any]) -> Protocol | str:
    """The protocol with another attack and its settings, or a sentence that says why the attack cannot take it.

    The attack gets nothing that was made or set for the protocol's own: neither its settings nor its equipment. The
    control stays, for the attacks that it was written for; an attack without equipment is controlled as a pixel attack.

    Args:
        protocol: a level.
        attack: what `gia.attacks.find` takes.
        settings: of that attack.

    Raises ValueError or TypeError where the attack cannot be found.
    """
    from gia.experiment.controls import beats_blind_guess, shares_gradients

    card = attacks.card_of(attacks.find(attack))
    needs = frozenset() if card is None else card.needs
    if (reason := _missing(protocol, needs)) is not None:
        return reason
    control = protocol.control if protocol.control in (None, shares_gradients) else beats_blind_guess
    return protocol.with_(
        {
            "attacker.attack": attack,
            "attacker.settings": dict(settings),
            "attacker.equip": None,
            "scoring.control": control,
        }
    )


def _missing(protocol: Protocol, needs: frozenset[str]) -> str | None:
    fish, edit = protocol.victim.fish, protocol.victim.edit
    if fish is not None and "malicious_server" not in needs:
        return "the server fishes for single images, and this attack takes observations of a victim as it is"
    if "labels" in needs and "labels" not in protocol.client.reveal:
        return "the attack needs labels, and the clients of this row reveal none"
    if "malicious_server" in needs and fish is None and edit is None:
        return "the attack needs a malicious server, and the server of this row is honest"
    for need in ("decoder", "auxiliary"):
        if need in needs:
            return f"the attack needs {need!r}, which --gia-attack-settings cannot carry"
    if "linear_input" in needs and protocol.victim.name != "mlp" and edit is None:
        return "the attack needs a linear layer that sees the image, and the victim of this row has none"
    return None
