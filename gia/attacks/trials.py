"""What makes a function a gia attack: its card, its form over several trials, and checked arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, cast

import torch
from torch import Tensor, nn

from gia.attacks.identity import identified
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.errors import expected_one_of
from gia.federated import Observation
from gia.federated.victims import differentiating

#: Place in the taxonomy -> the attack type's short id (in options and ids of claims) and its name in the paper.
TYPES = {
    "OP": ("op", "OP-GIA"),
    "GEN-z": ("gen_z", "GEN-GIA, latent z"),
    "GEN-W": ("gen_w", "GEN-GIA, weights W"),
    "GEN-inverter": ("gen_inv", "GEN-GIA, inverter"),
    "ANA-architecture": ("ana_arch", "ANA-GIA, architecture"),
    "ANA-parameters": ("ana_param", "ANA-GIA, parameters"),
}
LEAVES = tuple(TYPES)
NEEDS = ("labels", "decoder", "auxiliary", "malicious_server", "linear_input", "patch_tokens", "patch_embedding")

P = ParamSpec("P")


@dataclass(frozen=True)
class Card:
    """What an attack is and what it needs.

    Args:
        leaf: its place in the taxonomy of arXiv 2503.11514, Fig. 1: one of "OP", "GEN-z", "GEN-W", "GEN-inverter",
            "ANA-architecture" and "ANA-parameters".
        needs: what it uses in addition to gradients and weights: any of "labels", "decoder", "auxiliary" (images like
            the private ones), "malicious_server", "linear_input" (a linear layer that sees the image),
            "patch_tokens" (a Vision Transformer whose first block is trained, or adapters in it) and "patch_embedding"
            (a Vision Transformer whose patch and position embeddings are trained).
        iterative: whether it searches. A search has `steps`, an objective and a callback.
        source: the publication.
        steps: batch size -> number of steps, for a search that chooses it by itself where `steps` is None.

    Raises ValueError for an unknown leaf or need.

    >>> from gia.attacks import Card
    >>> Card(leaf="OP", needs=frozenset({"labels"}), iterative=True, source="Doe et al., 2026").leaf
    'OP'
    """

    leaf: str
    needs: frozenset[str]
    iterative: bool
    source: str
    steps: Callable[[int], int] | None = None

    def __post_init__(self) -> None:
        if self.leaf not in LEAVES:
            raise ValueError(expected_one_of("leaf", self.leaf, LEAVES))
        for need in sorted(self.needs):
            if need not in NEEDS:
                raise ValueError(expected_one_of("needs", need, NEEDS))


class Attack(Protocol):
    """A gia attack: a function (model, observation, *, generator, **settings) -> Reconstruction with three attributes.

    Attributes:
        card: what it is and what it needs.
        many: the same attack on several observations of one victim, (model, observations, *, generators, **settings)
            -> list of reconstructions. `gia.attacks.run_many` calls it.
        terms: its matching term at each of several images, (model, observation, sequence of images, labels, **settings)
            -> list of floats; None for an attack that does not search. `gia.attacks.data_terms` calls it.

    >>> import gia
    >>> gia.attacks.dlg.card.leaf
    'OP'
    """

    __name__: str
    card: Card
    many: Callable[..., list[Reconstruction]]
    terms: Callable[..., list[float]] | None

    def __call__(
        self, model: nn.Module, observation: Observation, *, generator: torch.Generator, **settings: Any
    ) -> Reconstruction: ...


class TypedAttack(Attack, Protocol[P]):
    """An `Attack` that a type checker knows by the signature P that stands in its source."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Reconstruction: ...  # type: ignore[override]


