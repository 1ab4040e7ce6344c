"""A user's attack or defense in protocols: which of them it can take, and why it cannot take the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gia import attacks, defenses, federated
from gia.experiment.controls import path_works, shares_gradients
from gia.experiment.protocol import Protocol
from gia.models import build

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


def defended(specs: Sequence[str]) -> Callable[[Protocol], Protocol | str]:
    """A function that puts defenses into the clients of a protocol, or says in a sentence why they cannot take it.

    They follow the protocol's own defenses, in order. The attack stays as it is: it does not know of them. Before a
    protocol is accepted, a client with the defenses answers each network that its blocks may draw, on two images of
    noise.

    Args:
        specs: each as `gia.defenses.parse` takes it.

    Raises what `gia.defenses.parse` raises.

    >>> from gia.experiment import Attacker, Batch, Protocol, Victim, defended
    >>> protocol = Protocol(
    ...     victim=Victim(name="lenet"), batch=Batch(data="digits", image_size=8), attacker=Attacker(attack="dlg")
    ... )
    >>> defended(["clip=1.0", "noise=0.1"])(protocol).client.defenses
    (clip(norm=1.0), noise(std=0.1, kind='gaussian'))
    """
    given = tuple(defenses.parse(spec) for spec in specs)

    def defend(protocol: Protocol) -> Protocol | str:
        changed = protocol.with_({"client.defenses": (*protocol.client.defenses, *given)})
        try:
            for name in protocol.vary.get("victim.name", (protocol.victim.name,)):
                _answer(changed.with_({"victim.name": name}))
        except (TypeError, ValueError) as error:
            return f"the defense does not take the clients of this row: {error}"
        return changed

    return defend


def _answer(protocol: Protocol) -> None:
    """Let a client of the protocol answer one of its networks, untrained, on noise."""
    generator, batch, client = torch.Generator().manual_seed(0), protocol.batch, protocol.client
    channels, size = batch.channels or 3, batch.image_size
    model = build(
        protocol.victim.name,
        num_classes=10,
        image_size=size,
        channels=channels,
        generator=generator,
        **protocol.victim.options,
    )
    images = torch.rand(2, channels, size, size, generator=generator, dtype=torch.float32)
    observation = federated.Client(
        images,
        torch.tensor([0, 1]),
        local=client.local,
        defenses=client.defenses,
        defense_generator=generator,
        training=client.training,
    ).answer(model)
    if not isinstance(observation, federated.Observation):
        raise TypeError(f"expected an Observation, got {type(observation).__name__}")


def _obstacle(protocol: Protocol, needs: frozenset[str]) -> str | None:
    """Why an attack with these needs cannot take a protocol, or None."""
    victim = protocol.victim
    if victim.fish is not None:
        return "the server of this row fishes for single images, and your attack takes observations as they come"
    if "labels" in needs and "labels" not in protocol.client.reveal:
        return "the attack needs labels, and the clients of this row reveal none"
    if "malicious_server" in needs and victim.edit is None:
        return "the attack needs a malicious server, and the server of this row is honest"
    if "linear_input" in needs and victim.name != "mlp" and victim.edit is None:
        return "the attack needs a linear layer that sees the image, and the victim of this row has none"
    if "patch_tokens" in needs and not victim.name.startswith("vit"):
        return "the attack needs a Vision Transformer, and the victim of this row is none"
    if "patch_embedding" in needs and (not victim.name.startswith("vit") or victim.edit is not None):
        return "the attack needs the gradients of a Vision Transformer's embeddings, and this row's clients share none"
    if missing := sorted(needs & {"decoder", "auxiliary"}):
        return f"the attack needs {missing[0]!r}, which this row does not make for it"
    return None
