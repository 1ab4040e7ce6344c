"""A toy protocol, and attacks that are watched instead of run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gia.attacks import Reconstruction
from gia.data import Images
from gia.experiment import Attacker, Batch, Fitting, Protocol, Scoring, Victim
from gia.experiment.controls import path_works
from gia.federated import LocalTraining, Observation
from gia.harness.blocks.block import Block

BLOCK = Block("toy.run", 0, {})
PROTOCOL = Protocol(
    victim=Victim(name="mlp", options={"width": 32}),
    batch=Batch(data="digits", image_size=8, images=4, pattern="distinct", pattern_batch=4),
    attacker=Attacker(attack="inverting_gradients", settings={"steps": 5, "total_variation": 0.0}),
    scoring=Scoring(metrics=("psnr", "rmse"), control=path_works),
)
FITTING = Fitting(epochs=2, half=1, lr=1e-2, accuracy=0.8)
LOCAL = LocalTraining(epochs=1, batch_size=2, lr=0.1)

#: The toy protocol on larger images.
FACES = PROTOCOL.with_({"batch.data": "faces", "batch.image_size": 16})


class Spy:
    """Stands in for `run_many`: records what every attack is given, and answers with `answer(observation)`."""

    def __init__(self, answer: Callable[[Observation], Tensor]) -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        attack: str,
        model: nn.Module,
        observations: Sequence[Observation],
        *,
        generators: Sequence[torch.Generator],
        **settings: Any,
    ) -> list[Reconstruction]:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        seeds = [generator.initial_seed() for generator in generators]
        self.calls.append({"state": state, "observations": observations, "seeds": seeds, "settings": settings})
        return [Reconstruction(images=self.answer(o), gradient_evaluations=7, objective=0.5) for o in observations]


def black(observation: Observation) -> Tensor:
    """A black image for each private one."""
    return torch.zeros(observation.batch_size, *observation.image_shape)


def with_state(state: Any, **changes: Any) -> Protocol:
    """The toy protocol on a victim in this state."""
    return PROTOCOL.with_({"fit": replace(FITTING, state=state, **changes)})


class Silent(nn.Module):
    """A net whose output does not depend on its weights."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Zeros."""
        return self.net(images) * 0


def silence(model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
    """An edit after which all gradients are zero."""
    return Silent(model)


def unchanged(model: nn.Module, public: Images, *, generator: torch.Generator) -> nn.Module:
    """An edit that takes the server's own images and does nothing."""
    return model


def bright(images: Images, *, generator: torch.Generator, cache: Any) -> nn.Module:
    """A judge that sees class 3 in a black image, else class 0."""

    class Bright(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            logits = torch.zeros(len(pictures), 10)
            logits[:, 3] = 1 - 2 * pictures.flatten(1).amax(1)
            return logits

    return Bright()


def stranger(model: nn.Module, observation: Observation, *, generator: torch.Generator, gain: float = 1.0) -> Any:
    """An attack from outside, without a card."""
    shape = (observation.batch_size, *observation.image_shape)
    return Reconstruction(images=gain * torch.rand(shape, generator=generator), gradient_evaluations=1)
