"""What a client finds in a model: each check finds its own change, honest nets pass, malicious servers fail."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gia import validate_model
from gia.federated.server import fish_class, fish_feature, imprint
from gia.federated.validation import SENTENCES
from tests.contracts.cases import SIZE
from tests.contracts.snapshots import global_state, model_state
from tests.unit.federated.validation.models import BATCH, LABELS, changed, found, seeded, victim


@pytest.mark.parametrize("name", ["mlp", "convnet", "lenet", "resnet8", "resnet10", "resnet20"])
@pytest.mark.parametrize("training", [False, True])
def test_an_honest_model_passes_every_check(name, training):
    """If it fails, clients refuse what they should train on."""
    model = victim(name)
    report = validate_model(model, copy.deepcopy(model), batch=BATCH, training=training)
    assert report.ok, str(report)
    assert not report.skipped
    assert report.training == training


def test_each_finding_says_what_where_and_how_much():
    """If it fails, a person is told that something is wrong, and not what."""
    model = victim("mlp")
    report = validate_model(imprint(model, image_shape=(3, SIZE, SIZE), bins=100, generator=seeded()), model)
    assert {"structure", "similar_rows", "ordered_biases", "outlier_biases"} <= {f.check for f in report.findings}
    for finding in report.findings:
        assert finding.check in SENTENCES
        assert finding.value > finding.limit
        assert finding.layer in str(finding)
        assert str(finding).endswith(".")
    assert str(report) == " ".join(map(str, report.findings))


def test_a_report_has_a_short_repr():
    """If it fails, a user who prints a report sees every finding in full, or none of the values."""
    model = victim("mlp")
    assert repr(validate_model(model)).startswith("ValidationReport(ok, eval mode, findings: none; values: ")
    assert repr(validate_model(model)).endswith("; skipped: structure, drift, dsnr, transmit_snr, operators)")
    sent = changed(model, "layers.2.bias", lambda b: b[3].fill_(20.0))
    assert "not ok, eval mode, findings: outlier_biases;" in repr(validate_model(sent))
    assert len(repr(validate_model(sent, batch=BATCH))) < 400


@pytest.mark.parametrize(
    ("check", "parameter", "change"),
    [
        ("similar_rows", "layers.0.weight", lambda w: w[4:8].copy_(-3 * w[:4])),
        ("ordered_biases", "layers.0.bias", lambda b: b.copy_(b.sort(descending=True).values)),
        ("outlier_biases", "layers.2.bias", lambda b: b[3].fill_(20.0)),
        ("zeroed_rows", "layers.2.weight", lambda w: w[1:].zero_()),
        ("zeroed_rows", "layers.2.weight", lambda w: w[1:].copy_(w[:1] + 1)),
        ("finite", "layers.0.weight", lambda w: w[0, 0].fill_(math.nan)),
        ("transmit_snr", "layers.0.weight", lambda w: w[0, 0].fill_(1e3)),
    ],
    ids=["rows", "sorted", "outlier", "zeroed", "equal", "nan", "kernel"],
)
def test_each_check_finds_its_own_change(check, parameter, change):
    """If it fails, a check is dead."""
    model = victim("mlp", width=100)
    assert check not in found(model, batch=BATCH)
    assert check in found(changed(model, parameter, change), batch=BATCH)


def test_another_structure_is_found():
    """If it fails, layers can be added, or the same weights used in other ways."""
    model = victim()
    assert "structure" in found(victim(width=17), model)
    assert "structure" in found(victim(activation="tanh"), model, batch=BATCH)
    assert "structure" not in found(victim(activation="tanh"), model)  # nothing to run it on
    assert "structure" in found(changed(model, "fc.weight", lambda w: w.requires_grad_(False)), model)


def test_nothing_is_touched():
    """If it fails, a check trains the model, moves batch statistics, or the global random state."""
    model = victim("resnet10").train()
    before = model_state(model), global_state()
    validate_model(model, model, batch=BATCH, training=True)
    assert (model_state(model), global_state()) == before


def test_a_model_made_in_inference_mode_has_the_same_report():
    """Its parameters, running statistics and constants. If it fails, torch's words about autograd are the report."""
    model = victim("resnet10")
    constant = nn.Sequential(copy.deepcopy(model), Scaled(torch.tensor(2.0)))
    expected = validate_model(constant, constant, batch=BATCH)
    with torch.inference_mode():
        built = victim("resnet10")
        made = Scaled(torch.tensor(2.0))
    assert next(built.parameters()).is_inference()
    assert made.factor.is_inference()
    for sent in (nn.Sequential(built, made), nn.Sequential(copy.deepcopy(model), made)):
        assert validate_model(sent, constant, batch=BATCH) == expected
        assert validate_model(constant, sent, batch=BATCH) == expected
    assert next(built.parameters()).is_inference()


class Scaled(nn.Module):
    """A constant that is no buffer."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        """Scaled logits."""
        return logits * self.factor


def test_fished_models_are_found_without_their_names():
    """If it fails, Fishing passes once its layers are called something else."""

    def renamed(model):
        layers = [*model.body, nn.Flatten(), model.fc]
        return nn.Sequential(*copy.deepcopy(layers))

    for sent in (fish_class(victim(), target=LABELS[0]), fish_feature(victim(), decoy=1, cutoff=3.0)):
        for model in (sent, renamed(sent)):
            assert "zeroed_rows" in found(model)
