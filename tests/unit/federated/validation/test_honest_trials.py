"""The honest trainings that set the limits, and which models exceed them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

import gia
from claims.honest import (
    DECAYS,
    FAMILIES,
    FIRST,
    NORMS,
    OPTIMIZERS,
    Trial,
    _rounds,
    _trained,
    alarms,
    left_out,
    never_fitted,
    reports,
    trials,
)
from gia import validate_model
from gia.data import load
from gia.federated import (
    Client,
    Finding,
    LocalTraining,
    ValidationReport,
    fit,
    fit_limits,
)
from gia.federated.validation import default_limits
from gia.models import build, pretrained
from tests.unit.federated.validation.models import seeded


def test_the_stored_limits_are_those_of_the_declared_trials():
    """Few of the values of a few trials are above half of them. If it fails, limits are older than the checks."""
    fitted = [trial for trial in trials() if trial.fitted]
    path = Path(gia.__file__).parent / "federated" / "validation" / "limits.toml"
    provenance = tomllib.loads(path.read_text(encoding="utf-8"))["provenance"]
    assert provenance["trials"] == len(fitted)
    assert provenance["families"] == list(FAMILIES)
    for trial in (Trial("mlp", FIRST), Trial("resnet", FIRST + 2), Trial("convnet", FIRST, federated=True)):
        assert trial in fitted
        for check, limit in fit_limits(reports(trial)).items():
            assert limit <= default_limits()[check] * (1 + 1e-3)


def test_the_honest_trials_cover_what_is_declared():
    """At least 299 without timm, so that 1 % can be shown. If it fails, limits do not know a setting that they are said
    to know."""
    everything = trials()
    assert len([trial for trial in everything if "timm" not in trial.family]) >= 299
    assert {trial.family for trial in everything if not trial.fitted} == set(never_fitted())
    central = [trial for trial in everything if trial.fitted and not trial.federated]
    settings = {(t.draw("optimizer", tuple(OPTIMIZERS)), t.draw("weight decay", DECAYS)) for t in central}
    assert len(settings) == len(OPTIMIZERS) * len(DECAYS)
    for family in FAMILIES.values():
        assert {t.draw("norm", NORMS) for t in central} == set(NORMS) >= set(family.norms)


def test_a_family_is_judged_by_the_limits_of_the_others():
    """By hand: twice 1 without the first, twice 9 without the second and for a family never fitted on. If it fails,
    false alarms are counted on models that set the limits."""
    values = {Trial("mlp", 0): 9.0, Trial("convnet", 0): 1.0, Trial("swin", 0): 17.0, Trial("swin", 1): 19.0}
    seen = {trial: [ValidationReport((), values={"drift": value})] for trial, value in values.items()}
    assert [bool(failed) for failed in left_out(seen).values()] == [True, False, False, True]


def test_an_alarm_of_a_check_without_a_limit_counts():
    """If it fails, an honest model with weights that are not finite is counted as passed."""
    broken = ValidationReport((Finding(check="finite", layer="fc", value=1.0, limit=0.0),), values={"drift": 0.1})
    assert alarms([broken], {"drift": 1.0}) == ["finite 1"]
    assert alarms([broken], {"drift": 0.05}) == ["drift 0.1", "finite 1"]


def test_an_honest_perceptron_that_is_trained_with_weight_decay_passes():
    """SGD with momentum and a decay of 1e-2, all faces learned: its largest row is 8.4 times the median one, and a
    limit of 5.6 from models without decay refused it. If it fails, clients refuse an ordinary training."""
    faces, g = load("faces", image_size=16), seeded()
    faces = faces.take(torch.randperm(400, generator=g)[:96])
    model = build("mlp", num_classes=40, image_size=16, channels=1, width=128, generator=g).eval()
    rule = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-2}
    trained = fit(model, faces, epochs=60, batch_size=24, held_out=faces, generator=g, **rule)
    assert trained.accuracy > 0.95
    report = validate_model(trained.model, batch=(faces.images[:8], faces.labels[:8]))
    assert report.values["zeroed_rows"] > 5.6
    assert report.ok, str(report)


def test_one_model_in_three_hundred_may_exceed_what_a_limit_is_made_of():
    """Values 1 to 299, then 1 to 300. If it fails, a single training that collapsed makes every check blind."""
    made = [ValidationReport((), values={"drift": float(value)}) for value in range(1, 301)]
    assert fit_limits(made[:-1]) == {"drift": 2 * 299}
    assert fit_limits(made) == {"drift": 2 * 299}
    assert fit_limits([*made, *made]) == {"drift": 2 * 299}


@pytest.mark.parametrize("name", ["cifar10-cnn", "efficientnet-lite0"])
def test_two_public_networks_trained_for_long_pass(name):
    """Neither set a limit. If it fails, a client refuses what others trained honestly on real data for days."""
    data = load("cifar10-samples" if name == "cifar10-cnn" else "imagenet-samples", image_size=32)
    for batch in ((data.images[:4], data.labels[:4]), None):
        report = validate_model(pretrained(name), batch=batch)
        assert report.ok, str(report)


@pytest.mark.parametrize("name", ["resnet8", "resnet10"])
def test_rounds_of_networks_with_many_batch_normalizations_raise_no_alarm(name):
    """Clients train in training mode, and the server averages buffers too. If it fails, clients refuse ordinary
    federated averaging."""
    digits = load("digits", image_size=8)
    net = build(name, num_classes=10, image_size=8, channels=1, width=8, generator=seeded(1)).eval()
    found, diverged = _rounds(net, digits, LocalTraining(2, 10, lr=0.1), training=True)
    assert not diverged
    assert [report.training for report in found] == [True, False] * 4
    assert max(report.values.get("statistics", 0) for report in found) > 0  # the running statistics have moved
    assert not [str(report) for report in found if not report.ok]


def test_honest_clients_train_as_the_library_s_client_does():
    """If it fails, false alarms are counted on rounds that no client of this library would send."""
    digits = load("digits", image_size=8).take(torch.arange(25))
    net = build("resnet8", num_classes=10, image_size=8, channels=1, width=4, generator=seeded())
    local = LocalTraining(2, 10, lr=0.05, momentum=0.9)
    for training in (False, True):
        trained = _trained(net.eval(), digits.images, digits.labels, local, training=training)
        update = Client(digits.images, digits.labels, local=local, training=training).answer(net).gradients
        for key, parameter in net.named_parameters():
            torch.testing.assert_close(parameter - trained.get_parameter(key), update[key], rtol=1e-4, atol=1e-6)
        moved = [not torch.equal(a, b) for a, b in zip(net.buffers(), trained.buffers(), strict=True)]
        assert set(moved) == {training}
