"""What a client finds in a model: each check finds its own change, honest nets pass, malicious servers fail."""

from __future__ import annotations

import copy
import math
import time
import tomllib
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gia
from claims.honest import (
    DECAYS,
    FAMILIES,
    FIRST,
    NORMS,
    OPTIMIZERS,
    Trial,
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
    LastAccepted,
    LocalTraining,
    RefusedModel,
    ValidationReport,
    fit,
    fit_limits,
    per_example,
    share_gradient,
)
from gia.federated.server import fish_class, fish_feature, imprint
from gia.federated.validation import SENTENCES, default_limits
from gia.harness.timing.ratio import ratio
from gia.models import build, pretrained
from tests.contracts.cases import CLASSES, SIZE, private
from tests.contracts.snapshots import global_state, model_state

IMAGES, LABELS = private(torch.float32, *range(8))
BATCH = (IMAGES, LABELS)


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def victim(name="convnet", seed=0, **options):
    """An honest model of the images."""
    options = {"width": 16} | options
    return build(name, num_classes=CLASSES, image_size=SIZE, generator=seeded(seed), **options).eval()


def changed(model, name, change):
    """A copy in which `change` was applied to one parameter, in place."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        change(copied.get_parameter(name))
    return copied


def found(*args, **settings):
    """The checks that a report names."""
    return {finding.check for finding in validate_model(*args, **settings).findings}


@pytest.mark.parametrize("name", ["mlp", "convnet", "lenet", "resnet10", "resnet20"])
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
    assert repr(validate_model(model)).endswith("; skipped: structure, drift, dsnr, transmit_snr)")
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


def test_another_structure_is_found():
    """If it fails, layers can be added, or the same weights used in other ways."""
    model = victim()
    assert "structure" in found(victim(width=17), model)
    assert "structure" in found(victim(activation="tanh"), model, batch=BATCH)
    assert "structure" not in found(victim(activation="tanh"), model)  # nothing to run it on
    assert "structure" in found(changed(model, "fc.weight", lambda w: w.requires_grad_(False)), model)


class Hidden(nn.Module):
    """An imprint whose rows lie in a buffer, behind a parameter of small honest numbers."""

    def __init__(self, block):
        super().__init__()
        honest = nn.Linear(*block.measure.weight.shape[::-1])
        self.small = nn.Parameter(honest.weight.detach() * 1e-3)
        self.register_buffer("rows", block.measure.weight.detach().clone())
        self.register_buffer("cut", block.measure.bias.detach().clone())

    def forward(self, images):
        """(N, C, H, W) -> (N, bins)."""
        return nn.functional.linear(images.flatten(1), self.small + self.rows, self.cut)


def test_rows_that_are_no_parameter_are_found_where_they_are_used():
    """If it fails, a server hides what it does in buffers."""
    block = imprint(victim(), image_shape=(3, SIZE, SIZE), bins=64, generator=seeded()).imprint
    model = nn.Sequential(Hidden(block), nn.ReLU(), nn.Linear(64, CLASSES))
    assert not found(model) & {"similar_rows", "ordered_biases"}
    assert {"similar_rows", "ordered_biases", "outlier_biases"} <= found(model, batch=BATCH)


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet10", "googlenet"])
@pytest.mark.parametrize("grouped", [False, True])
def test_norms_from_inputs_and_signals_are_those_of_one_image_at_a_time(name, grouped):
    """Against a backward pass per image in float64. If it fails, D-SNR is that of something else."""
    options = {"stem": "3x3"} if name == "googlenet" else {}
    model = victim(name, width=16, dtype=torch.float64, **options)
    if grouped:
        many, few = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), nn.Conv2d(6, 24, 3, groups=3)  # places
        model = nn.Sequential(many, nn.ReLU(inplace=True), few, nn.Flatten(), nn.LazyLinear(CLASSES)).double()
        model(IMAGES.double())
    images = IMAGES[:3].double()
    uses, norms = per_example.norms(model, images, LABELS[:3], loss=cross_entropy, training=False)
    each = [share_gradient(model, images[i : i + 1], LABELS[i : i + 1]).gradients for i in range(3)]
    weights = [key for key, p in model.named_parameters() if p.dim() > 1]
    assert len(uses) == len(weights)
    expected = sorted(float(gradient[key].norm()) / 3 for key in weights for gradient in each)
    torch.testing.assert_close(
        torch.tensor(sorted(torch.cat(norms).tolist())), torch.tensor(expected), rtol=1e-9, atol=1e-12
    )


def test_in_training_mode_what_the_images_add_is_the_batch_gradient():
    """Batch statistics tie images together. If it fails, the mode is not the client's."""
    model = victim("resnet10", dtype=torch.float64)
    modes = [
        per_example.norms(model, IMAGES.double(), LABELS, loss=cross_entropy, training=mode)[1]
        for mode in (False, True)
    ]
    assert not any(torch.allclose(a, b) for a, b in zip(*modes, strict=True))
    whole = share_gradient(model, IMAGES.double(), LABELS, training=True).gradients
    weights = [key for key, p in model.named_parameters() if p.dim() > 1]
    for key, norms in zip(weights, modes[1], strict=False):
        assert float(whole[key].norm()) <= float(norms.sum()) * (1 + 1e-9)


