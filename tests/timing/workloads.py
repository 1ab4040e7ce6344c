"""What is timed: steps of gradient matching on the victims of the goals, and what they are compared with.

Everything is reached by public names of `gia` alone, since this file is also run on the `gia` of an older commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.attacks import robbing_the_fed, run_many
from gia.attacks.matching import Matching
from gia.attacks.objectives import Cosine
from gia.federated import LocalTraining, Observation, share_gradient, share_update
from gia.federated.server import imprint
from gia.models import build

Call = Callable[[], object]
#: Calls its argument before each step and never ends (`gia.harness.timing.bursts.Steps`).
Steps = Callable[[Callable[[], None]], object]

SEARCH = 24_000  # steps of the whole loop's search, which is held long before its end


@dataclass(frozen=True)
class Case:
    """A victim of images of 32 x 32 pixels, batch normalization in eval mode; a batch size; and trials at once."""

    victim: Literal["convnet", "resnet18"]
    batch_size: int
    trials: int
    width: int | None = None


#: The columns of the goals, by name. "small" has three convolutions of width 32, "R18" a stem of 3 x 3.
CASES: Mapping[str, Case] = {
    "small, 1": Case("convnet", 1, 32, width=32),
    "small, 4": Case("convnet", 4, 8, width=32),
    "R18, 1": Case("resnet18", 1, 4),
    "R18, 4": Case("resnet18", 4, 2),
}


@dataclass(frozen=True, eq=False)
class Setting:
    """A case with its tensors: every trial has other private images, and so another target.

    Attributes:
        images, starts: (R, B, 3, 32, 32); they are drawn, and need not be real to be timed.
        labels: (R, B).
    """

    victim: nn.Module
    images: Tensor
    starts: Tensor
    labels: Tensor
    observations: list[Observation]


@cache
def prepared(case: Case) -> Setting:
    """The tensors of a case, drawn from one seed."""
    generator = torch.Generator().manual_seed(0)
    settings: dict[str, Any] = {"stem": "3x3"} if case.victim == "resnet18" else {"width": case.width}
    victim = build(case.victim, num_classes=10, image_size=32, generator=generator, **settings).eval()
    images, starts = torch.rand(2, case.trials, case.batch_size, 3, 32, 32, generator=generator)
    labels = torch.arange(case.batch_size) % 10
    observations = [share_gradient(victim, private, labels, reveal=("labels",)) for private in images]
    return Setting(victim, images, starts, labels.expand(case.trials, -1).contiguous(), observations)


def forward(case: Case) -> Call:
    """A forward pass of all R * B images, without a graph."""
    setting = prepared(case)
    images = setting.images.flatten(0, 1)
    return torch.no_grad()(lambda: setting.victim(images))


def training(case: Case) -> Call:
    """A training step on the B images of one trial: forward, and backward to the weights."""
    setting = prepared(case)
    images, labels = setting.images[0], setting.labels[0]
    weights = list(setting.victim.parameters())
    return lambda: torch.autograd.grad(F.cross_entropy(setting.victim(images), labels), weights)


def core(case: Case, **engine: Literal["plain", "taps"]) -> Call:
    """The matching loss of R trials and its gradient to their images; `engine=` of `Matching` is for counts alone."""
    setting = prepared(case)
    matching = Matching(setting.victim, setting.observations, objective=Cosine(), loss=F.cross_entropy, **engine)
    return lambda: matching(setting.starts, setting.labels).images


def core_steps(case: Case) -> Steps:
    """`core`, step by step."""
    step = core(case)

    def steps(between: Callable[[], None]) -> None:
        while True:
            between()
            step()

    return steps


def loop_steps(case: Case) -> Steps:
    """Inverting Gradients on R observations: the core, Adam on the sign, total variation, the schedule and the box."""
    setting = prepared(case)

    def steps(between: Callable[[], None]) -> None:
        run_many(
            "inverting_gradients",
            setting.victim,
            setting.observations,
            generators=[torch.Generator().manual_seed(trial) for trial in range(case.trials)],
            steps=SEARCH,
            callback=lambda _: between(),
        )

    return steps


def stand_in(case: Case) -> Call:
    """One step of one trial as a peer's closure has it: `backward` into everything, nine forward passes."""
    setting = prepared(case)
    images = setting.starts[0].clone().requires_grad_()
    labels, weights = setting.labels[0], list(setting.victim.parameters())
    targets = list(setting.observations[0].gradients.values())
    optimizer = torch.optim.Adam([images], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [SEARCH * part // 8 for part in (3, 5, 7)])

    def step() -> None:
        optimizer.zero_grad()
        setting.victim.zero_grad()
        gradients = torch.autograd.grad(F.cross_entropy(setting.victim(images), labels), weights, create_graph=True)
        inner = torch.stack([(g * t).sum() for g, t in zip(gradients, targets, strict=True)]).sum()
        length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        wanted = torch.stack([t.square().sum() for t in targets]).sum().sqrt()
        across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
        down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
        value = 1 - inner / (length * wanted) + 1e-2 * (across + down)
        value.backward()
        assert images.grad is not None
        images.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)

    return step


def simulated() -> Call:
    """The matching loss of eight trials of "small, 4" and its gradient, through two simulated local steps each."""
    setting = prepared(Case("convnet", 4, 8, width=16))
    local = LocalTraining(epochs=1, batch_size=2, lr=0.05)
    observations = [
        share_update(setting.victim, images, labels, local=local, reveal=("labels", "local"))
        for images, labels in zip(setting.images, setting.labels, strict=True)
    ]
    matching = Matching(setting.victim, observations, objective=Cosine(), loss=F.cross_entropy)
    return lambda: matching(setting.starts, setting.labels).images


#: Pixels of a side, and bins, of the module that is decoded.
SIDE, BINS = 128, 512


@cache
def imprinted() -> tuple[nn.Module, Observation]:
    """A convnet behind an imprint module, and the gradient of eight images."""
    generator = torch.Generator().manual_seed(0)
    victim = build("convnet", num_classes=10, image_size=SIDE, width=16, generator=generator).eval()
    sent = imprint(victim, image_shape=(3, SIDE, SIDE), bins=BINS, generator=generator)
    brightness = torch.linspace(0.3, 0.7, 8).view(-1, 1, 1, 1)  # one image in a bin
    images = brightness + 0.2 * torch.rand(8, 3, SIDE, SIDE, generator=generator)
    return sent, share_gradient(sent, images, torch.arange(8))


def decode(*, prove: bool = True) -> Call:
    """Robbing the Fed, with its proof of exactness or without."""
    sent, observation = imprinted()
    generator = torch.Generator()
    return lambda: robbing_the_fed(sent, observation, generator=generator, prove=prove)


def decode_of_a_peer() -> Call:
    """The same images as breaching 0.1.2 computes them: every row's difference, and no proof."""
    gradients = imprinted()[1].gradients

    def decoded() -> Tensor:
        weight, bias = gradients["imprint.measure.weight"].clone(), gradients["imprint.measure.bias"].clone()
        for row in range(BINS - 1):
            weight[row] -= weight[row + 1]
            bias[row] -= bias[row + 1]
        rows = bias.nonzero().flatten().tolist()
        return torch.stack([weight[row] / bias[row] for row in rows]).view(-1, 3, SIDE, SIDE).clamp(0, 1)

    return decoded


def repeated(make: Callable[[], Call]) -> Steps:
    """A call, again and again."""
    call = make()

    def steps(between: Callable[[], None]) -> None:
        while True:
            between()
            call()

    return steps


def alone(case: Case) -> Case:
    """The case without restarts."""
    return Case(case.victim, case.batch_size, 1, case.width)


#: What is timed base against head: name -> set-up, which returns steps. Names are "what / case".
WORKLOADS: Mapping[str, Callable[[], Steps]] = {
    **{f"core / {name}": partial(core_steps, case) for name, case in CASES.items()},
    **{f"core without restarts / {name}": partial(core_steps, alone(case)) for name, case in CASES.items()},
    **{f"whole loop / {name}": partial(loop_steps, CASES[name]) for name in ("small, 1", "small, 4")},
    "local steps / small, 4": partial(repeated, simulated),
    "decode / imprint": partial(repeated, decode),
}
