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
def test_autograd_sees_the_whole_derivative_of_our_networks(name):
    """If it fails, each search pays for a comparison that it does not need."""
    g = torch.Generator().manual_seed(0)
    model = gia.models.build(name, num_classes=5, image_size=64, width=8, generator=g)
    images = torch.rand(2, 3, 64, 64, generator=g)
    for training in (False, True):
        assert backward._unseen(model.train(training), images) == []


class Calling(nn.Module):
    """Any function of a tensor as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("mean", torch.zeros(6, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def calling(function):
    """A victim with such a layer."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), Calling(function), nn.Conv2d(6, 6, 3, 2), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 5))


def without_gradient(_, x):
    """A gate that autograd takes for a constant."""
    with torch.no_grad():
        gate = x.sigmoid()
    return x * gate


def written_without_gradient(_, x):
    """The same, written into a tensor."""
    gate = torch.zeros(x.shape, dtype=x.dtype)
    with torch.no_grad():
        gate[:] = x
    return x * gate.sigmoid()


def hooked(_, x):
    """A sigmoid whose gradient is cut off on its way back."""
    y = x.sigmoid()
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient.detach())
    return y


CUT = {
    "detach": lambda _, x: x * x.detach().sigmoid(),
    "data": lambda _, x: x * x.data.sigmoid(),
    "sigmoid": without_gradient,
    "__setitem__": written_without_gradient,
    "item": lambda _, x: x.sigmoid() * x.square().mean().item(),
    "register_hook": hooked,
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_cut_off_from_the_graph_and_depends_on_the_images_is_refused_by_name(name):
    """If it fails, the search takes what depends on the images for a constant, and follows a wrong direction."""
    with pytest.raises(ValueError, match=rf"model: expected operations .* got {name} in 2 \(Calling\), with which"):
        search(calling(CUT[name]), False, torch.float32)


def softmax(_, x):
    """The largest logit is subtracted, which changes nothing but rounding."""
    exponentials = (x - x.detach().amax(1, keepdim=True)).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def running(layer, x):
    """A layer that keeps a running mean, which it does not use."""
    with torch.no_grad():
        layer.mean += 0.1 * (x.mean((0, 2, 3))[:, None, None] - layer.mean)
    return x.sigmoid()


def renormalized(layer, x):
    """A layer that subtracts a constant of its own."""
    return (x - layer.mean.detach()).sigmoid()


HONEST = {
    "the largest logit of a softmax": softmax,
    "a running mean": running,
    "a constant": renormalized,
    "a mask": lambda _, x: x * (x.detach() > 0),
    "the largest channel": lambda _, x: x * nn.functional.one_hot(x.argmax(1), 6).movedim(-1, 1).to(x),
    "zeros of the same form": lambda _, x: torch.maximum(x, torch.zeros_like(x)).sigmoid(),
}


@pytest.mark.parametrize("kind", HONEST)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_cut_that_leaves_the_derivative_as_it_is_passes(kind, training):
    """If it fails, a victim that is searched correctly is refused."""
    search(calling(HONEST[kind]), training, torch.float32)


def test_statistics_that_move_are_the_same_in_each_pass_of_the_comparison():
    """If it fails, a victim that reads a running mean is refused, since each pass of the comparison moves it."""

    def counted(layer, x):
        with torch.no_grad():
            layer.mean += 1 + 0 * x.mean()
        return (x * layer.mean[0]).sigmoid()

    double = calling(counted).double()
    names = [name for name, _ in double.named_parameters()]
    assert backward._unseen(double, IMAGES.double())
    assert backward._agrees(double, names, IMAGES.double(), LABELS, cross_entropy)


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