def test_d_snr_and_transmit_snr_are_the_published_quotients():
    """Garov et al., 2024, by hand: 3 / (1 + 1) and 4 / (1 + 1), each with 1e-6. If it fails, limits mean nothing."""
    assert per_example.dominance(torch.tensor([1.0, 3.0, 1.0]).double()) == pytest.approx(3 / 2.000001, rel=1e-12)
    kernels = torch.tensor([[1.0, 1.0, 1.0], [1.0, -4.0, 1.0]]).double()
    assert per_example.transmit_snr(kernels) == pytest.approx(4 / 2.000001, rel=1e-12)


def test_what_runs_on_the_model_s_own_weights_is_named_after_them():
    """If it fails, findings point at a numbered operation, and each weight is judged twice."""
    model = victim("mlp")
    first = model.get_parameter("layers.0.weight")
    uses, _ = per_example.norms(model, *BATCH, loss=cross_entropy, training=True)
    assert uses[0].weight.data_ptr() == first.data_ptr()
    sent = changed(model, "layers.0.weight", lambda w: w[0, 0].fill_(1e3))
    report = validate_model(sent, batch=BATCH)
    assert {finding.layer for finding in report.findings if finding.check == "transmit_snr"} == {"layers.0"}


def test_rounds_are_compared_with_the_last_one_that_was_accepted():
    """Small steps pass, also when they add up; one as large as their sum does not, and is not remembered."""
    model = victim()
    check = LastAccepted(model)
    step = 0.6 * default_limits()["drift"]
    once, twice, far = (changed(model, "fc.weight", lambda w, n=n: w.mul_(1 + n * step)) for n in (1, 2, 8))
    assert [check(sent).ok for sent in (once, far, twice)] == [True, False, True]
    assert not LastAccepted(model)(twice).ok


def test_one_image_has_no_d_snr_and_the_report_says_so():
    """If it fails, a client of one image is told a number that means nothing."""
    report = validate_model(victim(), batch=(IMAGES[:1], LABELS[:1]))
    assert "dsnr" in report.skipped
    assert "dsnr" not in report.values
    assert set(validate_model(victim()).skipped) == {"structure", "drift", "dsnr", "transmit_snr"}


def test_nothing_is_touched():
    """If it fails, a check trains the model, moves batch statistics, or the global random state."""
    model = victim("resnet10").train()
    before = model_state(model), global_state()
    validate_model(model, model, batch=BATCH, training=True)
    assert (model_state(model), global_state()) == before


def test_fished_models_are_found_without_their_names():
    """If it fails, Fishing passes once its layers are called something else."""

    def renamed(model):
        layers = [*model.body, nn.Flatten(), model.fc]
        return nn.Sequential(*copy.deepcopy(layers))

    for sent in (fish_class(victim(), target=LABELS[0]), fish_feature(victim(), decoy=1, cutoff=3.0)):
        for model in (sent, renamed(sent)):
            assert "zeroed_rows" in found(model)


