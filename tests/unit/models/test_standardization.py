"""Standardization as a first layer that leaves no trace in names, parameters or gradients."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch.func import functional_call

from gia import models

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def net():
    """A bare network."""
    return models.build("resnet10", num_classes=4, image_size=8, width=4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images():
    """Five images in [0, 1]."""
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def by_hand(images):
    """(images - mean) / std, written out by channel."""
    return torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1)


def test_the_copy_standardizes_and_keeps_every_name(net, images):
    """If this fails, a captured gradient's names do not fit the victim, or its input is not standardized."""
    victim = models.standardize(net, mean=MEAN, std=STD)
    assert torch.allclose(victim(images), net(by_hand(images)), atol=1e-6)
    assert [name for name, _ in victim.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert list(victim.state_dict()) == list(net.state_dict())
    victim.load_state_dict(net.state_dict())
    assert type(victim) is type(net)


def test_the_bare_net_is_left_alone(net, images):
    """If this fails, standardizing a victim changes the one it came from."""
    net.eval()
    before = net(images)
    victim = models.standardize(net, mean=MEAN, std=STD)
    with torch.no_grad():
        next(victim.parameters()).zero_()
    assert torch.equal(net(images), before)


@pytest.mark.parametrize(
    "carry",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: _saved(model),
        lambda model: model.double().float(),
    ],
    ids=["deepcopy", "pickle", "torch.save", "to"],
)
def test_the_standardization_travels_with_the_model(net, images, carry):
    """If this fails, a copy sent to a worker process or another dtype takes other inputs."""
    victim = models.standardize(net.eval(), mean=MEAN, std=STD)
    expected = victim(images)
    assert torch.equal(carry(victim)(images), expected)


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    # The file was written two lines above; a whole module cannot be read with weights_only=True.
    return torch.load(buffer, weights_only=False)


def test_it_follows_dtype_and_functional_calls(net, images):
    """If this fails, float64 attacks lose precision in the first layer, or functional attacks skip it."""
    victim = models.standardize(net.eval(), mean=MEAN, std=STD)
    parameters = dict(victim.named_parameters())
    assert torch.equal(functional_call(victim, parameters, (images,)), victim(images))
    double = copy.deepcopy(victim).double()
    assert double(images.double()).dtype == torch.float64
    assert models.standardization(double)[0].dtype == torch.float64


def test_mean_and_std_can_be_read_back(net):
    """If this fails, an attack in standardized space has another box than the victim."""
    mean, std = models.standardization(models.standardize(net, mean=MEAN, std=STD))
    assert torch.equal(mean, torch.tensor(MEAN))
    assert torch.equal(std, torch.tensor(STD))
    assert [t.tolist() for t in models.standardization(net)] == [[0.0], [1.0]]
    assert [t.tolist() for t in models.standardization(models.standardize(net, mean=0.5, std=2))] == [[0.5], [2.0]]


def test_reading_back_gives_copies(net):
    """If this fails, an attack that edits the mean edits the victim."""
    victim = models.standardize(net, mean=MEAN, std=STD)
    models.standardization(victim)[0].zero_()
    assert torch.equal(models.standardization(victim)[0], torch.tensor(MEAN))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, (0.2, 0.2, 0.2), "mean, std: expected one number each or one per channel, got 1 and 3"),
        ((), (), "got 0 and 0"),
        (0.5, 0.0, "std: expected positive finite numbers, got [0.0]"),
        (float("nan"), 1.0, "mean: expected finite numbers, got [nan]"),
        (0.5, -1.0, "std: expected positive finite numbers, got [-1.0]"),
    ],
)
def test_bad_statistics_are_refused(net, mean, std, message):
    """If this fails, a zero or negative std turns images into infinities or negatives."""
    with pytest.raises(ValueError, match=re.escape(message)):
        models.standardize(net, mean=mean, std=std)


def test_standardizing_twice_is_refused(net):
    """If this fails, a victim is silently standardized twice."""
    with pytest.raises(ValueError, match="net: expected one that does not standardize its input yet"):
        models.standardize(models.standardize(net, mean=MEAN, std=STD), mean=MEAN, std=STD)
