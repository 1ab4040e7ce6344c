"""Generative Gradient Leakage: a search over the latents of a trained decoder until its images' gradient matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.generation.decoding import (
    as_images,
    decoder_for,
    draw_latents,
    matched,
    reconstructions,
    takes_labels,
)
from gia.attacks.matching import (
    CMA,
    LEAST,
    Adam,
    Evaluate,
    Matching,
    Mirror,
    Point,
    Progress,
    UpdateRule,
    matching_terms,
    minimize,
)
from gia.attacks.matching.evolution import Generations
from gia.attacks.matching.problem import class_labels
from gia.attacks.objectives import Objective, SquaredDifferences
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.errors import expected_one_of
from gia.federated import Observation, set_mode
from gia.federated.losses import Loss, LossName, class_loss

Optimizer = Literal["cma", "adam"]

#: The matching term where none is given.
_OBJECTIVE: Objective = SquaredDifferences()


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    decoder: nn.Module | None,
    optimizer: Optimizer,
    steps: int,
    population: int,
    lr: float,
    bound: float | None,
    converged: float | None,
    objective: Objective | None,
    mirror: Sequence[Mirror],
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "ggl")
    _check(optimizer, population, lr, bound, mirror)
    problem = Matching(model, observations, objective=objective or _OBJECTIVE, loss=loss)
    labels = class_labels(problem, "ggl")
    decode = _Decode(decoder_for(decoder, problem.reference), problem.image_shape)
    decode.check(labels, problem.reference)

    def descend(variables: Sequence[Tensor], trials: slice) -> Point:
        return matched(problem, lambda leaves: decode(leaves[0], labels[trials]), variables, labels[trials], trials)

    def compare(variables: Sequence[Tensor], trials: slice) -> Point:
        images = decode(variables[0], labels[trials])
        return Point(problem.values(images, labels[trials], trials=trials, mirror=mirror), [])

    def generation(candidates: Tensor, trial: int) -> Tensor:
        same = labels[trial].expand(len(candidates), -1)
        return problem.values(decode(candidates, same), same, trials=slice(trial, trial + 1))

    def clamp(variables: Sequence[Tensor]) -> None:
        if bound is not None:
            variables[0].clamp_(-bound, bound)

    evaluate: Evaluate = compare
    asked: Matching | Generations = problem
    if optimizer == "cma":
        start = problem.reference.new_zeros(len(problem), problem.batch_size, *decode.latent_shape)
        update: UpdateRule = (evolution := CMA(1.0, population, bound, generators))
        # A mirror that draws numbers draws them in the order of the steps; many trials are a batch by themselves.
        if not mirror and population > len(problem):
            evaluate = asked = Generations(evolution, generation, budget=steps + 1, problem=problem)
    else:
        evaluate, start = descend, draw_latents(decode.decoder, problem.batch_size, generators, problem.reference)
        update = Adam(lr, signed=False)
        clamp([start])
    found = minimize(
        evaluate,
        [start],
        steps=steps,
        update=update,
        converged=converged,
        least=20 * population if optimizer == "cma" else LEAST,
        constraint=clamp if optimizer == "adam" else None,
        callback=callback,
        problem=asked,
    )
    images = decode(found.variables[0], labels).clamp(0, 1)
    return reconstructions(images, found, problem)


@attack(
    Card(
        leaf="GEN-z",
        needs=frozenset({"labels", "decoder"}),
        iterative=True,
        source="Li et al., 2022, Auditing Privacy Defenses in Federated Learning via Generative Gradient Leakage",
    ),
    many=_many,
    terms=matching_terms(_OBJECTIVE),
)
def ggl(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    decoder: nn.Module | None = None,
    optimizer: Optimizer = "cma",
    steps: int = 25_000,
    population: int = 50,
    lr: float = 0.1,
    bound: float | None = 2.0,
    converged: float | None = None,
    objective: Objective | None = None,
    mirror: Sequence[Mirror] = (),
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """Generative Gradient Leakage (Li et al., 2022, arXiv 2203.15696, Sec. 3), one latent z per image of a batch.

    Minimizes D(T(g(G(z), y)), g*) over z, where T is the client's defense. The images come out of the decoder G, so the
    result always looks like G's training data, whether it matches the private image or not.

    Args:
        model: the victim as sent; dtype and device follow it.
        observation: with labels.
        generator: draws the start, and everything that CMA-ES draws.
        decoder: G, a module with `.latent_shape`, called as decoder(z) or decoder(z, labels), images in [0, 1]; None
            takes `gia.models.pretrained("face-decoder")`. A copy runs in evaluation mode. Its images are converted to
            the client's shape (`gia.attacks.generation.decoding.as_images`).
        optimizer: "cma" evolves z by the objective alone; "adam" follows the gradient through G.
        steps: number of evaluations after the first one, which is that of the start. The published budget is 500
            generations of 50. The released notebooks spend one evaluation, as steps=0 does: the result is a sample of G
            that no gradient has moved.
        population: candidates of a generation of "cma", >= 2.
        lr: step size of "adam", > 0.
        bound: every entry of z stays in [-bound, bound], the region that a decoder has seen in training; None sets no
            bound.
        converged: as in `inverting_gradients`. "cma" is first checked after 20 generations. It has no step size to
            decay, and only takes a third more steps.
        objective: the matching term D, `SquaredDifferences()` by default.
        mirror: T, callables Observation -> Observation, applied in order to each simulated gradient. They need no
            derivative, and may draw noise, so only "cma" accepts them.
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are z, (1, B, *latent_shape).

    Returns the images (B, C, H, W) in [0, 1] of the z with the least objective, in the order of the sorted labels.
    The candidates of a generation are evaluated together, unless there is a mirror or there are more trials than
    candidates. Departs from the paper in limiting z by a box in place of its regularizer R(G; z). Raises ValueError for
    an observation without labels or that does not fit the model, for a setting out of range, and for a decoder that
    does not fit; TypeError for a decoder that is not a module.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=8, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 8, 8, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> decoder = gia.models.OverParameterized(image_shape=(3, 8, 8), batch_size=1, generator=seed)
    >>> settings = {"decoder": decoder, "optimizer": "adam", "steps": 2}
    >>> result = gia.attacks.ggl(model, observation, generator=seed, **settings)
    >>> result.images.shape, result.gradient_evaluations
    (torch.Size([1, 3, 8, 8]), 3)
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        decoder=decoder,
        optimizer=optimizer,
        steps=steps,
        population=population,
        lr=lr,
        bound=bound,
        converged=converged,
        objective=objective,
        mirror=mirror,
        loss=loss,
        callback=callback,
    )[0]


