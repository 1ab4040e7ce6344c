"""The layers that clients, servers and attacks look for in a model, and the one loop of local SGD."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gia
from gia import LocalTraining
from gia.federated import server
from gia.federated.layers import BatchStatistics, classifier
from gia.federated.local_sgd import local_sgd
from tests.contracts.cases import tangled
from tests.contracts.snapshots import global_state, model_state


class Early(nn.Module):
    """A classifier that is listed before another layer, which runs but does not yield the logits."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Linear(12, 3)
        self.unused = nn.Linear(12, 3)

    def forward(self, images):
        """(N, 3, 2, 2) -> (N, 3)."""
        self.unused(images.flatten(1))
        return self.logits(images.flatten(1))


def test_the_classifier_is_the_layer_that_yields_the_logits():
    """If it fails, labels are read from the gradient of another layer, or fishing edits one."""
    images = torch.zeros(2, 3, 2, 2)
    assert classifier(Early(), images) == "logits"
    assert server.classifier is classifier


@pytest.mark.parametrize("name", gia.models.NAMES)
def test_in_networks_of_this_project_the_classifier_is_the_last_linear_layer(name):
    """If it fails, the answer depends on whether images are given, and fishing edits a hidden layer."""
    options = {"stem": "3x3"} if name in ("alexnet", "googlenet") else {}
    sizes = {"num_classes": 4, "image_size": 32, "width": 8}
    model = gia.models.build(name, generator=torch.Generator().manual_seed(0), **sizes, **options)
    before = model_state(model), global_state()
    assert classifier(model) == classifier(model, torch.zeros(2, 3, 32, 32))
    assert (model_state(model), global_state()) == before


def test_a_model_without_a_classifier_is_named():
    """If it fails, a server edits nothing, or a layer without the bias that it needs."""
    images = torch.zeros(2, 3, 2, 2)
    without = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    assert classifier(without, images, bias=False) == "1"
    with pytest.raises(
        ValueError, match=r"model: expected a linear classifier with a bias .*got the linear layers \['1'\]"
    ):
        classifier(without, images)
    activated = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU())
    with pytest.raises(ValueError, match="model: expected a linear classifier that yields the logits"):
        classifier(activated, images, bias=False)


def test_statistics_of_several_batches_are_those_of_each_alone():
    """If it fails, the trials of an attack share their batch statistics."""
    model = tangled().double()
    images = torch.rand(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad(), BatchStatistics(model, trials=3) as together:
        model(images.flatten(0, 1))
    for trial, batch in enumerate(images):
        with torch.no_grad(), BatchStatistics(model) as alone:
            model(batch)
        assert list(alone.seen) == list(together.seen)
        for name, moments in alone.seen.items():
            for one, several in zip(moments, together.seen[name], strict=True):
                torch.testing.assert_close(several[trial], one)


def test_only_the_named_layers_are_recorded_and_only_within_the_block():
    """If it fails, hooks stay on the model, or a prior compares layers whose statistics it does not know."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    with BatchStatistics(model, layers=["1"], detach=False) as statistics:
        model(images)
    assert list(statistics.seen) == ["1"]
    assert statistics.seen["1"][0].requires_grad
    statistics.seen.clear()
    model(images)
    assert not statistics.seen


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_fused_step_is_that_of_torch_bit_for_bit(momentum):
    """Against `torch.optim.SGD` on a quadratic loss. If it fails, every stored update of a client changes."""
    start = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    target = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    weight = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=momentum)
    for _ in range(6):
        weight.grad = weight.detach() - target
        optimizer.step()
    places = []

    def gradient(weights, epoch, place):
        places.append((epoch, place.start, place.stop))
        return {"w": weights["w"] - target}

    local = LocalTraining(epochs=2, batch_size=2, lr=0.1, momentum=momentum)
    update = local_sgd({"w": start}, gradient, images=5, local=local, fused=True)["w"]
    assert update.equal(start - weight.detach())
    assert places == [(epoch, first, first + 2) for epoch in range(2) for first in (0, 2, 4)]
