"""Inverting Gradients: cosine matching with total variation and signed Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Adam, Matching, Point, Progress, minimize
from gia.attacks.objectives import Cosine, Objective
from gia.attacks.optimization.pixels import Pixels, Space, Start, penalty
from gia.attacks.priors import Prior, TotalVariation
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.schedules import Schedule, step_decay
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.client import Loss


@attack(
    Card(
        leaf="OP",
        needs=frozenset({"labels"}),
        iterative=True,
        source="Geiping et al., 2020, Inverting Gradients - How easy is it to break privacy in federated learning?",
    )
)
def inverting_gradients(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int = 24_000,
    lr: float = 0.1,
    signed: bool = True,
    schedule: Schedule = step_decay,
    objective: Objective | None = None,
    total_variation: float = 1e-2,
    restarts: int = 1,
    init: Start | None = None,
    space: Space = "pixels",
    box: bool = True,
    loss: Loss = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> list[Reconstruction]:
    """Inverting Gradients (Geiping et al., 2020, Eq. 4), with the settings of arXiv 2503.11514, Sec. IV-A.

    Minimizes 1 - cos(g*, g(x, y)) + total_variation * TV(x) with Adam on the sign of the gradient.

    Args:
        model: the victim as sent; dtype and device follow it.
        observations: with labels.
        generators: one per observation, for the starts.
        steps: 24,000 in the paper; a few hundred do for small nets.
        lr, signed, schedule: Adam's step size; on the sign; x0.1 at 3/8, 5/8 and 7/8.
        objective: the matching term, `Cosine()` by default.
        total_variation: weight; the paper has 1e-2 for CIFAR and 1e-6 for ImageNet.
        restarts: starts per observation; the one with the least objective is returned.
        init: "normal" or "uniform" over the box; None takes the paper's N(0, 1) in the standardized space that it
            belongs to, and uniform noise in pixels.
        space: where x moves, "pixels" or the model's "standardized" space.
        box: clamp x to the box of [0, 1] images after each step.
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are (restarts * R, B, C, H, W).

    Returns a reconstruction per observation with images (B, C, H, W) in [0, 1], in the order of the sorted labels.
    Departs from the authors' code in returning the best iterate by the attack's own objective, not the last.
    Raises ValueError for observations without labels or that do not fit the model.
    """
    check_trials(model, observations, generators)
    if restarts < 1:
        raise ValueError(f"restarts: expected at least 1, got {restarts}")
    if not lr > 0 or not total_variation >= 0:
        raise ValueError(f"lr and total_variation: expected lr > 0 and a weight >= 0, got {lr} and {total_variation}")
    repeated = [observation for observation in observations for _ in range(restarts)]
    problem = Matching(model, repeated, objective=objective or Cosine(), loss=loss)
    labels = problem.labels
    if labels is None:
        raise ValueError("labels: inverting_gradients needs them; share with reveal=('labels',) or set them")
    pixels = Pixels(space, model, problem.reference)
    priors: list[Prior] = [TotalVariation(total_variation)] if total_variation else []
    start = pixels.start(
        init or ("uniform" if space == "pixels" else "normal"),
        (problem.batch_size, *problem.image_shape),
        [generator for generator in generators for _ in range(restarts)],
        problem.reference,
    )

    def evaluate(variables: Sequence[torch.Tensor], trials: slice) -> Point:
        values, to_images, _ = problem(pixels.images(variables[0]), labels[trials], trials=trials)
        gradient = pixels.gradient(to_images)
        if priors:
            extra, along = penalty(priors, variables[0])
            values, gradient = values + extra, gradient + along
        return Point(values, [gradient])

    found = minimize(
        evaluate,
        [start],
        steps=steps,
        update=Adam(lr, signed=signed),
        schedule=schedule,
        constraint=pixels.clamp if box else None,
        callback=callback,
    )
    return pixels.best(found, problem, restarts, labels)
