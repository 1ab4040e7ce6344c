"""CI-Net: a search over the weights of an untrained, over-parameterized decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.generation.decoding import Decoders, decoder_for, draw_latents, matched, reconstructions
from gia.attacks.matching import Adam, Matching, Point, Progress, matching_terms, minimize
from gia.attacks.objectives import Cosine, Objective
from gia.attacks.priors import Prior, TotalVariation
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.schedules import Schedule, constant
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.losses import Loss, LossName
from gia.models import OverParameterized

#: The matching term where none is given.
_OBJECTIVE: Objective = Cosine()


def _steps(batch_size: int) -> int:
    return 2_000 if batch_size < 32 else 5_000


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int | None,
    lr: float,
    signed: bool,
    schedule: Schedule,
    converged: float | None,
    objective: Objective | None,
    total_variation: float,
    priors: Sequence[Prior],
    decoder: nn.Module | None,
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    if not lr > 0 or not total_variation >= 0:
        raise ValueError(f"lr and total_variation: expected lr > 0 and a weight >= 0, got {lr} and {total_variation}")
    problem = Matching(model, observations, objective=objective or _OBJECTIVE, loss=loss)
    labels = problem.labels
    if labels is None:
        raise ValueError("labels: expected labels, which ci_net needs, got None; use reveal=('labels',) or set them")
    if steps is None:
        steps = _steps(problem.batch_size)
    shape, batch_size = problem.image_shape, problem.batch_size
    if decoder is None:
        own: list[nn.Module] = [
            OverParameterized(image_shape=shape, batch_size=batch_size, generator=generator) for generator in generators
        ]
        own = [decoder_for(each, problem.reference) for each in own]
    else:
        own = [decoder_for(decoder, problem.reference)] * len(problem)
    decoders = Decoders(own, shape)
    latents = draw_latents(own[0], batch_size, generators, problem.reference)
    priors = [*([TotalVariation(total_variation)] if total_variation else []), *priors]

    def evaluate(variables: Sequence[torch.Tensor], trials: slice) -> Point:
        def decode(weights: Sequence[torch.Tensor]) -> torch.Tensor:
            return decoders(weights, latents[trials], labels[trials])

        return matched(problem, decode, variables, labels[trials], trials, priors)

    found = minimize(
        evaluate,
        decoders.weights,
        steps=steps,
        update=Adam(lr, signed=signed),
        schedule=schedule,
        converged=converged,
        callback=callback,
        problem=problem,
    )
    return reconstructions(decoders(found.variables, latents, labels), found, problem)


@attack(
    Card(
        leaf="GEN-W",
        needs=frozenset({"labels"}),
        iterative=True,
        source="Zhang et al., 2023, Generative Gradient Inversion via Over-Parameterized Networks in FL",
        steps=_steps,
    ),
    many=_many,
    terms=matching_terms(_OBJECTIVE),
)
def ci_net(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    steps: int | None = None,
    lr: float = 1e-3,
    signed: bool = True,
    schedule: Schedule = constant,
    converged: float | None = None,
    objective: Objective | None = None,
    total_variation: float = 0.0,
    priors: Sequence[Prior] = (),
    decoder: nn.Module | None = None,
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """CI-Net (Zhang et al., 2023), with the settings of arXiv 2503.11514, Sec. IV-A, and its released code.

    Minimizes 1 - cos(g*, g(G_w(z), y)) + total_variation * TV(G_w(z)) over the weights w of a decoder G, with Adam on
    the sign of the gradient. The latents z, one per image, are drawn once and stay fixed.

    Args:
        model: the victim as sent; dtype and device follow it. On a Sigmoid net without batch normalization the
            objective falls below 1e-7, the precision of float32, before the image is reached: float64 gives better
            images there.
        observation: with labels.
        generator: draws the decoder's weights, then z.
        steps: None takes the paper's 2,000, and 5,000 for batches of 32 and more.
        lr: Adam's step size, > 0.
        signed: whether Adam takes the sign of the gradient.
        schedule: factor on the step size; constant by default.
        converged: as in `inverting_gradients`.
        objective: the matching term, `Cosine()` by default.
        total_variation: weight of the prior on the images, >= 0.
        priors: further penalties on the images, as in `inverting_gradients`.
        decoder: a module with `latent_shape`, called as decoder(z) or decoder(z, labels), images in [0, 1]; the search
            starts from its weights. None draws the weights of a new `OverParameterized` one.
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are the weights, each (1, *shape).

    Returns images (B, C, H, W) in [0, 1], in the order of the sorted labels. Departs from the authors' code in
    returning the best iterate by the attack's own objective, not the last one. Raises ValueError for an observation
    without labels or that does not fit the model, for a setting out of range, and for a decoder without a
    `latent_shape` or whose images cannot be converted to the client's shape.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=8, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 8, 8, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> result = gia.attacks.ci_net(model, observation, generator=seed, steps=2)
    >>> result.images.shape, result.gradient_evaluations
    (torch.Size([1, 3, 8, 8]), 3)
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        steps=steps,
        lr=lr,
        signed=signed,
        schedule=schedule,
        converged=converged,
        objective=objective,
        total_variation=total_variation,
        priors=priors,
        decoder=decoder,
        loss=loss,
        callback=callback,
    )[0]
