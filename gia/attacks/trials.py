"""An attack is written once, over trials; this is how one trial of it is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from gia.attacks.reconstruction import Reconstruction
from gia.federated import Observation

LEAVES = ("OP", "GEN-z", "GEN-W", "GEN-inverter", "ANA-architecture", "ANA-parameters")


@dataclass(frozen=True)
class Card:
    """What an attack is and what it needs.

    Attributes:
        leaf: its place in the paper's taxonomy (Fig. 1), one of `LEAVES`.
        needs: what it relies on beyond gradients and weights: "labels", "decoder", "auxiliary", "malicious_server",
            "linear_input".
        iterative: whether it searches (and so has `steps`, an objective and a callback).
        source: the publication.
    """

    leaf: str
    needs: frozenset[str]
    iterative: bool
    source: str


class Attack(Protocol):
    """(model, observation, *, generator, **settings) -> Reconstruction, with its card and its form over trials."""

    __name__: str
    card: Card
    many: Callable[..., list[Reconstruction]]

    def __call__(
        self, model: nn.Module, observation: Observation, *, generator: torch.Generator, **settings: Any
    ) -> Reconstruction: ...


def attack(card: Card) -> Callable[[Callable[..., list[Reconstruction]]], Attack]:
    """Make a function over trials (model, observations, *, generators, ...) callable for a single observation."""

    def decorate(over_trials: Callable[..., list[Reconstruction]]) -> Attack:
        many = torch.enable_grad()(over_trials)  # an attack differentiates, whatever the caller's mode

        @functools.wraps(many)
        def one(
            model: nn.Module, observation: Observation, *, generator: torch.Generator, **settings: Any
        ) -> Reconstruction:
            return many(model, [observation], generators=[generator], **settings)[0]

        signature = inspect.signature(many)
        single = {"observations": ("observation", Observation), "generators": ("generator", torch.Generator)}
        one.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                p.replace(name=single[p.name][0], annotation=single[p.name][1]) if p.name in single else p
                for p in signature.parameters.values()
            ],
            return_annotation=Reconstruction,
        )
        one.card, one.many = card, many  # type: ignore[attr-defined]
        return cast(Attack, one)

    return decorate


def check_trials(model: nn.Module, observations: Sequence[Observation], generators: Sequence[torch.Generator]) -> None:
    """Raise ValueError unless the observations fit the model, agree in form, and have one generator each."""
    if isinstance(observations, Observation) or not all(isinstance(each, Observation) for each in observations):
        raise TypeError("observations: expected a sequence of gia.Observation; Observation.from_tensors makes one")
    if not observations:
        raise ValueError("observations: expected at least one, got none")
    if len(generators) != len(observations):
        raise ValueError(f"generators: expected {len(observations)}, one per observation, got {len(generators)}")
    if not all(isinstance(generator, torch.Generator) for generator in generators):
        raise TypeError(f"generators: expected torch.Generator instances, got {[type(g).__name__ for g in generators]}")
    for observation in observations:
        observation.check(model)
    for name in ("image_shape", "batch_size", "training", "local", "trainable"):
        values = {getattr(observation, name) for observation in observations}
        if len(values) > 1:
            raise ValueError(f"observations: trials must agree in {name}, got {values}")
    if len({observation.labels is None for observation in observations}) > 1:
        raise ValueError("observations: either all trials have labels or none")