def attack(
    card: Card, *, many: Callable[..., list[Reconstruction]], terms: Callable[..., list[float]] | None = None
) -> Callable[[Callable[P, Reconstruction]], TypedAttack[P]]:
    """Make a function for one observation a gia attack.

    The function becomes one that checks its arguments and runs with gradients enabled, whatever the caller's mode.

    Args:
        card: what the attack is and what it needs.
        many: the attack over trials, (model, observations, *, generators, **settings). It has the settings of the
            decorated function and no defaults: those of the decorated function hold for both.
        terms: the matching terms of a search, (model, observation, images, labels, **settings), also without defaults.
    """

    def decorate(function: Callable[P, Reconstruction]) -> TypedAttack[P]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def one(*args: P.args, **kwargs: P.kwargs) -> Reconstruction:
            check_settings(function, kwargs, besides=("model", "observation", "generator"))
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            _check_instance("observation", given["observation"], Observation)
            _check_instance("generator", given["generator"], torch.Generator)
            model, observation, generator = (given.pop(name) for name in ("model", "observation", "generator"))
            with differentiating(), identified(function, model, [observation], [generator], given):
                return function(*args, **kwargs)

        def completed(model: nn.Module, given: object, settings: Mapping[str, Any]) -> dict[str, Any]:
            check_settings(function, settings)
            bound = signature.bind(model, given, generator=None, **settings)
            bound.apply_defaults()
            return {name: bound.arguments[name] for name in settings_of(function) or ()}

        @functools.wraps(many)
        def over_trials(
            model: nn.Module,
            observations: Sequence[Observation],
            *,
            generators: Sequence[torch.Generator],
            **settings: Any,
        ) -> list[Reconstruction]:
            complete = completed(model, observations, settings)
            with differentiating(), identified(function, model, observations, generators, complete):
                return many(model, observations, generators=generators, **complete)

        def terms_at(
            model: nn.Module, observation: Observation, images: Sequence[Tensor], labels: Tensor | None, **settings: Any
        ) -> list[float]:
            assert terms is not None
            return terms(model, observation, images, labels, **completed(model, observation, settings))

        one.card, one.many, one.terms = card, over_trials, terms_at if terms else None  # type: ignore[attr-defined]
        return cast(TypedAttack[P], one)

    return decorate


def settings_of(function: Callable[..., Any]) -> list[str] | None:
    """The settings of an attack: all parameters but model, observation and generator. None if it takes any name."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    named = [p.name for p in parameters[2:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [name for name in named if name != "generator"]


def check_settings(function: Callable[..., Any], given: Collection[str], *, besides: Sequence[str] = ()) -> None:
    """Raise TypeError where a given name is neither a setting of the attack nor one of `besides`."""
    known = settings_of(function)
    for name in given:
        if known is not None and name not in known and name not in besides:
            raise TypeError(expected_one_of("setting", name, known))


def one_by_one(
    attacked: Callable[[Observation, torch.Generator], Reconstruction],
    observations: Sequence[Observation],
    generators: Sequence[torch.Generator],
) -> list[Reconstruction]:
    """What a function returns for each observation; no image where it finds nothing, as for a client that sent zeros.

    Raises `NothingFound` where it finds nothing for any of them.
    """
    results: list[Reconstruction] = []
    missed: list[NothingFound] = []
    for observation, generator in zip(observations, generators, strict=True):
        try:
            results.append(attacked(observation, generator))
        except NothingFound as nothing:
            missed.append(nothing)
            images = next(iter(observation.gradients.values())).new_empty(0, *observation.image_shape)
            results.append(Reconstruction(images=images, lost=1))
    if len(missed) == len(results):
        raise missed[0]
    return results


def _check_instance(argument: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        hint = "; Observation.from_tensors makes one of tensors" if kind is Observation else ""
        expected = "gia.Observation" if kind is Observation else "torch.Generator"
        raise TypeError(f"{argument}: expected a {expected}, got {type(value).__name__}{hint}")


def check_trials(model: nn.Module, observations: Sequence[Observation], generators: Sequence[torch.Generator]) -> None:
    """Raise unless the observations fit the model, agree in form, and have one generator each.

    Raises TypeError for values of other types, ValueError otherwise.
    """
    if isinstance(observations, Observation) or not all(isinstance(each, Observation) for each in observations):
        kind = type(observations).__name__
        raise TypeError(f"observations: expected a sequence of gia.Observation, got {kind}; from_tensors makes one")
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
            raise ValueError(f"observations: expected the same {name} in all trials, got {values}")
    if len({observation.labels is None for observation in observations}) > 1:
        raise ValueError("observations: expected labels in all trials or in none, got some with and some without")
