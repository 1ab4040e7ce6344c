"""GradInversion: squared differences, image priors, Langevin noise, and several seeds that agree on one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Adam, Langevin, Matching, Point, Progress, minimize
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
from gia.attacks.schedules import Schedule, cosine_decay
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.client import Loss


@attack(
    Card(
        leaf="OP",
        needs=frozenset({"labels"}),
        iterative=True,
        source="Yin et al., 2021, See through Gradients: Image Batch Recovery via GradInversion",
    )
)
def gradinversion(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int = 20_000,
    lr: float = 0.1,
    schedule: Schedule = cosine_decay,
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
    loss: Loss = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> list[Reconstruction]:
    """TODO"""
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
    problem = Matching(model, repeated, objective=objective or SquaredDifferences(1e-4), loss=loss)
    labels = problem.labels
    if labels is None:
        raise ValueError("labels: gradinversion needs them; share with reveal=('labels',) or set them")
    pixels = Pixels(space, model, problem.reference)
    priors: list[Prior] = [TotalVariation(total_variation), L2Norm(l2)]
    if seeds > 1 and group:
        priors.append(GroupConsistency(group, seeds, labels.cpu(), radius))
    on_images = _batch_norm(batch_norm, model, repeated)
    start = pixels.start(
        init or ("uniform" if space == "pixels" else "normal"),
        (problem.batch_size, *problem.image_shape),
        streams,
        problem.reference,
    )

    def evaluate(variables: Sequence[torch.Tensor], trials: slice) -> Point:
        images = pixels.images(variables[0])
        values, to_images, _ = problem(images, labels[trials], trials=trials)
        if on_images:
            extra, along = penalty(on_images, images)
            values, to_images = values + extra, to_images + along
        extra, along = penalty(priors, variables[0])
        return Point(values + extra, [pixels.gradient(to_images) + along])

    adam = Adam(lr, signed=False)
    found = minimize(
        evaluate,
        [start],
        steps=steps,
        update=Langevin(adam, lr * noise, streams) if noise else adam,
        schedule=schedule,
        constraint=pixels.clamp if box else None,
        callback=callback,
    )
    return pixels.best(found, problem, seeds)


def _batch_norm(weight: float | None, model: nn.Module, observations: Sequence[Observation]) -> list[Prior]:
    """The prior on batch statistics, if there are any to match; asked for by a weight, they must exist."""
    statistics = [known_statistics(model, observation) for observation in observations]
    if weight == 0 or (weight is None and not any(statistics)):
        return []
    if not any(statistics):
        raise ValueError(
            "batch_norm: there are no statistics to match: none leaked, and the model has no batch normalization that "
            "was trained; None leaves the prior out"
        )
    return [
        BatchNormStatistics(0.1 if weight is None else weight, model, statistics, training=observations[0].training)
    ]
