"""The fast engine has one right answer: the plain engine's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gia import Observation, share_gradient
from gia.attacks.matching import Matching
from gia.attacks.objectives import Agreement, Cosine, Objective, SquaredDifferences
from gia.federated.losses import Loss
from gia.models import build, standardize

SIDE, CLASSES = 8, 4


class Residual(nn.Module):
    """Adds its input in place."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        out += x
        return out


class Twice(nn.Module):
    """Uses the same parameters twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class Functional(nn.Module):
    """Functional calls, a layer scale, a shift and an unused parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.scale = nn.Parameter(torch.empty(channels, 1, 1))
        self.shift = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.unused = nn.Parameter(torch.empty(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.scale * F.conv2d(x, self.kernel, padding="same") + self.shift)


class Contiguous(torch.autograd.Function):
    """Images and their derivatives of any order laid out row by row.

    Where those of a single image are laid out by channels last, torch 2.14's own backward of BatchNorm2d on CPUs reads
    the wrong entries (`native_batch_norm_backward`), and the oracle would be none.
    """

    @staticmethod
    def forward(ctx, images):
        return images.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx, derivative):
        return Contiguous.apply(derivative)


class Tokens(nn.Module):
    """Self-attention between pixels, with a class token, as in a vision transformer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)
        self.feed = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = Contiguous.apply(x)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).mT], 1)
        tokens = self.norm(tokens)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = tokens + F.gelu(self.feed(tokens))
        return Contiguous.apply(tokens[:, 1:].mT.unflatten(2, x.shape[2:]) + tokens[:, :1].mT.unsqueeze(3))


class Head(nn.Module):
    """Pooling and a linear layer."""

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(cells)
        self.body = nn.Linear(channels * cells * cells, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.pool(x).flatten(1))


ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.GELU, lambda: nn.ReLU(inplace=True), lambda: nn.ELU(inplace=True))


@st.composite
def layers(draw: st.DrawFn, channels: int) -> nn.Module:
    """A layer that keeps the number of channels."""
    kind = draw(
        st.sampled_from(["conv", "depth", "batch", "group", "residual", "twice", "functional", "tokens", "pool"])
    )
    bias = draw(st.booleans())
    if kind == "conv":
        padding = draw(st.sampled_from([0, 1, (1, 2), "same"]))
        size = draw(st.sampled_from([1, 3] if padding == "same" else [1, 2, 3]))  # torch warns of the others
        dilation = draw(st.integers(1, 2))
        stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, (2, 1)]))
        mode = draw(st.sampled_from(["zeros", "reflect", "circular"])) if padding != 0 else "zeros"
        groups = draw(st.sampled_from([1, 2]))
        return nn.Conv2d(
            channels, channels, size, stride, padding, dilation=dilation, groups=groups, bias=bias, padding_mode=mode
        )
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(2, channels)
    if kind == "residual":
        inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=bias), nn.BatchNorm2d(channels))
        return Residual(inner)
    if kind == "twice":
        return Twice(nn.Conv2d(channels, channels, 3, padding=1, bias=bias))
    if kind == "functional":
        return Functional(channels)
    if kind == "tokens":
        return Tokens(channels)
    if kind == "pool":
        return draw(st.sampled_from([nn.AvgPool2d(2, ceil_mode=True), nn.MaxPool2d(2, ceil_mode=True)]))
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


@st.composite
def victims(draw: st.DrawFn) -> nn.Module:
    """A few of them on a first convolution, with weights and statistics of order one, standardized or not."""
    channels = draw(st.sampled_from([4, 8]))
    body: list[nn.Module] = [nn.Conv2d(3, channels, draw(st.integers(1, 4)), padding=1)]
    for _ in range(draw(st.integers(1, 3))):
        body += [draw(layers(channels)), draw(st.sampled_from(ACTIVATIONS))()]
    net = nn.Sequential(*body, Head(channels, draw(st.integers(1, 2))))
    try:
        net(torch.zeros(1, 3, SIDE, SIDE))
    except (RuntimeError, ValueError):  # a kernel larger than the remaining image, one pixel for batch statistics
        reject()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(-0.7, 0.7, generator=generator))
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.empty(buffer.shape).uniform_(0.2, 1.5, generator=generator))
    return standardize(net, mean=0.4, std=0.3) if draw(st.booleans()) else net


def mixed(agreement: Agreement) -> Tensor:
    """An objective of all four sums that is in no library."""
    weights = torch.arange(1.0, len(agreement.names) + 1).to(agreement.inner)
    ratio = (weights * agreement.inner).sum(-1) / (1 + agreement.squared.sum(-1) + agreement.target_squared.sum(-1))
    return ratio + (weights * agreement.difference).sum(-1).sqrt()


def by_layer(agreement: Agreement) -> Tensor:
    """A cosine per parameter."""
    norms = (agreement.squared * agreement.target_squared).clamp_min(1e-30).sqrt()
    return (1 - agreement.inner / norms).sum(-1)


def shifted(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss that is no cross-entropy."""
    return F.cross_entropy(logits, labels, label_smoothing=0.2) + 0.1 * logits.square().mean()


