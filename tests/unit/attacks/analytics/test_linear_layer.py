"""The linear layer in closed form: what is recovered, what is believed to be exact, and what cannot be attacked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gia
from gia.attacks.analytics import linear_layer
from tests.contracts.cases import CLASSES, SIZE, private

PIXELS = 3 * SIZE * SIZE


def seeded(seed=0):
    """A generator."""
    return torch.Generator().manual_seed(seed)


def mlp(seed=0, dtype=torch.float64, **options):
    """A multilayer perceptron on the images."""
    settings = {"num_classes": CLASSES, "image_size": SIZE, "width": 64, **options}
    return gia.models.build("mlp", generator=seeded(seed), dtype=dtype, **settings)


def attacked(model, images, labels, *, share=gia.share_gradient, observed=None, **settings):
    """The reconstruction of what is shared of a batch."""
    observation = share(model, images, labels, **(observed or {}))
    return linear_layer(model, observation, generator=seeded(), **settings)


def nearest(found, images):
    """Of each reconstruction, the largest error of a pixel against the private image next to it."""
    return (found.images[:, None] - images[None]).abs().amax((2, 3, 4)).amin(1)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("standardized", [False, True])
def test_a_single_image_is_exact(dtype, error, standardized):
    """Within the thresholds of the metrics' convention. If it fails, the quotient is of another row, or not brought
    back to pixels."""
    model = mlp(dtype=dtype)
    if standardized:
        model = gia.models.standardize(model, mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])
    for i in range(4):
        images, labels = private(dtype, i)
        found = attacked(model, images, labels)
        assert found.images.shape == images.shape
        assert found.exact.tolist() == [True]
        assert (found.images - images).abs().max() <= error
        assert (found.objective, found.gradient_evaluations) == (None, 0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("labels", ["distinct", "equal"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_what_is_believed_to_be_exact_is(dtype, error, labels, classes):
    """Four real images, eight victims. If it fails, averages pass for images: with two classes the quotients of all
    neurons with the same images agree, and with equal labels in float32 they nearly do."""
    believed = 0
    for seed in range(8):
        model = mlp(seed, dtype, num_classes=classes)
        images, _ = private(dtype, *torch.randperm(20, generator=seeded(seed))[:4].tolist())
        chosen = torch.zeros(4, dtype=torch.int64) if labels == "equal" else torch.arange(4) % classes
        found = attacked(model, images, chosen)
        assert (nearest(found, images)[found.exact] <= error).all()
        believed += int(found.exact.sum())
    assert believed >= 8


def test_candidates_are_distinct_and_the_strongest_comes_first():
    """If it fails, one image is returned many times over, or `images[0]` is a neuron that was hardly active."""
    model = mlp()
    images, labels = private(torch.float64, 0, 1, 2)
    observation = gia.share_gradient(model, images, labels)
    found = linear_layer(model, observation, generator=seeded())
    weight, bias = observation.gradients["layers.0.weight"], observation.gradients["layers.0.bias"]
    first = int(bias.abs().argmax())
    assert found.images[0].flatten().equal(weight[first] / bias[first])
    flat = found.images.flatten(1)
    apart = (flat[:, None] - flat[None]).abs().amax(2) + torch.eye(len(flat), dtype=torch.float64)
    assert apart.min() > 1e-9
    assert 3 < len(flat) <= int((bias != 0).sum())


def test_a_single_local_step_is_as_good_as_a_gradient_and_several_are_not_believed():
    """If it fails, an update after several steps is called exact, or one after a single step is not."""
    model = mlp()
    images, labels = private(torch.float64, 0, 1, 2)
    reveal = {"reveal": ("local",)}
    one = gia.LocalTraining(epochs=1, batch_size=3, lr=0.1)
    found = attacked(model, images, labels, share=gia.share_update, observed={"local": one, **reveal}, agreement=1e-7)
    assert found.exact.any()
    assert (nearest(found, images)[found.exact] < 1e-6).all()
    for local in (gia.LocalTraining(2, 3, 0.1), gia.LocalTraining(1, 2, 0.1)):
        for count in (3, 1):
            if local.epochs * -(-count // local.batch_size) == 1:
                continue
            found = attacked(
                model, images[:count], labels[:count], share=gia.share_update, observed={"local": local, **reveal}
            )
            assert not found.exact.any()


def test_images_tied_by_batch_statistics_are_not_called_exact():
    """If it fails, a belief rests on a signal that no single image could have caused."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)).double()
    images, _ = private(torch.float64, 0, 1, 2, 3)
    found = attacked(model, images, torch.tensor([0, 1, 0, 1]), observed={"training": True})
    assert (nearest(found, images)[found.exact] <= 1e-9).all()


def test_the_layer_is_one_that_sees_the_image_itself():
    """If it fails, the quotient of a later layer, or of one that sees other pixels, is called an image."""
    images, labels = private(torch.float64, 0)
    late = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(PIXELS, 8), nn.Sigmoid(), nn.Linear(8, CLASSES)).double()
    with pytest.raises(
        ValueError, match="layer: expected a linear layer with shared weight and bias that sees the image"
    ):
        attacked(late, images, labels)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES, bias=False)).double()
    with pytest.raises(ValueError, match="layer: expected a linear layer with shared weight and bias"):
        attacked(plain, images, labels)
    model = mlp(hidden=(16, PIXELS, 16))
    assert (attacked(model, images, labels, layer="layers.0").images - images).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"layer: expected a linear layer .* one of \['layers\.0'\], got 'layers\.2'"):
        attacked(model, images, labels, layer="layers.2")
    model.layers[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="layer: expected a linear layer with shared weight and bias"):
        attacked(model, images, labels)


def test_neurons_that_saw_nothing_are_not_divided_by():
    """If it fails, images are NaN, or infinite, wherever a neuron was silent."""
    model = mlp()
    images, labels = private(torch.float64, 0, 1)
    with torch.no_grad():
        model.layers[0].bias[:32] = -1e3
    found = attacked(model, images, labels)
    assert found.images.isfinite().all()
    assert len(found.images) <= 32
    with torch.no_grad():
        model.layers[0].bias.fill_(-1e3)
    with pytest.raises(
        gia.attacks.NothingFound, match=r"gradients: expected an active neuron of 'layers\.0', got a bias"
    ):
        attacked(model, images, labels)
