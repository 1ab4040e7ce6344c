"""Whether a client's checks catch a malicious model, spare honest ones, and what gets past them (Sec. VI, stage 3)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn

from claims.honest import reports, trials
from claims.protocols import PROTOCOLS
from claims.test_isolation import SOURCES, VICTIMS, before_classifier, isolation
from gia.data import load
from gia.federated import per_example, share_gradient, validate_model
from gia.federated.server import Empirical, Laplace, classifier, fish_class, imprint, probed
from gia.federated.server import trap_weights as trapped
from gia.harness import pictures, verdicts
from gia.harness.run import Measurement
from gia.models import build
from gia.numerics import reproducible

images_of = lru_cache(load)


class Renamed(nn.Module):
    """The same computation from plain layers, under names that say nothing."""

    def __init__(self, sent):
        super().__init__()
        block = copy.deepcopy(sent.imprint)
        first, last = (nn.Linear(*layer.weight.shape[::-1]) for layer in (block.measure, block.spread))
        for plain, layer in ((first, block.measure), (last, block.spread)):
            plain.weight, plain.bias = layer.weight, layer.bias
        shape = block.image_shape
        self.stage = nn.Sequential(nn.Flatten(), first, block.activation, last, nn.Unflatten(1, shape))
        self.backbone = copy.deepcopy(sent.model)

    def forward(self, images):
        """(N, C, H, W) -> logits."""
        return self.backbone(self.stage(images))


def drawn(source, name, activation, batch_size, dtype, seed):
    """An honest model and real images for it."""
    g = torch.Generator().manual_seed(seed)
    size, data = SOURCES[source], images_of(source, image_size=SOURCES[source])
    chosen = torch.randperm(len(data.labels), generator=g)
    images, labels = data.images[chosen].to(getattr(torch, dtype)), data.labels[chosen]
    options = {"num_classes": data.num_classes, "image_size": size, "channels": images.shape[1], "width": 8}
    model = build(name, activation=activation, generator=g, dtype=images.dtype, **options).eval()
    return model, (images[:batch_size], labels[:batch_size]), images[batch_size:], g


def flagged(sent, *arguments, **settings):
    """How far the finding that stands out most is above its limit, in log10 and at most 9; -1 if there is none."""
    found = validate_model(sent, *arguments, **settings).findings
    above = [math.log10(f.value / f.limit) if f.limit > 0 and f.value > 0 else 0.0 for f in found]
    return min(max(above), 9.0) if found else -1.0


def imprinted(bins, probe, quantiles, sparse, rebuilt, given, **victim):
    """The margin by which an imprinted model is caught."""
    model, batch, others, g = drawn(**victim)
    images = others if len(others) > 1 else batch[0]
    measured = probed(images, probe=probe)
    assume(float(measured.std()) > 0)
    fitted = {"laplace": Laplace.of, "empirical": Empirical}.get(quantiles)
    settings = {} if fitted is None else {"quantiles": fitted(measured)}
    try:
        sent = imprint(
            model,
            image_shape=tuple(images.shape[1:]),
            bins=bins,
            probe=probe,
            sparse=sparse,
            draws=1,
            generator=g,
            **settings,
        )
    except ValueError:  # quantiles that coincide
        assume(False)
    sent = Renamed(sent) if rebuilt else sent
    return flagged(sent, model if given == "expected" else None, batch=batch if given == "batch" else None)


@pytest.mark.claim("detect.ana_arch")
def test_every_imprint_block_is_found(claims):
    """From 4 bins on, whatever it measures, in float32 and float64, rebuilt from plain layers, and with nothing known
    but the model: neither what was agreed nor a batch."""
    block = {
        "bins": st.integers(4, 300),
        "probe": st.sampled_from(["mean", (0, 1), (1, 0), (2, 3)]),
        "quantiles": st.sampled_from(["gaussian", "laplace", "empirical"]),
        "sparse": st.booleans(),
        "rebuilt": st.booleans(),
        "given": st.sampled_from(["nothing", "batch", "expected"]),
    }
    claims.universal("detect.ana_arch", imprinted, VICTIMS | block)


def fished(strength, row, other, rebuilt, given, **victim):
    """The margin by which a model is caught that isolates one image to a cosine of .95."""
    model, (images, labels), _, g = drawn(**victim)
    alone = labels == labels[0]
    alone[0] = False
    labels = torch.where(alone, (labels[0] + 1) % images_of(victim["source"], image_size=16).num_classes, labels)
    sent = fish_class(model, target=int(labels[0]), row=row, bias=10.0**strength)
    name = classifier(sent)
    honest = model.get_parameter(f"{name}.weight").detach()
    with torch.no_grad():  # weaker: the other rows keep a part of what they were
        weight = sent.get_parameter(f"{name}.weight")
        rest = torch.arange(len(weight)) != labels[0]
        weight[rest] = other * honest[rest]
    whole, own = before_classifier(sent, images, labels), before_classifier(sent, images[:1], labels[:1])
    assume(bool(own.any()) and float(torch.cosine_similarity(whole, own, 0)) >= 0.95)
    if rebuilt:
        sent = nn.Sequential(sent)
    return flagged(sent, model if given == "expected" else None, batch=(images, labels) if given == "batch" else None)


@pytest.mark.claim("detect.ana_param")
def test_every_model_that_isolates_an_image_is_found(claims):
    """Class fishing from full strength to the weakest that still isolates, also inside another module."""
    fishing = {
        "strength": st.floats(0.5, 4),
        "row": st.sampled_from([-0.5, 0.05, 0.5, 5.0]),
        "other": st.sampled_from([0.0, 0.01, 0.1, 0.3]),
        "rebuilt": st.booleans(),
        "given": st.sampled_from(["nothing", "batch", "expected"]),
    }
    claims.universal("detect.ana_param", fished, VICTIMS | fishing)


@pytest.mark.claim("detect.false_alarms")
def test_no_honest_training_raises_an_alarm(claims):
    """Trials that set no limit; each is a training of its own, flagged if one of its checkpoints or, of 21 federated
    trainings on faces, one of five clients in one of four rounds is."""
    held = trials("held out")
    with reproducible():
        alarms = {trial: [f for report in reports(trial) for f in report.findings] for trial in held}
    claim = claims.claim("detect.false_alarms")
    verdict = verdicts.count(claim, np.array([bool(found) for found in alarms.values()]), coverage=0.95, sides="upper")
    which = "; ".join(f"{t.architecture} {t.seed}: {found[0]}" for t, found in alarms.items() if found)
    claims.record(replace(verdict, measured=f"{sum(map(bool, alarms.values()))} of {len(held)} {which}".strip()))
