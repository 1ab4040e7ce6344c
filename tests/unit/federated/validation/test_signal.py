"""Norms and ratios of single images' gradients: D-SNR and what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia import validate_model
from gia.data import load
from gia.federated import (
    fit_limits,
    per_example,
    share_gradient,
)
from gia.harness.timing.ratio import ratio
from gia.models import build
from tests.contracts.cases import CLASSES
from tests.unit.federated.validation.models import IMAGES, LABELS, changed, seeded, victim


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
    record, norms = per_example.norms(model, images, LABELS[:3], loss=cross_entropy, training=False)
    each = [share_gradient(model, images[i : i + 1], LABELS[i : i + 1]).gradients for i in range(3)]
    weights = [key for key, p in model.named_parameters() if p.dim() > 1]
    assert len(record.uses) == len(weights)
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


def test_one_image_has_no_d_snr_and_the_report_says_so():
    """If it fails, a client of one image is told a number that means nothing."""
    report = validate_model(victim(), batch=(IMAGES[:1], LABELS[:1]))
    assert "dsnr" in report.skipped
    assert "dsnr" not in report.values
    skipped = set(validate_model(victim()).skipped)
    assert skipped == {"structure", "drift", "dsnr", "transmit_snr", "operators"}


@pytest.mark.timing
def test_static_checks_of_a_resnet18_cost_less_than_the_gradient_of_one_image(benchmark):
    """If it fails, validation costs so much that clients leave it out."""
    model = build("resnet18", num_classes=100, image_size=32, generator=seeded())
    image, label = torch.rand((1, 3, 32, 32), generator=seeded()), torch.tensor([0])
    benchmark.pedantic(lambda: validate_model(model), rounds=3, warmup_rounds=1)
    cost = ratio(lambda: validate_model(model), lambda: share_gradient(model, image, label))
    benchmark.extra_info["static checks over a gradient"] = cost.row()
    cost.at_most(1.0)


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


def test_d_snr_is_the_worst_of_all_layers():
    """If it fails, a server hides an image in a layer that nobody measures. Oracle: one backward pass per image."""
    worst = set()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 8), nn.ReLU(), nn.Linear(8, 4)
        )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        images = torch.rand(4, 1, 6, 6, generator=generator)
        labels = torch.randint(4, (4,), generator=generator)
        weights = [parameter for name, parameter in net.named_parameters() if name.endswith("weight")]
        apart = [
            [float(g.norm()) for g in torch.autograd.grad(cross_entropy(net(image[None]), label[None]), weights)]
            for image, label in zip(images, labels, strict=True)
        ]
        ratios = [max(each) / (sum(each) - max(each) + 1e-6) for each in zip(*apart, strict=True)]
        worst.add(ratios.index(max(ratios)))
        measured = validate_model(net, batch=(images, labels)).values["dsnr"]
        assert measured == pytest.approx(max(ratios), rel=1e-3), seed
    assert worst >= {0, 2}, "the examples must not all have their worst layer at one end"
