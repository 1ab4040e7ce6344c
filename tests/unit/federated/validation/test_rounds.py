"""Rounds of federated training whose clients validate."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch

import gia
from gia import validate_model
from gia.data import load
from gia.federated import (
    Client,
    LastAccepted,
    LocalTraining,
    RefusedModel,
)
from gia.federated.server import fish_class, imprint
from gia.federated.validation import default_limits
from gia.models import build
from tests.contracts.cases import CLASSES
from tests.unit.federated.validation.models import changed, found, seeded, victim


def test_a_change_since_the_last_round_is_found():
    """If it fails, a server may exchange the model between rounds."""
    model = victim()
    moved = changed(model, "fc.weight", lambda w: w.add_(torch.randn(w.shape, generator=seeded()), alpha=1))
    assert found(moved, model) == {"drift"}
    assert validate_model(model, model).values["drift"] == 0
    scaled = changed(model, "body.0.weight", lambda w: w.mul_(1 + 1e-3))
    layer = [p.detach().flatten() for p in model.get_submodule("body.0").parameters()]
    size = layer[0].norm() / torch.cat(layer).norm()
    assert validate_model(scaled, model).values["drift"] == pytest.approx(1e-3 * float(size), rel=1e-3)


def test_a_layer_that_starts_at_zero_may_move_as_far_as_others():
    """Transformers start with a classifier of zeros. By hand: a move of .5 against a quarter of the root of its rows.
    If it fails, clients refuse their first honest round."""
    model = changed(victim(), "fc.weight", lambda w: w.zero_())
    model = changed(model, "fc.bias", lambda b: b.zero_())
    moved = changed(model, "fc.weight", lambda w: w.fill_(0.5 / math.sqrt(w.numel())))
    assert validate_model(moved, model).values["drift"] == pytest.approx(0.5 / (0.25 * math.sqrt(CLASSES)), rel=1e-5)


def test_rounds_are_compared_with_the_last_one_that_was_accepted():
    """Small steps pass, also when they add up; one as large as their sum does not, and is not remembered."""
    model = victim()
    check = LastAccepted(model)
    step = 0.6 * default_limits()["drift"]
    once, twice, far = (changed(model, "fc.weight", lambda w, n=n: w.mul_(1 + n * step)) for n in (1, 2, 8))
    assert [check(sent).ok for sent in (once, far, twice)] == [True, False, True]
    assert not LastAccepted(model)(twice).ok


def federated(server, validated):
    """Three rounds with five clients on faces; what the server got, and the refusals."""
    data = load("faces", image_size=16)
    model = build("mlp", num_classes=40, image_size=16, channels=1, width=64, generator=seeded()).eval()
    clients = []
    for i in range(5):
        own = (data.labels % 5 == i).nonzero()[:20, 0]
        images, labels = data.images[own], data.labels[own]
        check = LastAccepted(model, batch=(images, labels)) if validated else None
        local = LocalTraining(epochs=1, batch_size=10, lr=0.1)
        clients.append(Client(images, labels, local=local, validate=check))
    refusals = []
    for _ in range(3):
        sent, updates = server(model), []
        for client in clients:
            try:
                updates.append(client.answer(sent).gradients)
            except RefusedModel as refused:
                refusals.append(refused)
        model = copy.deepcopy(model)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if updates and key in updates[0]:
                    parameter -= torch.stack([update[key] for update in updates]).mean(0)
    return sum(client.queries for client in clients), refusals


def test_five_clients_train_with_an_honest_server_and_refuse_a_malicious_one():
    """If it fails, the hook does not refuse, refuses everybody, or an unaware client is no longer at risk."""
    malicious = [partial(imprint, image_shape=(1, 16, 16), bins=50, generator=seeded()), partial(fish_class, target=0)]
    assert federated(lambda model: model, validated=True) == (15, [])
    for edit in malicious:
        answered, refusals = federated(edit, validated=True)
        assert answered == 0
        assert len(refusals) == 15
        assert all(refused.report.findings and str(refused.report) in str(refused) for refused in refusals)
        assert federated(edit, validated=False) == (15, [])
    assert gia.validate_model is validate_model