OBJECTIVES: Sequence[Objective] = (
    Cosine(),
    Cosine(weights={"0.weight": 3.0}),
    Cosine(layers=("0.",)),
    SquaredDifferences(scale=0.1),
    mixed,
    by_layer,
)
LOSSES: Sequence[Loss] = (F.cross_entropy, shifted)


@dataclass(repr=False)
class Problem:
    """What a client shared, and a point of the search for it."""

    model: nn.Module
    observations: list[Observation]
    images: Tensor
    labels: Tensor
    objective: Objective
    loss: Loss

    def __repr__(self) -> str:
        return f"{self.model} {self.observations[0]} {tuple(self.images.shape)} {self.objective} {self.loss}"

    def matching(self, engine: str, dtype: torch.dtype = torch.float64) -> Matching:
        model = copy.deepcopy(self.model).to(dtype)
        observations = [
            Observation(
                gradients={name: value.to(dtype) for name, value in one.gradients.items()},
                image_shape=one.image_shape,
                batch_size=one.batch_size,
                training=one.training,
                trainable=one.trainable,
            )
            for one in self.observations
        ]
        return Matching(model, observations, objective=self.objective, loss=self.loss, engine=engine)  # type: ignore[arg-type]

    def by(self, engine: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        values, images, _ = self.matching(engine, dtype)(self.images.to(dtype), self.labels)
        return values, images


@st.composite
def problems(draw: st.DrawFn, objectives: Sequence[Objective] = OBJECTIVES) -> Problem:
    """Trials on a victim: private batches or restarts, all parameters or some, random, constant or saturated points."""
    model = draw(victims()).double()
    names = [name for name, _ in model.named_parameters()]
    kept = draw(st.sets(st.sampled_from(names), min_size=1)) | {"0.weight"} if draw(st.booleans()) else names
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
    trials, batch = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    training = draw(st.booleans())
    loss = draw(st.sampled_from(LOSSES))
    labels = torch.randint(CLASSES, (trials, batch), generator=generator)
    private = torch.rand(trials, batch, 3, SIDE, SIDE, generator=generator)
    observations = [
        share_gradient(model, images, chosen, loss=loss, training=training)
        for images, chosen in zip(private, labels, strict=True)
    ]
    if draw(st.booleans()):
        observations = observations[:1] * trials  # restarts
    made = {
        "random": torch.rand(private.shape, generator=generator, dtype=torch.float64),
        "constant": torch.full(private.shape, 0.5, dtype=torch.float64),
        "saturated": torch.rand(private.shape, generator=generator).round().double(),
    }
    return Problem(
        model, observations, made[draw(st.sampled_from(sorted(made)))], labels, draw(st.sampled_from(objectives)), loss
    )


def relative(found: Tensor, expected: Tensor, least: float) -> float:
    """Distance by length. What is shorter than `least` is a difference of terms of order one, and mostly rounding."""
    return float((found - expected).norm() / expected.norm().clamp_min(least))


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_values_and_image_gradients_are_those_of_double_backward(problem: Problem) -> None:
    """The fast engine would search for something else than the attack says."""
    (values, images), (expected, gradient) = problem.by("taps"), problem.by("plain")
    assert relative(values, expected, least=1e-2) < 1e-10
    assert relative(images, gradient, least=1e-5) < 1e-10


def test_parameters_that_are_used_twice_get_the_sum_of_both_uses() -> None:
    """One of the uses would be lost; whether a drawn victim has such parameters hangs on the draw."""
    generator = torch.Generator().manual_seed(0)
    shared = Twice(nn.Conv2d(3, 3, 3, padding=1)), nn.Flatten(), Twice(nn.Linear(3 * SIDE**2, 3 * SIDE**2))
    model = nn.Sequential(*shared, nn.Linear(3 * SIDE**2, CLASSES)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) / 4 - 1 / 8)
    labels = torch.randint(CLASSES, (2, 2), generator=generator)
    private, images = torch.rand(2, 2, 2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    observations = [share_gradient(model, *pair) for pair in zip(private, labels, strict=True)]
    problem = Problem(model, observations, images, labels, Cosine(), F.cross_entropy)
    (values, found), (expected, gradient) = problem.by("taps"), problem.by("plain")
    assert relative(values, expected, least=1e-2) < 1e-10
    assert relative(found, gradient, least=1e-5) < 1e-10


@pytest.mark.parametrize("engine", ["plain", "taps"])
@settings(max_examples=20, deadline=None)
@given(problem=problems())
def test_the_objective_alone_is_the_one_that_comes_with_a_gradient(engine: str, problem: Problem) -> None:
    """A search without gradients would minimize something else, or hold a graph of all its candidates."""
    expected, _ = problem.by(engine)
    alone = problem.matching(engine).values(problem.images, problem.labels)
    assert relative(alone, expected, least=1e-2) < 1e-12
    assert not alone.requires_grad


@pytest.mark.parametrize("objective", [Cosine(), SquaredDifferences()], ids=["cosine", "squared"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("name", "activation"), [("convnet", "gelu"), ("resnet10", "silu"), ("mlp", "tanh")])
def test_float32_is_at_most_four_times_as_wrong_as_double_backward(
    name: str, activation: str, training: bool, objective: Objective
) -> None:
    """Sums in low precision would turn the signs that the attack follows. Smooth: at a kink both may honestly jump."""
    generator = torch.Generator().manual_seed(0)
    model = build(
        name, num_classes=CLASSES, image_size=8, width=32, activation=activation, generator=generator
    ).double()
    labels = torch.randint(CLASSES, (6, 2), generator=generator)
    private, images = torch.rand(2, 6, 2, 3, 8, 8, generator=generator, dtype=torch.float64)
    pairs = zip(private, labels, strict=True)
    observations = [share_gradient(model, *pair, training=training) for pair in pairs]
    problem = Problem(model, observations, images, labels, objective, F.cross_entropy)
    _, exact = problem.by("plain")
    plain, taps = (relative(problem.by(engine, torch.float32)[1].double(), exact, 0) for engine in ("plain", "taps"))
    assert taps <= 4 * plain


def assert_as_double_backward(body: nn.Module) -> None:
    """Both engines agree on two trials of two images, on this body and a linear layer."""
    generator = torch.Generator().manual_seed(7)
    features = body(torch.zeros(1, 3, SIDE, SIDE)).numel()
    net = nn.Sequential(body, nn.Tanh(), nn.Flatten(), nn.Linear(features, CLASSES)).double()
    images = torch.rand(2, 2, 2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (2, 2), generator=generator)
    shared = [share_gradient(net, *pair) for pair in zip(images[0], labels, strict=True)]
    problem = Problem(net, shared, images[1], labels, Cosine(), F.cross_entropy)
    (values, slopes), (expected, gradient) = problem.by("taps"), problem.by("plain")
    assert relative(values, expected, least=1e-2) < 1e-10
    assert relative(slopes, gradient, least=1e-5) < 1e-10


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, (2, 1)], ids=str)
@pytest.mark.parametrize(("size", "padding"), [((2, 3), (0, 2)), ((2, 3), (1, 0)), (3, 2)], ids=str)
def test_grouped_and_oddly_padded_convolutions_have_the_gradients_of_double_backward(groups, stride, size, padding):
    """Random nets seldom combine groups, uneven padding and strides, and each needs its own rule."""
    convolution = nn.Conv2d(4, 8, size, stride, padding, groups=groups)
    assert_as_double_backward(nn.Sequential(nn.Conv2d(3, 4, 3, padding=(2, 0)), nn.Tanh(), convolution))


def test_a_convolution_that_stays_factored_may_be_padded_unevenly() -> None:
    """Large kernels at few places are unfolded, which random nets are too small for."""
    assert_as_double_backward(nn.Sequential(nn.Conv2d(3, 64, (SIDE - 1, SIDE + 1), padding=(0, 1))))
