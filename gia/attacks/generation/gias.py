"""GIAS: a search over the latents of a trained decoder, then over its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.generation.decoding import Decoders, decoder_for, draw_latents, matched, reconstructions
from gia.attacks.matching import LEAST, Adam, Matching, Point, Progress, matching_terms, minimize
from gia.attacks.matching.problem import class_labels
from gia.attacks.matching.updates import Evaluate, Resumable, Step, UpdateRule
from gia.attacks.objectives import Cosine, Objective
from gia.attacks.optimization.pixels import penalty
from gia.attacks.priors import Prior, TotalVariation
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.schedules import Schedule, constant
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, class_loss

#: The matching term where none is given.
_OBJECTIVE: Objective = Cosine()


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int,
    latent_steps: int,
    latent_lr: float,
    weight_lr: float,
    schedule: Schedule,
    converged: float | None,
    objective: Objective | None,
    total_variation: float,
    divergence: float,
    decoder: nn.Module | None,
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "gias")
    if latent_steps < 0:
        raise ValueError(f"latent_steps: expected at least 0, got {latent_steps}")
    if not latent_lr > 0 or not weight_lr > 0:
        raise ValueError(f"latent_lr and weight_lr: expected step sizes > 0, got {latent_lr} and {weight_lr}")
    if not total_variation >= 0 or not divergence >= 0:
        raise ValueError(
            f"total_variation and divergence: expected weights >= 0, got {total_variation} and {divergence}"
        )
    problem = Matching(model, observations, objective=objective or _OBJECTIVE, loss=loss)
    labels = class_labels(problem, "gias")
    own = decoder_for(decoder, problem.reference)
    decoders = Decoders([own] * len(problem), problem.image_shape)
    latents = draw_latents(own, problem.batch_size, generators, problem.reference)
    on_images: list[Prior] = [TotalVariation(total_variation)] if total_variation else []

    def evaluate(variables: Sequence[Tensor], trials: slice) -> Point:
        def decode(leaves: Sequence[Tensor]) -> Tensor:
            return decoders(leaves[1:], leaves[0], labels[trials])

        point = matched(problem, decode, variables, labels[trials], trials, on_images)
        extra, along = penalty([LatentDivergence(divergence)], variables[0])
        to_latents, *to_weights = point.gradients
        return Point(point.values + extra, [to_latents + along, *to_weights], point.data)

    found = minimize(
        evaluate,
        [latents, *decoders.weights],
        steps=steps,
        update=LatentsFirst(latent_steps, Adam(latent_lr, signed=False), Adam(weight_lr, signed=False)),
        schedule=schedule,
        converged=converged,
        least=LEAST + latent_steps * 5 // 4,
        callback=callback,
        problem=problem,
    )
    best, *weights = found.variables
    return reconstructions(decoders(weights, best, labels), found, problem)


@attack(
    Card(
        leaf="GEN-z",
        needs=frozenset({"labels", "decoder"}),
        iterative=True,
        source="Jeon et al., 2021, Gradient Inversion with Generative Image Prior",
    ),
    many=_many,
    terms=matching_terms(_OBJECTIVE),
)
def gias(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    steps: int = 5_500,
    latent_steps: int = 500,
    latent_lr: float = 3e-2,
    weight_lr: float = 1e-3,
    schedule: Schedule = constant,
    converged: float | None = None,
    objective: Objective | None = None,
    total_variation: float = 1e-6,
    divergence: float = 0.1,
    decoder: nn.Module | None = None,
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """GIAS (Jeon et al., 2021, Sec. 4): Adam on the latents z of a trained decoder G, then on its weights w.

    Minimizes 1 - cos(g*, g(G_w(z), y)) + total_variation * TV(G_w(z)) + divergence * KL(z).

    Args:
        model: the victim as sent; dtype and device follow it.
        observation: with labels.
        generator: draws the first z.
        steps: of both searches together; 500 and 5,000 by default.
        latent_steps: number of first steps, which move z alone. The others move w alone, with the last z.
        latent_lr, weight_lr: Adam's step sizes, > 0.
        schedule: factor on both step sizes; constant by default.
        converged: as in `inverting_gradients`. It is first checked when the last fifth of the steps moved weights.
        objective: the matching term, `Cosine()` by default.
        total_variation: weight of the prior on the images, >= 0.
        divergence: weight of KL(z), >= 0, which keeps each latent close to a draw from N(0, 1) (`LatentDivergence`).
        decoder: a module with `latent_shape`, called as decoder(z) or decoder(z, labels), images in [0, 1]. None takes
            the real face decoder, `gia.models.pretrained("face-decoder")`. Its images are resized to the client's image
            shape and converted to gray where necessary (`gia.attacks.generation.decoding.as_images`).
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are z (1, B, *latent_shape) followed by the
            weights, each (1, *shape).

    Returns images (B, C, H, W) in [0, 1], in the order of the sorted labels; one decoder makes all images of the batch.
    Departs from the authors' code in returning the best iterate by the attack's own objective. Raises ValueError for an
    observation without labels or that does not fit the model, for a setting out of range, and for a decoder without a
    `latent_shape` or whose images cannot be converted to the client's shape; FileNotFoundError where the face decoder
    is needed and not installed.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=8, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 8, 8, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> decoder = gia.models.OverParameterized(image_shape=(3, 8, 8), batch_size=1, generator=seed)
    >>> result = gia.attacks.gias(model, observation, generator=seed, decoder=decoder, steps=2, latent_steps=1)
    >>> result.images.shape, result.gradient_evaluations
    (torch.Size([1, 3, 8, 8]), 3)
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        steps=steps,
        latent_steps=latent_steps,
        latent_lr=latent_lr,
        weight_lr=weight_lr,
        schedule=schedule,
        converged=converged,
        objective=objective,
        total_variation=total_variation,
        divergence=divergence,
        decoder=decoder,
        loss=loss,
        callback=callback,
    )[0]