def _check(optimizer: str, population: int, lr: float, bound: float | None, mirror: Sequence[Mirror]) -> None:
    if optimizer not in get_args(Optimizer):
        raise ValueError(expected_one_of("optimizer", optimizer, get_args(Optimizer)))
    if population < 2:
        raise ValueError(f"population: expected at least 2, got {population}")
    if not lr > 0:
        raise ValueError(f"lr: expected a step size > 0, got {lr}")
    if bound is not None and not bound > 0:
        raise ValueError(f"bound: expected > 0 or None, got {bound}")
    if not isinstance(mirror, Sequence) or not all(map(callable, mirror)):
        raise TypeError(f"mirror: expected a sequence of callables Observation -> Observation, got {mirror!r}")
    if mirror and optimizer == "adam":
        raise ValueError("mirror: expected optimizer='cma', which needs no derivative of a defense, got 'adam'")


class _Decode:
    """z (R, B, *latent_shape) -> images (R, B, C, H, W) of the client's shape.

    Args:
        decoder: a copy, put into evaluation mode, in which trials do not mix.
        image_shape: (C, H, W) of the client.
    """

    def __init__(self, decoder: nn.Module, image_shape: tuple[int, int, int]) -> None:
        self.latent_shape: tuple[int, ...] = tuple(decoder.latent_shape)  # type: ignore[arg-type]  # checked before
        self.decoder, self._image_shape = set_mode(decoder, False), image_shape
        self._conditional = takes_labels(decoder)

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """The labels (R, B) are passed to a decoder whose `forward` takes two arguments."""
        made = self._made(latents.flatten(0, 1), labels.flatten())
        return as_images(made, self._image_shape).view(*latents.shape[:2], *self._image_shape)

    def _made(self, latents: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.decoder(latents, labels) if self._conditional else self.decoder(latents)
        return images

    @torch.no_grad()
    def check(self, labels: Tensor, like: Tensor) -> None:
        """Raise ValueError where it does not take latents and these labels, or its images are outside [0, 1]."""
        labels = torch.unique(labels)
        latents = like.new_zeros(len(labels), *self.latent_shape)
        try:
            images = self._made(latents, labels)
        except (RuntimeError, IndexError, ValueError) as error:
            given = f"latents {tuple(latents.shape)}" + (f" and labels {labels.tolist()}" if self._conditional else "")
            raise ValueError(
                f"decoder: expected one that takes {given}, got {type(error).__name__}: {error}"
            ) from error
        if len(as_images(images, self._image_shape)) != len(labels):
            raise ValueError(f"decoder: expected {len(labels)} images, got {len(images)}")
        if not bool(((images >= 0) & (images <= 1)).all()):  # also for NaN
            low, high = float(images.min()), float(images.max())
            raise ValueError(f"decoder: expected images in [0, 1], got {low:.3g} to {high:.3g}")
