"""GradInversion: squared differences, image priors, Langevin noise, and several seeds that agree on one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Adam, Langevin, Matching, Point, Progress, matching_terms, minimize
from gia.attacks.matching.problem import class_labels
from gia.attacks.objectives import Objective, SquaredDifferences
from gia.attacks.optimization.pixels import Pixels, Space, Start, penalty
from gia.attacks.priors import (
    BatchNormStatistics,
    GroupConsistency,
    L2Norm,
    Prior,
    TotalVariation,
    known_statistics,
)
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.schedules import Schedule, cosine_decay, own_schedule
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.losses import Loss, LossName

#: The matching term where none is given.
_OBJECTIVE: Objective = SquaredDifferences(1e-4)


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int,
    lr: float,
    schedule: Schedule,
    converged: float | None,
    noise: float,
    objective: Objective | None,
    total_variation: float,
    l2: float,
    batch_norm: float | None,
    seeds: int,
    group: float,
    radius: int,
    init: Start | None,
    space: Space,
    box: bool,
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    if seeds < 1 or radius < 0:
        raise ValueError(f"seeds and radius: expected at least 1 and 0, got {seeds} and {radius}")
    if not lr > 0:
        raise ValueError(f"lr: expected a step size > 0, got {lr}")
    weights = {"noise": noise, "total_variation": total_variation, "l2": l2, "batch_norm": batch_norm, "group": group}
    for name, weight in weights.items():
        if weight is not None and not weight >= 0:
            raise ValueError(f"{name}: expected at least 0, got {weight}")
    repeated = [observation for observation in observations for _ in range(seeds)]
    streams = [generator for generator in generators for _ in range(seeds)]
    problem = Matching(model, repeated, objective=objective or _OBJECTIVE, loss=loss)
    labels = problem.labels
    if labels is None:
        raise ValueError(
            "labels: expected labels, which gradinversion needs, got None; use reveal=('labels',) or set them"
        )
    grouped = seeds > 1 and group > 0
    if grouped:
        labels = class_labels(problem, "the group term of gradinversion")
    pixels = Pixels(space, model, problem.reference)
    priors: list[Prior] = [TotalVariation(total_variation), L2Norm(l2)]
    labels_here = labels.cpu()
    statistics = _batch_norm(batch_norm, model, repeated)
    start = pixels.start(
        init or ("uniform" if space == "pixels" else "normal"),
        (problem.batch_size, *problem.image_shape),
        streams,
        problem.reference,
    )

    def evaluate(variables: Sequence[torch.Tensor], trials: slice) -> Point:
        images = pixels.images(variables[0])
        data, to_images, _ = problem(images, labels[trials], trials=trials)
        values = data
        if statistics is not None:
            extra, along = penalty([partial(statistics, trials=trials)], images)
            values, to_images = values + extra, to_images + along
        pull = [GroupConsistency(group, seeds, labels_here[trials], radius)] if grouped else []
        extra, along = penalty([*priors, *pull], variables[0])
        return Point(values + extra, [pixels.gradient(to_images) + along], data)

    adam = Adam(lr, signed=False)
    found = minimize(
        evaluate,
        [start],
        steps=steps,
        update=Langevin(adam, lr * noise, streams) if noise else adam,
        schedule=own_schedule(schedule, cosine_decay, converged),
        converged=converged,
        together=seeds if grouped else 1,
        constraint=pixels.clamp if box else None,
        callback=callback,
        problem=problem,
    )
    return pixels.best(found, problem, seeds, labels)


@attack(
    Card(
        leaf="OP",
        needs=frozenset({"labels"}),
        iterative=True,
        source="Yin et al., 2021, See through Gradients: Image Batch Recovery via GradInversion",
    ),
    many=_many,
    terms=matching_terms(_OBJECTIVE),
)
def gradinversion(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    steps: int = 20_000,
    lr: float = 0.1,
    schedule: Schedule = cosine_decay,
    converged: float | None = None,
    noise: float = 0.2,
    objective: Objective | None = None,
    total_variation: float = 1e-4,
    l2: float = 1e-6,
    batch_norm: float | None = None,
    seeds: int = 1,
    group: float = 1e-2,
    radius: int = 2,
    init: Start | None = None,
    space: Space = "pixels",
    box: bool = True,
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """GradInversion (Yin et al., 2021, arXiv 2104.07586, Sec. 3), with the settings of its implementation details.

    Minimizes, by Adam with Langevin noise,
    1e-4 * sum (g(x, y) - g*)^2 + total_variation * TV(x) + l2 * ||x|| + batch_norm * R_BN(x) + group * ||x - E||.

    On a trained net with batch normalization, leaked statistics decide whether images can be recognized. The model's
    running statistics, which belong to other images, restore contrast only.

    Args:
        model: the victim as sent; dtype and device follow it.
        observation: with labels, known or restored, and with `batch_norm` where the private batch's statistics leaked.
        generator: draws the starts of all seeds, then their noise.
        steps: 20,000 in the paper.
        lr: Adam's step size, > 0.
        schedule: factor on the step size; rises over 50 steps, then falls along a cosine.
        converged: as in `inverting_gradients`; seeds that pull each other converge together.
        noise: after each step x moves by step size * noise * N(0, 1). The paper's 0.2 refers to standardized images,
            where the range of a pixel is about 4.
        objective: the matching term, `SquaredDifferences(1e-4)` by default.
        total_variation, l2: weights, >= 0.
        batch_norm: weight of the prior on the inputs of batch normalization layers (`BatchNormStatistics`). It compares
            the candidate batch with the private batch's statistics if they leaked, else with the model's running ones.
            None takes the paper's 0.1 where there are statistics and omits the prior where there are none: in a model
            without batch normalization, or an untrained one, whose mean 0 and variance 1 come from no data. The best
            weight depends on the net: where the first layer sees pixels of 0 to 255, 0.1 outweighs the matching term.
        seeds: number of searches. They pull each other towards their aligned mean E, and the one with the least
            objective, all priors included, is returned.
        group: weight of that pull, >= 0.
        radius: pixels by which alignment may shift an image in each direction.
        init: as in `inverting_gradients`.
        space: as in `inverting_gradients`; total variation, l2 and the group act in this space.
        box: as in `inverting_gradients`.
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are (seeds, B, C, H, W).

    Returns images (B, C, H, W) in [0, 1], in the order of the sorted labels. Raises ValueError for an observation
    without labels or that does not fit the model, for a `batch_norm` above zero where there are no statistics, and for
    a setting out of range.

    Departs from the paper in aligning by whole pixels (`gia.attacks.alignment`) and not by RANSAC-flow, in squaring the
    gradient's differences, in total variation as a mean over pixels, and in returning the best iterate by the attack's
    own objective, not the last one. The default is one seed, so there is no group unless `seeds` is set.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 4, 4, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> settings = {"steps": 150, "noise": 0.0, "total_variation": 0.0}
    >>> result = gia.attacks.gradinversion(model, observation, generator=seed, **settings)
    >>> bool(gia.metrics.psnr(result.images, image) > 20)
    True
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        steps=steps,
        lr=lr,
        schedule=schedule,
        converged=converged,
        noise=noise,
        objective=objective,
        total_variation=total_variation,
        l2=l2,
        batch_norm=batch_norm,
        seeds=seeds,
        group=group,
        radius=radius,
        init=init,
        space=space,
        box=box,
        loss=loss,
        callback=callback,
    )[0]


def _batch_norm(
    weight: float | None, model: nn.Module, observations: Sequence[Observation]
) -> BatchNormStatistics | None:
    """The prior on batch statistics where there are any. With a weight above 0 they must exist."""
    statistics = [known_statistics(model, observation) for observation in observations]
    if weight == 0 or (weight is None and not any(statistics)):
        return None
    if not any(statistics):
        raise ValueError(
            "batch_norm: expected leaked statistics or a model with trained batch normalization, got neither; None "
            "omits the prior"
        )
    return BatchNormStatistics(0.1 if weight is None else weight, model, statistics, training=observations[0].training)
