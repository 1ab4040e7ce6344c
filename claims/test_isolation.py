"""What the malicious server gains: an isolated gradient (arXiv 2503.11514, Eq. 6), and an invertible model at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume
from torch.nn.functional import cosine_similarity

from claims.scales import Scale
from claims.victims import VICTIMS, before_classifier, drawn, first_alone
from gia.experiment import Protocol
from gia.federated.server import fish_class
from gia.harness.plugin.claims import Claims


def isolation(source: str, name: str, activation: str, batch_size: int, dtype: str, seed: int) -> float:
    """The distance to the limits: the cosine's above .95, and the norm's to 5 % off the target's own."""
    model, images, labels, _, classes, _ = drawn(source, name, activation, batch_size, dtype, seed)
    labels = first_alone(labels, classes)
    sent = fish_class(model, target=int(labels[0]))
    with torch.no_grad():
        logits = sent(images)
    others = logits[:, (labels[0] + 1) % classes]
    assume(bool((logits[:, labels[0]] < others - 20).all()))  # full strength: no image is classified as the target
    whole, own = before_classifier(sent, images, labels), before_classifier(sent, images[:1], labels[:1])
    assume(bool(own.any()))
    return min(float(cosine_similarity(whole, own, 0)) - 0.95, 0.05 - abs(float(whole.norm() / own.norm()) - 1))


def server(protocol: Protocol, level: str) -> Protocol:
    """A first layer of the same width, with and without the server's edit. The row asks about the honest one."""
    return protocol if level == "modified model" else protocol.with_({"victim.edit": None, "scoring.control": None})


@pytest.mark.claim("ana_param.isolation")
def test_the_batch_gradient_is_the_target_s(claims: Claims) -> None:
    """Before the classifier, wherever class fishing is at full strength, for one image of the target's class."""
    claims.universal("ana_param.isolation", isolation, VICTIMS)


@pytest.mark.claim("ana.malicious")
def test_an_honest_model_gives_nothing_to_the_same_inversion(claims: Claims, scale: Scale) -> None:
    """Robbing the Fed's differences on a multilayer perceptron, whose first layer sees the image, with and without the
    block in front; the honest layer has up to as many neurons as the block has bins."""
    protocol = scale.PROTOCOLS["ana_arch"]
    kept = {key: values for key, values in protocol.vary.items() if key != "victim.name"}
    changes: dict[str, Any] = {"victim.name": "mlp", "victim.options": {}, "victim.standardize": None, "batch.size": 64}
    protocol = protocol.with_({**changes, "vary": {**kept, "victim.width": (250, 500, 750, 1000)}})
    claims.paired("ana.malicious", protocol, levels=["modified model", "honest model"], change=server)


STEPS = ("isolation and optimization", "isolation alone", "optimization alone")


def without(protocol: Protocol, level: str) -> Protocol:
    """The search stopped after its first step; or on the batch gradient of the honest model, for all its images."""
    if level == STEPS[1]:  # no search, which is what the row asks about
        return protocol.with_({"attacker.settings.steps": 1, "scoring.control": None})
    if level == STEPS[2]:
        alone = {"attacker.attack": "inverting_gradients", "victim.fish": None, "client.reveal": ("labels",)}
        return protocol.with_({**alone, "scoring.control": None})
    return protocol


@pytest.mark.claim("ana_param.needs_op")
def test_an_isolated_gradient_is_not_yet_an_image(claims: Claims, scale: Scale) -> None:
    """Of one image in four, before and after the optimization attack; the latter without isolation is shown too."""
    claims.paired("ana_param.needs_op", scale.PROTOCOLS["ana_param"], levels=STEPS, change=without)