@dataclass(frozen=True)
class LatentsFirst:
    """An update rule in two parts: the first variable moves alone, then the others do.

    Args:
        steps: number of steps of the first part.
        latents: rule of the first part.
        weights: rule of the second part.
    """

    steps: int
    latents: UpdateRule
    weights: UpdateRule

    def __call__(self, variables: Sequence[Tensor], trials: slice = slice(None)) -> Step:
        parts = slice(0, 1), slice(1, None)
        moves = [
            (rule(variables[part], trials), part)
            for rule, part in zip((self.latents, self.weights), parts, strict=True)
        ]
        done = 0

        def step(evaluate: Evaluate, factor: float) -> None:
            nonlocal done
            move, part = moves[done >= self.steps]

            def of_part(_: Sequence[Tensor], trials: slice) -> Point:
                point = evaluate(variables, trials)
                return Point(point.values, point.gradients[part])

            move(of_part, factor)
            done += 1

        first, second = moves[0][0], moves[1][0]
        if not isinstance(first, Resumable) or not isinstance(second, Resumable):
            return step

        def state() -> dict[str, Any]:
            return {"done": done, "latents": first.state_dict(), "weights": second.state_dict()}

        def load(stored: dict[str, Any]) -> None:
            nonlocal done
            done = stored["done"]
            first.load_state_dict(stored["latents"])
            second.load_state_dict(stored["weights"])

        return Resumable(step, state, load)


@dataclass(frozen=True)
class LatentDivergence:
    """weight * mean over images of KL(N(m, v) || N(0, 1)), with mean m and variance v of the entries of each image's z.

    It keeps the entries of a latent like draws from N(0, 1), the distribution on which the decoder was trained.

    >>> import torch
    >>> z = torch.randn(1, 1, 10_000, generator=torch.Generator().manual_seed(0))
    >>> bool(LatentDivergence(1.0)(z) < 1e-3), bool(LatentDivergence(1.0)(2 * z) > 0.5)
    (True, True)
    """

    weight: float

    def __call__(self, latents: Tensor) -> Tensor:
        """(R, B, *latent_shape) -> (R,)."""
        variance, mean = torch.var_mean(latents.flatten(2), 2, correction=0)
        return self.weight * ((mean.square() + variance - 1 - variance.log()) / 2).mean(1)
