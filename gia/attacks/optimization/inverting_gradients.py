"""Inverting Gradients: cosine matching with total variation and signed Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Adam, Matching, Point, Progress, matching_terms, minimize
from gia.attacks.objectives import Cosine, Objective
from gia.attacks.optimization.pixels import Pixels, Space, Start, penalty
from gia.attacks.priors import Prior, TotalVariation
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.schedules import Schedule, own_schedule, step_decay
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.losses import Loss, LossName

#: The matching term where none is given.
_OBJECTIVE: Objective = Cosine()


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int,
    lr: float,
    signed: bool,
    schedule: Schedule,
    converged: float | None,
    objective: Objective | None,
    total_variation: float,
    priors: Sequence[Prior],
    restarts: int,
    init: Start | None,
    space: Space,
    box: bool,
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    if restarts < 1:
        raise ValueError(f"restarts: expected at least 1, got {restarts}")
    if not lr > 0 or not total_variation >= 0:
        raise ValueError(f"lr and total_variation: expected lr > 0 and a weight >= 0, got {lr} and {total_variation}")
    repeated = [observation for observation in observations for _ in range(restarts)]
    problem = Matching(model, repeated, objective=objective or _OBJECTIVE, loss=loss)
    labels = problem.labels
    if labels is None:
        raise ValueError(
            "labels: expected labels, which inverting_gradients needs, got None; use reveal=('labels',) or set them"
        )
    pixels = Pixels(space, model, problem.reference)
    priors = [*([TotalVariation(total_variation)] if total_variation else []), *priors]
    start = pixels.start(
        init or ("uniform" if space == "pixels" else "normal"),
        (problem.batch_size, *problem.image_shape),
        [generator for generator in generators for _ in range(restarts)],
        problem.reference,
    )

    def evaluate(variables: Sequence[torch.Tensor], trials: slice) -> Point:
        data, to_images, _ = problem(pixels.images(variables[0]), labels[trials], trials=trials)
        values, gradient = data, pixels.gradient(to_images)
        if priors:
            extra, along = penalty(priors, variables[0])
            values, gradient = values + extra, gradient + along
        return Point(values, [gradient], data)

    found = minimize(
        evaluate,
        [start],
        steps=steps,
        update=Adam(lr, signed=signed),
        schedule=own_schedule(schedule, step_decay, converged),
        converged=converged,
        constraint=pixels.clamp if box else None,
        callback=callback,
        problem=problem,
    )
    return pixels.best(found, problem, restarts, labels)


@attack(
    Card(
        leaf="OP",
        needs=frozenset({"labels"}),
        iterative=True,
        source="Geiping et al., 2020, Inverting Gradients - How easy is it to break privacy in federated learning?",
    ),
    many=_many,
    terms=matching_terms(_OBJECTIVE),
)
def inverting_gradients(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    steps: int = 24_000,
    lr: float = 0.1,
    signed: bool = True,
    schedule: Schedule = step_decay,
    converged: float | None = None,
    objective: Objective | None = None,
    total_variation: float = 1e-2,
    priors: Sequence[Prior] = (),
    restarts: int = 1,
    init: Start | None = None,
    space: Space = "pixels",
    box: bool = True,
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """Inverting Gradients (Geiping et al., 2020, Eq. 4), with the settings of arXiv 2503.11514, Sec. IV-A.

    Minimizes 1 - cos(g*, g(x, y)) + total_variation * TV(x) over the images x with Adam on the sign of the gradient.
    `priors` adds further penalties, such as GradViT's for Vision Transformers.

    Args:
        model: the victim as sent; dtype and device follow it.
        observation: with labels.
        generator: draws the starts.
        steps: 24,000 in the paper; a few hundred are enough for small nets.
        lr: Adam's step size, > 0.
        signed: whether Adam takes the sign of the gradient.
        schedule: factor on the step size; x0.1 after 3/8, 5/8 and 7/8 of the steps.
        converged: a share such as 0.01, by which the best matching term must fall over the last fifth of the steps for
            the search to go on at a constant step size; it is first checked after 100 steps, and a decay follows
            (`gia.attacks.matching.minimize`). `steps` is then the most that a start may take, and `schedule` is not
            given. None takes all steps.
        objective: the matching term, `Cosine()` by default.
        total_variation: weight, >= 0; 1e-2 for CIFAR and 1e-6 for ImageNet in arXiv 2503.11514.
        priors: penalties on x (restarts, B, C, H, W) in the space where it moves, one value per restart: those of
            `gia.attacks.priors`, such as `PatchConsistency(weight, size)`, or your own.
        restarts: number of starts; the result with the least objective is returned.
        init: "normal" or "uniform" over the box; None takes uniform noise in pixels, and the paper's N(0, 1) in the
            standardized space.
        space: where x moves, "pixels" or the model's "standardized" space.
        box: whether x is clamped to images in [0, 1] after each step.
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are (restarts, B, C, H, W).

    Returns images (B, C, H, W) in [0, 1], in the order of the sorted labels. Departs from the authors' code in
    returning the best iterate by the attack's own objective, not the last one. Raises ValueError for an observation
    without labels or that does not fit the model, and for a setting out of range.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 4, 4, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> result = gia.attacks.inverting_gradients(model, observation, generator=seed, steps=100, total_variation=0.0)
    >>> bool(gia.metrics.psnr(result.images, image) > 20)
    True
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
        restarts=restarts,
        init=init,
        space=space,
        box=box,
        loss=loss,
        callback=callback,
    )[0]
