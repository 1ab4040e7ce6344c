"""GIAS: the latents of a trained decoder are searched, then its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.generation.decoding import Decoders, decoder_for, draw_latents, matched, reconstructions
from gia.attacks.matching import Adam, Matching, Point, Progress, minimize
from gia.attacks.matching.updates import Evaluate, Step, UpdateRule
from gia.attacks.objectives import Cosine, Objective
from gia.attacks.optimization.pixels import penalty
from gia.attacks.priors import Prior, TotalVariation
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.schedules import Schedule, constant
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.client import Loss


@attack(
    Card(
        leaf="GEN-z",
        needs=frozenset({"labels", "decoder"}),
        iterative=True,
        source="Jeon et al., 2021, Gradient Inversion with Generative Image Prior",
    )
)
def gias(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int = 5_500,
    latent_steps: int = 500,
    latent_lr: float = 3e-2,
    weight_lr: float = 1e-3,
    schedule: Schedule = constant,
    objective: Objective | None = None,
    total_variation: float = 1e-6,
    divergence: float = 0.1,
    decoder: nn.Module | None = None,
    loss: Loss = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> list[Reconstruction]:
    """GIAS (Jeon et al., 2021, Sec. 4): Adam on the latents z of a trained decoder G, then on its weights w.

    Minimizes 1 - cos(g*, g(G_w(z), y)) + total_variation * TV(G_w(z)) + divergence * KL(z).

    Args:
        model: the victim as sent; dtype and device follow it.
        observations: with labels.
        generators: one per observation, for the first z.
        steps: of both searches together, 500 and 5,000.
        latent_steps: the first so many move z alone, the others w alone, from the last z on.
        latent_lr, weight_lr, schedule: Adam's step sizes; no decay.
        objective: the matching term, `Cosine()` by default.
        total_variation: weight of the prior on the images.
        divergence: weight of KL(z), which keeps each latent like a draw from N(0, 1) (`LatentDivergence`).
        decoder: a module with `latent_shape`, called as decoder(z) or decoder(z, labels), images in [0, 1]. None takes
            the real face decoder, `gia.models.pretrained("face-decoder")`, its pictures stretched to the client's image
            shape, and gray where that is (`gia.attacks.generation.decoding.as_images`).
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are z (R, B, *latent_shape) and then the
            weights, each (R, *shape).

    Returns a reconstruction per observation with images (B, C, H, W) in [0, 1], in the order of the sorted labels.
    All images of a batch come from one decoder. Departs from the authors' code in returning the best iterate by the
    attack's own objective. Raises ValueError for observations without labels or that do not fit the model, and for a
    decoder without a `latent_shape` or whose pictures do not turn into the client's images; FileNotFoundError where
    the face decoder is asked for and not installed.
    """
    check_trials(model, observations, generators)
    if latent_steps < 0:
        raise ValueError(f"latent_steps: expected at least 0, got {latent_steps}")
    if not latent_lr > 0 or not weight_lr > 0:
        raise ValueError(f"latent_lr and weight_lr: expected step sizes > 0, got {latent_lr} and {weight_lr}")
    if not total_variation >= 0 or not divergence >= 0:
        raise ValueError(
            f"total_variation and divergence: expected weights >= 0, got {total_variation} and {divergence}"
        )
    problem = Matching(model, observations, objective=objective or Cosine(), loss=loss)
    labels = problem.labels
    if labels is None:
        raise ValueError("labels: gias needs them; share with reveal=('labels',) or set them")
    own = decoder_for(decoder, problem.reference)
    decoders = Decoders([own] * len(problem), problem.image_shape)
    latents = draw_latents(own, problem.batch_size, generators, problem.reference)
    on_images: list[Prior] = [TotalVariation(total_variation)] if total_variation else []

    def evaluate(variables: Sequence[Tensor], trials: slice) -> Point:
        def decode(leaves: Sequence[Tensor]) -> Tensor:
            return decoders(leaves[1:], leaves[0], labels[trials])

        values, (to_latents, *to_weights) = matched(problem, decode, variables, labels[trials], trials, on_images)
        extra, along = penalty([LatentDivergence(divergence)], variables[0])
        return Point(values + extra, [to_latents + along, *to_weights])

    found = minimize(
        evaluate,
        [latents, *decoders.weights],
        steps=steps,
        update=LatentsFirst(latent_steps, Adam(latent_lr, signed=False), Adam(weight_lr, signed=False)),
        schedule=schedule,
        callback=callback,
    )
    best, *weights = found.variables
    return reconstructions(decoders(weights, best, labels), found.values, problem)


@dataclass(frozen=True)
class LatentsFirst:
    """`latents` moves the first variable for so many steps; from then on `weights` moves the others."""

    steps: int
    latents: UpdateRule
    weights: UpdateRule

    def __call__(self, variables: Sequence[Tensor]) -> Step:
        parts = slice(0, 1), slice(1, None)
        moves = [(rule(variables[part]), part) for rule, part in zip((self.latents, self.weights), parts, strict=True)]
        done = 0

        def step(evaluate: Evaluate, factor: float) -> None:
            nonlocal done
            move, part = moves[done >= self.steps]

            def of_part(_: Sequence[Tensor], trials: slice) -> Point:
                values, gradients = evaluate(variables, trials)
                return Point(values, gradients[part])

            move(of_part, factor)
            done += 1

        return step


@dataclass(frozen=True)
class LatentDivergence:
    """weight * mean over images of KL(N(mean, variance of the entries of z) || N(0, 1)), each image's z alone.

    It asks of a latent that its entries look drawn from N(0, 1), as those that the decoder was trained on were.
    """

    weight: float

    def __call__(self, latents: Tensor) -> Tensor:
        """(R, B, *latent_shape) -> (R,)."""
        variance, mean = torch.var_mean(latents.flatten(2), 2, correction=0)
        return self.weight * ((mean.square() + variance - 1 - variance.log()) / 2).mean(1)
