"""Rows of a matrix that are alike, and honest ones that are."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gia import validate_model
from gia.data import load
from gia.federated import share_gradient
from gia.federated.validation import default_limits
from gia.federated.validation.weights import _similar
from gia.models import build
from tests.unit.federated.validation.models import BATCH, changed, found, seeded, victim


def test_a_depthwise_kernel_may_tower_and_a_classifier_s_row_may_not():
    """If it fails, honest mobile nets are refused, or Fishing's row is hidden in the shape of a kernel."""
    depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, groups=12, bias=False), nn.Flatten(), nn.Linear(12, 5))
    wide = nn.Sequential(nn.Conv2d(1, 12, (1, 64), bias=False), nn.Flatten())
    for model, towers in ((depthwise, False), (wide, True)):
        with torch.no_grad():
            model[0].weight[0] *= 100
        assert ("zeroed_rows" in found(model)) == towers


def two_classes(first, second, heads=1):
    """A network with heads of two rows each."""
    head = nn.Linear(96, 2)
    with torch.no_grad():
        head.weight.copy_(torch.stack([first, second]))
    heads = nn.ModuleList(copy.deepcopy(head) for _ in range(heads))
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 96), nn.ReLU(), heads)


def test_opposite_rows_of_two_classes_pass_and_no_others():
    """Every trained classifier of two classes ends with w and -w, as the R-Net and O-Net of facenet-pytorch do (cosine
    1.0000). If it fails, clients refuse them, or an imprint is spread over layers of two rows."""
    row = torch.randn(96, generator=seeded())
    assert not found(two_classes(row, -row))
    assert found(two_classes(row, 2 * row)) == {"similar_rows"}
    assert found(two_classes(row, -row, heads=3)) == {"similar_rows"}
    others = two_classes(row, -row, heads=3)
    with torch.no_grad():
        for i, head in enumerate(others[3]):
            head.weight[0] = torch.randn(96, generator=seeded(i + 1))
            head.weight[1] = -head.weight[0]
    assert not found(others)


def test_a_prior_in_all_biases_passes_and_a_common_cut_off_does_not():
    """log(.01 / .99) in a classifier with weights of deviation .01 (RetinaNet, arXiv 1708.02002, Sec. 4.1), and rows
    that read the brightness with a common bias. If it fails, such a classifier is refused, or such rows pass."""
    model = victim("mlp", width=100)
    for name in ("weight", "bias"):
        model = changed(
            model,
            f"layers.2.{name}",
            (lambda b: b.fill_(math.log(0.01 / 0.99)))
            if name == "bias"
            else (lambda w: w.copy_(0.01 * torch.randn(w.shape, generator=seeded()))),
        )
    assert not found(model, batch=BATCH)
    alike = changed(model, "layers.0.weight", lambda w: w.copy_(1 + 0.1 * torch.randn(w.shape, generator=seeded())))
    alike = changed(alike, "layers.0.bias", lambda b: b.fill_(-90.0))
    assert "outlier_biases" in found(alike)


def test_a_skewed_prior_isolates_an_image_of_the_rare_class_and_is_found():
    """Biases alone do it: with probabilities of .95 and .05 at the start, seven images of the common class add almost
    nothing to the gradient of the layer before. A uniform prior does not. If it fails, a server
    fishes with biases that look like a prior, or a uniform prior is refused."""
    faces = load("faces", image_size=16)
    for prior, isolates in (((0.5, 0.5), False), ((0.95, 0.05), True)):
        cosines = []
        for seed in range(4):
            model = build("mlp", num_classes=2, image_size=16, channels=1, width=512, generator=seeded(seed)).eval()
            model = changed(model, "layers.2.bias", lambda b, prior=prior: b.copy_(torch.tensor(prior).log()))
            images = faces.images[torch.randperm(400, generator=seeded(seed))[:8]]
            labels = torch.tensor([1] + 7 * [0])
            both = [share_gradient(model, images[:n], labels[:n]).gradients["layers.0.weight"] for n in (8, 1)]
            cosines.append(float(nn.functional.cosine_similarity(*(g.flatten() for g in both), dim=0)))
            assert found(model, batch=(images, labels)) == ({"outlier_biases"} if isolates else set())
            assert not found(model, batch=(images, labels), limits={"outlier_biases": 200.0})
        assert (min(cosines) > 0.9) == isolates, cosines


def test_a_model_whose_output_has_too_few_rows_is_named():
    """If it fails, labels are compared with the logits of other images."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = victim("mlp")

        def forward(self, images):
            return self.net(images)[:1]

    with pytest.raises(ValueError, match=r"model: expected logits \(N, classes\) for 8 images, got \(1, 10\)"):
        validate_model(Net(), batch=BATCH)


def test_comparing_rows_costs_twice_as_much_for_twice_as_many():
    """In floating-point operations, as torch counts them. If it fails, an embedding of 60,000 rows takes minutes."""
    counts = []
    for rows in (16384, 32768):
        with FlopCounterMode(display=False) as counter:
            _similar(torch.randn(rows, 64, generator=seeded()))
        counts.append(counter.get_total_flops())
    assert counts[1] <= 2.1 * counts[0]


def test_similar_rows_are_found_among_many():
    """Four copies, up to noise and sign, among 10,000 rows; without them the value is that of random rows. If it fails,
    rows that are compared in parts hide what lies in two of them."""
    rows = torch.randn(10_000, 64, generator=seeded())
    assert _similar(rows) < 0.8
    copies = rows[:4] * torch.tensor([[1.0], [-1.0], [2.0], [-3.0]])
    rows[5000:5004] = copies + 0.01 * torch.randn(copies.shape, generator=seeded(1))
    assert _similar(rows) > default_limits()["similar_rows"]