def test_static_checks_of_a_resnet18_cost_less_than_the_gradient_of_one_image():
    """If it fails, validation costs so much that clients leave it out. The fastest of five, in processor time."""
    model = build("resnet18", num_classes=100, image_size=32, generator=seeded())
    image, label = torch.rand((1, 3, 32, 32), generator=seeded()), torch.tensor([0])

    def fastest(work):
        seconds = []
        for _ in range(5):
            began = time.process_time()
            work()
            seconds.append(time.process_time() - began)
        return min(seconds)

    assert fastest(lambda: validate_model(model)) <= fastest(lambda: share_gradient(model, image, label))


@pytest.mark.timing
@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_d_snr_costs_a_training_step_and_a_half(benchmark, name):
    """If it fails, checking costs more than training. A training step: forward and backward to the weights."""
    data = load("cifar10-samples", image_size=32)
    batch = data.images[:8], data.labels[:8]
    model = build(name, num_classes=10, image_size=32, generator=seeded()).eval()

    def check():
        per_example.norms(model, *batch, loss=cross_entropy, training=False)

    def train():
        torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), list(model.parameters()))

    benchmark.pedantic(check, rounds=3, warmup_rounds=1)
    cost = ratio(check, train)
    benchmark.extra_info["D-SNR over training step"] = cost.row()
    cost.at_most(1.5)


def test_the_stored_limits_are_those_of_the_declared_trials():
    """Few of the values of a few trials are above half of them. If it fails, limits are older than the checks."""
    fitted = [trial for trial in trials() if trial.fitted]
    provenance = tomllib.loads((Path(gia.__file__).parent / "federated" / "limits.toml").read_text(encoding="utf-8"))[
        "provenance"
    ]
    assert provenance["trials"] == len(fitted)
    assert provenance["families"] == list(FAMILIES)
    for trial in (Trial("mlp", FIRST), Trial("resnet", FIRST + 2), Trial("convnet", FIRST, federated=True)):
        assert trial in fitted
        for check, limit in fit_limits(reports(trial)).items():
            assert limit <= default_limits()[check] * (1 + 1e-3)


def test_the_honest_trials_cover_what_is_declared():
    """At least 299, so that 1 % can be shown. If it fails, limits do not know a setting that they are said to know."""
    everything = trials()
    assert len(everything) >= 299
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


def test_d_snr_is_noted_and_found_only_by_a_limit_of_one_s_own():
    """79 is what class fishing reaches in SEER's code. If it fails, honest clients with small batches refuse accurate
    models, or who sets a limit is not heard."""
    sure = changed(victim(), "fc.bias", lambda b: b[1].fill_(30.0))
    batch = IMAGES, (torch.arange(len(IMAGES)) > 0).long()  # it is right about all but the first image
    report = validate_model(sure, batch=batch)
    assert report.values["dsnr"] > 79
    assert "dsnr" not in {finding.check for finding in report.findings}
    assert "(advisory)" in str(report)
    own = validate_model(sure, batch=batch, limits={"dsnr": 79.0})
    assert "dsnr" in {finding.check for finding in own.findings}
    assert "(advisory)" not in str(own)
    assert fit_limits([report])["dsnr"] == math.inf


def test_one_model_in_three_hundred_may_exceed_what_a_limit_is_made_of():
    """Values 1 to 299, then 1 to 300. If it fails, a single training that collapsed makes every check blind."""
    made = [ValidationReport((), values={"drift": float(value)}) for value in range(1, 301)]
    assert fit_limits(made[:-1]) == {"drift": 2 * 299}
    assert fit_limits(made) == {"drift": 2 * 299}
    assert fit_limits([*made, *made]) == {"drift": 2 * 299}


