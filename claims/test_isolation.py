"""What the malicious server buys: an isolated gradient (arXiv 2503.11514, Eq. 6), and an invertible model at all."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from claims.protocols import PROTOCOLS
from claims.protocols.changes import pinned
from gia.data import load
from gia.federated import share_gradient
from gia.federated.server import classifier, fish_class
from gia.harness.protocol import Fished
from gia.models import build

images_of = lru_cache(load)

SOURCES = {"cifar10-samples": 16, "faces": 16, "photos": 16, "digits": 8}
VICTIMS = {
    "source": st.sampled_from(sorted(SOURCES)),
    "name": st.sampled_from(["convnet", "mlp", "resnet10"]),
    "activation": st.sampled_from(["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"]),
    "batch_size": st.integers(2, 16),
    "dtype": st.sampled_from(["float32", "float64"]),
    "seed": st.integers(0, 2**32 - 1),
}


def before_classifier(model, images, labels):
    """The shared gradient but for the classifier, one vector, times the number of images."""
    observation = share_gradient(model, images, labels)
    kept = [g.flatten() for key, g in observation.gradients.items() if not key.startswith(f"{classifier(model)}.")]
    return len(images) * torch.cat(kept).double()


def isolation(source, name, activation, batch_size, dtype, seed):
    """The distance to the limits: the cosine's above .95, and the norm's to 5 % off the target's own."""
    g = torch.Generator().manual_seed(seed)
    size, data = SOURCES[source], images_of(source, image_size=SOURCES[source])
    chosen = torch.randperm(len(data.labels), generator=g)[:batch_size]
    images, labels = data.images[chosen].to(getattr(torch, dtype)), data.labels[chosen]
    alone = labels == labels[0]
    alone[0] = False
    labels[alone] = (labels[0] + 1) % data.num_classes  # one image of the target's class
    options = {"num_classes": data.num_classes, "image_size": size, "channels": images.shape[1], "width": 8}
    model = build(name, activation=activation, generator=g, dtype=images.dtype, **options).eval()
    sent = fish_class(model, target=int(labels[0]))
    with torch.no_grad():
        logits = sent(images)
    others = logits[:, (labels[0] + 1) % data.num_classes]
    assume(bool((logits[:, labels[0]] < others - 20).all()))  # full strength: nobody is taken for the target
    whole, own = before_classifier(sent, images, labels), before_classifier(sent, images[:1], labels[:1])
    assume(bool(own.any()))
    return min(float(cosine_similarity(whole, own, 0)) - 0.95, 0.05 - abs(float(whole.norm() / own.norm()) - 1))


def server(protocol, level):
    """The same first layer's width with and without the server's edit."""
    return protocol if level == "modified model" else replace(protocol, edit=None)


@pytest.mark.claim("ana_param.isolation")
def test_the_batch_gradient_is_the_target_s(claims):
    """Before the classifier, wherever class fishing is at full strength, for one image of the target's class."""
    claims.universal("ana_param.isolation", isolation, VICTIMS)


@pytest.mark.claim("ana.malicious")
def test_an_honest_model_gives_nothing_to_the_same_inversion(claims):
    """Robbing the Fed's differences on a multilayer perceptron, whose first layer sees the image, with and without the
    block in front; the honest layer has up to as many neurons as the block has bins."""
    protocol = replace(
        PROTOCOLS[claims.scale]["ana_arch"],
        victim={"name": "mlp"},
        batch_size=64,
        vary={"victim.width": (250, 400, 500, 600, 750, 850, 900, 1000), "victim.activation": ("relu", "leaky_relu")},
    )
    claims.paired("ana.malicious", protocol, levels=["modified model", "honest model"], change=server)


STEPS = ("isolation and optimization", "isolation alone", "optimization alone")


def without(protocol, level):
    """The search stopped after its first step; or on the batch gradient of the honest model, for all its images."""
    if level == STEPS[1]:
        return replace(protocol, settings={**protocol.settings, "steps": 1})
    return (
        protocol
        if level == STEPS[0]
        else replace(protocol, attack="inverting_gradients", fish=None, reveal=("labels",))
    )


@pytest.mark.claim("ana_param.needs_op")
def test_an_isolated_gradient_is_not_yet_an_image(claims):
    """Of one image in four, before and after the optimization attack; beside them the latter without isolation."""
    claims.paired("ana_param.needs_op", PROTOCOLS[claims.scale]["ana_param"], levels=STEPS, change=without)


@pytest.mark.baseline
@pytest.mark.parametrize("kind", ["class", "feature"])
def test_quality_is_that_on_record(baseline, kind):
    """The server's edit, its questions, or the attack on what they isolate changed: on purpose, or by a regression."""
    protocol = pinned(PROTOCOLS["reduced"]["ana_param"])
    protocol = replace(
        protocol, fish=Fished(kind=kind, targets=1), pattern="equal" if kind == "feature" else "distinct"
    )
    baseline.check_level(f"ana_param/{kind}", protocol)
