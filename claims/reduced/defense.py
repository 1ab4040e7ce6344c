"""The defense in three stages: what each stage and the whole pipeline change for the attack types that they address.

Blocks are drawn from the spaces of the types, on images of 8 pixels, since five rows of several types each are what two
cores can just afford. The second level's attacker knows the defense and adapts to it: it simulates the local training,
and sends the strongest manipulation that passes the checks. The naive attacker of a stage is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.cell import Level, Row
from claims.checked import path_works
from claims.federations import learns
from claims.reduced import gen_inv, gen_w, op
from claims.reduced.spaces import GEN_W, OP, narrowed
from gia.experiment import Attacker, Batch, Protocol, Scoring, Victim
from gia.federated import LocalTraining

WITHOUT, WITH, NAIVE = "without the stage", "with it", "with it, naive attacker"
UNDEFENDED, ALL = "undefended", "all three stages"
SIZE = 8

#: No Sigmoid, and more layers: the words of the paper, on plain nets.
_SHALLOW: Mapping[str, Any] = {"victim.depth": 3, "victim.activation": "sigmoid"}
_DEEP: Mapping[str, Any] = {"victim.depth": 6, "victim.activation": "relu"}


def _plain(protocol: Protocol, **changes: Any) -> Protocol:
    """The protocol on small images and plain nets of any depth."""
    nets = {"victim.name": "convnet", "victim.depth": 3, "batch.image_size": SIZE}
    return narrowed(protocol, "victim.activation", changes={**nets, **changes})


def _designed(protocol: Protocol) -> Row:
    return Row(protocol=_plain(protocol), levels={WITHOUT: _SHALLOW, WITH: _DEEP})


#: One image's gradient in place of the update of four images.
_ALONE: Mapping[str, Any] = {"client.local": None, "batch.size": 1}


def _trained(protocol: Protocol, known: tuple[str, ...], unknown: tuple[str, ...]) -> Row:
    """The client's local training of four images; `known` is what leaks to the attacker that simulates it."""
    levels: dict[Level, Mapping[str, Any]] = {
        WITHOUT: {**_ALONE, "client.reveal": unknown},
        WITH: {"client.reveal": known},
        NAIVE: {"client.reveal": unknown, "scoring.control": None},
    }
    small = narrowed(protocol, changes={"batch.image_size": SIZE, "batch.pattern_batch": 4})
    return Row(protocol=small, levels=levels)


#: A malicious server, which manipulates a perceptron's first layer, or puts a layer in front of it.
_SERVER = Protocol(
    victim=Victim(name="mlp", options={"width": 256}),
    batch=Batch(data="faces", image_size=16, images=16, size=16),
    attacker=Attacker(attack="linear_layer", settings={"kinds": ("block",), "checked": None}),
    scoring=Scoring(metrics=("leak", "exact_leak"), control=path_works),
    vary={
        "batch.size": (8, 16),
        "victim.activation": ("relu", "leaky_relu", "gelu", "silu"),
        "victim.init": ("torch", "kaiming"),
    },
)

_MALICIOUS = {
    "ana_arch": _SERVER,
    "ana_param": _SERVER.with_({"attacker.settings.kinds": ("rows", "thresholds", "traps", "fishing")}),
}


def _checked(protocol: Protocol) -> Row:
    return Row(
        protocol=protocol,
        levels={
            WITHOUT: {},
            WITH: {"attacker.settings.checked": "adaptive"},
            NAIVE: {"attacker.settings.checked": "naive", "scoring.control": None},
        },
    )


def _whole(protocol: Protocol, known: tuple[str, ...], unknown: tuple[str, ...]) -> Row:
    levels: dict[Level, Mapping[str, Any]] = {
        UNDEFENDED: {**_ALONE, **_SHALLOW, "client.reveal": unknown},
        ALL: {**_DEEP, "client.reveal": known},
    }
    return Row(protocol=_plain(protocol, **{"batch.pattern_batch": 4}), levels=levels)


def _whole_of_server(protocol: Protocol) -> Row:
    trained = protocol.with_(
        {
            "client.local": LocalTraining(epochs=1, batch_size=2, lr=0.02),
            "vary": {
                **protocol.vary,
                "client.local.epochs": (1, 2, 4),
                "client.local.batch_size": (1, 2),
                "client.local.lr": (0.005, 0.02, 0.05),
            },
        }
    )
    levels: dict[Level, Mapping[str, Any]] = {
        UNDEFENDED: {"client.local": None},
        ALL: {"attacker.settings.checked": "adaptive"},
    }
    return Row(protocol=trained, levels=levels)


#: The same federated training without any stage and with all of them; nobody is attacked in it.
COST = Row(
    protocol=Protocol(
        victim=Victim(name="convnet", options={"width": 12}),
        batch=Batch(data="digits", image_size=8),
        attacker=Attacker(attack="inverting_gradients", settings={"defended": False, "lr": 0.02, "concentration": 0.5}),
        scoring=Scoring(metrics=("psnr",), control=learns),
        vary={
            "batch.data": ("digits", "faces"),
            "victim.width": (8, 12, 16),
            "attacker.settings.lr": (0.01, 0.015, 0.02),
            "attacker.settings.concentration": (0.3, 0.5, 1.0),
        },
    ),
    levels={UNDEFENDED: {}, ALL: {"attacker.settings.defended": True}},
)

_KNOWN = ("labels", "local"), ("labels",)

#: Latent search is not among them: it finds look-alikes, so it has no pixels to lose (`gen_z.original`).
#: Row of the register -> attack type that it addresses -> what is compared.
STAGES: dict[str, dict[str, Row]] = {
    "defense.stage1": {
        "op": _designed(OP),
        "gen_w": _designed(GEN_W),
    },
    "defense.stage2": {
        "op": _trained(op.FEDERATED, *_KNOWN),
        "gen_w": _trained(gen_w.FEDERATED, *_KNOWN),
        "gen_inv": _trained(gen_inv.FEDERATED, ("local",), ()),
    },
    "defense.stage3": {name: _checked(protocol) for name, protocol in _MALICIOUS.items()},
    "defense.pipeline": {
        "op": _whole(op.FEDERATED, *_KNOWN),
        "gen_w": _whole(gen_w.FEDERATED, *_KNOWN),
        "gen_inv": _whole(gen_inv.FEDERATED, ("local",), ()),
        **{name: _whole_of_server(protocol) for name, protocol in _MALICIOUS.items()},
    },
}