def test_a_client_s_own_limits_replace_ours_check_by_check(tmp_path):
    """From a mapping or a file. If it fails, models that the default limits do not fit cannot be judged."""
    model = changed(victim("mlp", width=100), "layers.2.bias", lambda b: b[3].fill_(20.0))
    report = validate_model(model)
    assert {finding.check for finding in report.findings} == {"outlier_biases"}
    own = fit_limits([report, validate_model(victim("mlp"))])
    assert own["outlier_biases"] == 2 * report.values["outlier_biases"]
    assert own["similar_rows"] == 1 - (1 - report.values["similar_rows"]) / 2
    path = tmp_path / "limits.toml"
    path.write_text("[limits]\n" + "".join(f"{check} = {limit!r}\n" for check, limit in own.items()), encoding="utf-8")
    for limits in (own, path, str(path)):
        assert validate_model(model, limits=limits).ok
        assert LastAccepted(limits=limits)(model).ok
    tight = {"zeroed_rows": 0.0}
    assert {f.check for f in validate_model(model, limits=tight).findings} == {"zeroed_rows", "outlier_biases"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"similar_row": 1.0}, "limits: expected one of .* got 'similar_row'; did you mean 'similar_rows'"),
        ({"finite": 1.0}, "limits: expected one of .* got 'finite'"),
        ({"dsnr": math.nan}, r"limits\['dsnr'\]: expected a number of at least 0, got nan"),
        ({"dsnr": "high"}, r"limits\['dsnr'\]: expected a number of at least 0, got 'high'"),
        ({"dsnr": True}, r"limits\['dsnr'\]: expected a number of at least 0, got True"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits, message):
    """If it fails, a misspelt check keeps its default in silence, or a limit lets everything pass."""
    with pytest.raises(ValueError, match=message):
        validate_model(victim(), limits=limits)


def test_a_file_without_limits_is_refused(tmp_path):
    """If it fails, another TOML file is taken for one with limits."""
    (tmp_path / "other.toml").write_text("dsnr = 1.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"limits: expected a table \[limits\] in .*other.toml"):
        validate_model(victim(), limits=tmp_path / "other.toml")


@pytest.mark.parametrize("name", ["cifar10-cnn", "efficientnet-lite0"])
def test_two_public_networks_trained_for_long_pass(name):
    """Neither set a limit. If it fails, a client refuses what others trained honestly on real data for days."""
    data = load("cifar10-samples" if name == "cifar10-cnn" else "imagenet-samples", image_size=32)
    report = validate_model(pretrained(name), batch=(data.images[:4], data.labels[:4]))
    assert report.ok, str(report)


def test_a_bias_counts_by_what_enters_its_layer():
    """Pixels from 0 to 255 and weights 255 times smaller compute the same. If it fails, honest biases of such a net are
    outliers; or a constant beside the pixels, that a row ignores, hides a bias that is one."""
    model = changed(victim("mlp", width=100), "layers.0.bias", lambda b: b[3].fill_(1.0))
    scaled = changed(model, "layers.0.weight", lambda w: w.div_(255))
    values = [
        validate_model(nn.Sequential(Affine(scale, shift), sent), batch=BATCH).values["outlier_biases"]
        for scale, shift, sent in ((1, 0, model), (255, 0, scaled), (1, 1000, model))
    ]
    weight, bias = (model.get_parameter(f"layers.0.{part}").detach() for part in ("weight", "bias"))
    spread = float(IMAGES.std(correction=0))
    assert values[1] == pytest.approx(float(bias.abs().max() / weight.abs().mean()) / spread, rel=1e-4)
    assert values[2] == pytest.approx(values[0])
    assert validate_model(scaled).values["outlier_biases"] > 100 * values[0]


class Affine(nn.Module):
    """scale * images + shift."""

    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, images):
        """(N, C, H, W) of the same shape."""
        return self.scale * images + self.shift


def test_a_depthwise_kernel_may_tower_and_a_classifier_s_row_may_not():
    """If it fails, honest mobile nets are refused, or Fishing's row is hidden in the shape of a kernel."""
    depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, groups=12, bias=False), nn.Flatten(), nn.Linear(12, 5))
    wide = nn.Sequential(nn.Conv2d(1, 12, (1, 64), bias=False), nn.Flatten())
    for model, towers in ((depthwise, False), (wide, True)):
        with torch.no_grad():
            model[0].weight[0] *= 100
        assert ("zeroed_rows" in found(model)) == towers


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # slower, and right
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name_is_the_padding_that_torch_adds(padding):
    """An even kernel, dilated. If it fails, norms are those of another convolution."""
    conv = nn.Conv2d(3, 4, (2, 3), dilation=(1, 2), padding=padding)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)).double()
    images = IMAGES[:3].double()
    model(images)
    _, norms = per_example.norms(model, images, LABELS[:3], loss=cross_entropy, training=False)
    each = [share_gradient(model, images[i : i + 1], LABELS[i : i + 1]).gradients["0.weight"] for i in range(3)]
    torch.testing.assert_close(norms[0], torch.stack(each).flatten(1).norm(dim=1) / 3)


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
