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
    """GradInversion (Yin et al., 2021), with the settings of its implementation details.

    Minimizes, by Adam with Langevin noise,
    1e-4 * sum (g(x, y) - g*)^2 + total_variation * TV(x) + l2 * ||x|| + batch_norm * R_BN(x) + group * ||x - E||.

    Args:
        model: the victim as sent; dtype and device follow it.
        observations: with labels, known or restored, and with `batch_norm` where the private batch's statistics leaked.
        generators: one per observation, for the starts of its seeds and then for their noise.
        steps: 20,000 in the paper.
        lr, schedule: Adam's step size; up over 50 steps, then down a cosine.
        noise: after each step x moves by step size * noise * N(0, 1). The paper's 0.2 is of standardized images, where
            a pixel's range is about 4 wide.
        objective: the matching term, `SquaredDifferences(1e-4)` by default.
        total_variation, l2: weights.
        batch_norm: weight of the prior on the inputs of batch normalizations (`BatchNormStatistics`). A trial's batch
            is compared with the private batch's statistics if they leaked, else with the model's running ones. None
            takes the paper's 0.1 where there are statistics, and leaves the prior out where there are none: a model
            without batch normalization, or an untrained one, whose mean 0 and variance 1 come from no data.
        seeds: searches per observation. They pull each other to their registered mean E, and the one with the least
            objective, all priors included, is returned.
        group, radius: weight of that pull; how many pixels registration may shift an image in each direction.
        init, space, box: as in `inverting_gradients`. Total variation, l2 and the group act in `space`.
        loss: the client's training loss.
        callback: called before each step with `Progress`; its variables are (seeds * R, B, C, H, W).

    Returns a reconstruction per observation with images (B, C, H, W) in [0, 1], in the order of the sorted labels.
    Raises ValueError for observations without labels or that do not fit the model, for trials of which some leak other
    statistics, and for a `batch_norm` above zero where there are no statistics.

    Departs from the paper in registering by whole pixels (`gia.attacks.registration`) and not by RANSAC-flow, in
    squaring the gradient's differences, in total variation as a mean over pixels, and in returning the best iterate by
    the attack's own objective, not the last. One seed is the default, so no group unless it is asked for.

    Measured on the trained "cifar10-cnn", CIFAR-10 test images with distinct labels, 300 steps, noise 0.01, total
    variation 0.1, float32 (mean PSNR in dB / SSIM; the blind guess has 12.5 / .10 at B=1):

    | | no statistics | running, weight 1e-3 | leaked, weight 1e-3 |
    |---|---|---|---|
    | B=1, 4 images, `Cosine()` | 7.8 / .07 | 10.0 / .03 | 11.8 / .04 |
    | B=4, 8 images, `Cosine()` | 8.4 / .00 | | 11.1 / .07 |
    | B=1, 4 images, the default objective | 9.3 / .00 | 9.8 / .01 | 11.4 / .03 |

    So statistics bring back colors and contrast, running ones those of other images, and only leaked ones some shapes;
    a single image's are far from the running ones. No mean at B=1 reaches the blind guess's PSNR: a few hundred steps
    are not 20,000. The default objective alone is lost on a net this sure of itself: 3 of 4 images end with next to no
    gradient, a relative 1.00 from the target. The paper's weight 0.1 swamps the matching term (20 against 0.2), since
    this net's first layer sees pixels of 0 to 255. Four seeds with `group` 0 and 1e-2 (2 images, leaked, 200 steps):
    11.1 / .13 and 11.8 / .16, too few images to tell.
    """
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
    return pixels.best(found, problem, seeds, labels)


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
