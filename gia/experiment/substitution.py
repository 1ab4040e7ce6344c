"""Another attack in the place of a protocol's own: which protocols it can take, and why it cannot take the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gia import attacks
from gia.experiment.controls import path_works, shares_gradients
from gia.experiment.protocol import Protocol

#: Keys that are drawn for the protocol's own attack.
_OWN = ("attacker.settings.", "attacker.equip")


def substitution(attack: str, settings: Mapping[str, Any]) -> Callable[[Protocol], Protocol | str]:
    """A function that puts an attack in the place of a protocol's own, or says in a sentence why it cannot.

    The attack gets nothing that was set or made for the protocol's own: neither its settings nor its equipment. It is
    controlled by `gia.experiment.controls.path_works`, except where nothing is attacked.
    Without a card it is tried on every protocol whose observations are attacked one by one.

    Args:
        attack: what `gia.attacks.find` takes.
        settings: of that attack, plain JSON.

    Raises ValueError or TypeError where there is no such attack.

    >>> from gia.experiment import Attacker, Batch, Protocol, Victim, substitution
    >>> dlg = substitution("dlg", {"steps": 5})
    >>> batch = Batch(data="digits", image_size=8)
    >>> dlg(Protocol(victim=Victim(name="lenet"), batch=batch, attacker=Attacker(attack="inverting_gradients")))
    Protocol(victim=lenet(), batch=8 of digits at 8 px in batches of 1, attacker=dlg)
    """
    card = attacks.card_of(attacks.find(attack))
    needs = frozenset() if card is None else card.needs

    def substitute(protocol: Protocol) -> Protocol | str:
        if (reason := _obstacle(protocol, needs)) is not None:
            return reason
        control = protocol.control if protocol.control in (None, shares_gradients) else path_works
        return protocol.with_(
            {
                "attacker.attack": attack,
                "attacker.settings": dict(settings),
                "attacker.equip": None,
                "scoring.control": control,
                "vary": {key: values for key, values in protocol.vary.items() if not key.startswith(_OWN)},
            }
        )

    return substitute


def _obstacle(protocol: Protocol, needs: frozenset[str]) -> str | None:
    """Why an attack with these needs cannot take a protocol, or None."""
    victim = protocol.victim
    if victim.fish is not None:
        return "the server of this row fishes for single images, and --gia-attack takes observations as they come"
    if "labels" in needs and "labels" not in protocol.client.reveal:
        return "the attack needs labels, and the clients of this row reveal none"
    if "malicious_server" in needs and victim.edit is None:
        return "the attack needs a malicious server, and the server of this row is honest"
    if "linear_input" in needs and victim.name != "mlp" and victim.edit is None:
        return "the attack needs a linear layer that sees the image, and the victim of this row has none"
    if "patch_tokens" in needs and not victim.name.startswith("vit"):
        return "the attack needs a Vision Transformer, and the victim of this row is none"
    if missing := sorted(needs & {"decoder", "auxiliary"}):
        return f"the attack needs {missing[0]!r}, which this row does not make for it"
    return None
