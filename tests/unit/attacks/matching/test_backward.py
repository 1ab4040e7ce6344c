"""Backward passes that autograd cannot differentiate are found before a search trusts them; no others are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gia
from gia.attacks.matching import backward
from gia.models.activations import ACTIVATIONS

SEED = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(2, 3, 16, 16, generator=SEED), torch.tensor([1, 4])


class Opaque(torch.autograd.Function):
    """A sigmoid with a slope that autograd takes for a constant, as in a fused kernel."""

    @staticmethod
    def forward(ctx, x):
        y = x.sigmoid()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        with torch.no_grad():
            slope = y * (1 - y)
        return g * slope


class Once(Opaque):
    """The same, and it says so."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Opaque.backward))


class Right(Opaque):
    """The same with a slope that autograd sees."""

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y * (1 - y)


class Kinked(torch.autograd.Function):
    """ReLU: right, but for its kink."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x > 0)


class Applied(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def victim(function, dtype=torch.float32):
    """Two convolutions, a batch normalization, and the function between them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), Applied(function), nn.Conv2d(6, 6, 3, 2), Applied(function)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 5)).to(dtype)


def search(model, training, dtype):
    """One step of a search."""
    shared = gia.share_gradient(model, IMAGES.to(dtype), LABELS, reveal=("labels",), training=training)
    return gia.attacks.inverting_gradients(model, shared, generator=torch.Generator().manual_seed(0), steps=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_wrong_second_derivative_is_refused_by_name(training, dtype):
    """If it fails, the search follows a wrong direction without a word."""
    with pytest.raises(
        ValueError, match=r"model: expected operations that autograd differentiates twice.*2 \(Applied\)"
    ):
        search(victim(Opaque, dtype), training, dtype)
    with pytest.raises(ValueError, match=r"model: expected operations that .*differentiate.* twice.*\(Applied\)"):
        search(victim(Once, dtype), training, dtype)


@pytest.mark.parametrize("function", [Right, Kinked])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_right_backward_of_one_s_own_passes(function, training, dtype):
    """If it fails, the kinks of a ReLU or rounding are taken for a wrong derivative."""
    search(victim(function, dtype), training, dtype)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_the_derivatives_of_our_networks_agree_with_finite_differences(name, activation, training):
    """The comparison itself, which users' operations must pass: no false alarm, with every activation."""
    width = {"lenet": 4, "resnet8": 4}[name]
    g = torch.Generator().manual_seed(1)
    model = gia.models.build(
        name, num_classes=5, image_size=16, width=width, activation=activation, generator=g, dtype=torch.float64
    )
    names = [name for name, _ in model.named_parameters()]
    assert backward._agrees(model.train(training), names, IMAGES.double(), LABELS, cross_entropy)


@pytest.mark.parametrize("name", gia.models.NAMES)
def test_our_networks_have_no_backward_of_their_own(name):
    """If it fails, each search pays for a comparison that it does not need."""
    g = torch.Generator().manual_seed(0)
    model = gia.models.build(name, num_classes=5, image_size=64, width=8, generator=g)
    images = torch.rand(2, 3, 64, 64, generator=g)
    assert backward._own_backward(model, images) == []


def test_an_operation_that_does_not_run_in_float64_is_named_in_a_warning():
    """If it fails, a kernel for one dtype ends the search, or nobody learns that it was not checked."""

    class Single(Right):
        @staticmethod
        def forward(ctx, x):
            if x.dtype != torch.float32:
                raise RuntimeError("expected float32")
            return Right.forward(ctx, x)

    with pytest.warns(backward.UncheckedBackward, match=r"\(Applied\) could not be checked.*expected float32"):
        search(victim(Single), False, torch.float32)
