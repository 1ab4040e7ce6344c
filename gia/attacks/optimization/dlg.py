"""Deep Leakage from Gradients: squared differences matched by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import LBFGS, Matching, Point, Progress, matching_terms, minimize
from gia.attacks.objectives import Objective, SquaredDifferences
from gia.attacks.optimization.pixels import Pixels, Start
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Observation
from gia.federated.losses import Loss, LossName

#: The matching term where none is given.
_OBJECTIVE: Objective = SquaredDifferences()


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    steps: int,
    lr: float,
    history: int,
    converged: float | None,
    objective: Objective | None,
    restarts: int,
    init: Start,
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    if not lr > 0 or history < 1:
        raise ValueError(f"lr and history: expected lr > 0 and history >= 1, got {lr} and {history}")
    if restarts < 1:
        raise ValueError(f"restarts: expected at least 1, got {restarts}")
    repeated = [observation for observation in observations for _ in range(restarts)]
    streams = [generator for generator in generators for _ in range(restarts)]
    problem = Matching(model, repeated, objective=objective or _OBJECTIVE, loss=loss)
    known = problem.labels
    pixels = Pixels("pixels", model, problem.reference)
    shape = (problem.batch_size, *problem.image_shape)
    start = [pixels.start(init, shape, streams, problem.reference)]
    if known is None:
        start.append(pixels.start("normal", (problem.batch_size, problem.classes), streams, problem.reference))

    def evaluate(variables: Sequence[Tensor], trials: slice) -> Point:
        if known is not None:
            values, to_images, _ = problem(variables[0], known[trials], trials=trials)
            return Point(values, [to_images])
        logits = variables[1].detach().requires_grad_()
        soft = logits.softmax(-1)
        values, to_images, to_labels = problem(variables[0], soft, trials=trials)
        return Point(values, [to_images, torch.autograd.grad(soft, logits, to_labels)[0]])

    found = minimize(
        evaluate,
        start,
        steps=steps,
        update=LBFGS(lr=lr, history=history),
        converged=converged,
        least=20,
        callback=callback,
        problem=problem,
    )
    return pixels.best(found, problem, restarts, known if known is not None else found.variables[1].argmax(-1))


@attack(
    Card(
        leaf="OP",
        needs=frozenset(),
        iterative=True,
        source="Zhu et al., 2019, Deep Leakage from Gradients",
    ),
    many=_many,
    terms=matching_terms(_OBJECTIVE),
)
def dlg(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    steps: int = 300,
    lr: float = 1.0,
    history: int = 100,
    converged: float | None = None,
    objective: Objective | None = None,
    restarts: int = 1,
    init: Start = "uniform",
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """Deep Leakage from Gradients (Zhu et al., 2019, Algorithm 1 and Eq. 4).

    Minimizes sum (g(x, y) - g*)^2 with L-BFGS over the images x. Where the observation holds no labels, soft labels
    y = softmax(v) are searched at the same time; otherwise the labels stay fixed.

    Args:
        model: the victim as sent. It must be twice differentiable, so use Sigmoid; wide initial weights help.
        observation: with or without labels.
        generator: draws the starts.
        steps: outer steps of at most 20 inner ones.
        lr: step size of L-BFGS, > 0.
        history: number of past steps that L-BFGS remembers, >= 1.
        converged: as in `inverting_gradients`, in outer steps, and first checked after 20 of them.
        objective: the matching term, `SquaredDifferences()` by default.
        restarts: number of starts; the result with the least objective is returned.
        init: start of the images, "uniform" over [0, 1] or "normal"; soft labels start from N(0, 1).
        loss: the client's training loss; for soft labels it must take (B, K) probabilities.
        callback: called before each outer step with `Progress`; its variables are (restarts, B, C, H, W) and, where
            labels are searched, (restarts, B, K).

    Returns images (B, C, H, W), clamped to [0, 1] after the search, and labels (B,). Raises ValueError for an
    observation that does not fit the model and for a setting out of range.

    Departs from the authors' code in returning the best iterate by the attack's own objective, not the last one, and in
    starting from uniform noise in place of N(0, 1). L-BFGS has no line search, so a search may diverge: Sigmoid
    saturates, the gradient becomes zero and the search stops, with an objective far above that of a search that
    converged. Such failures are more frequent when labels are searched too; `restarts` discards them. Restarts are
    evaluated together, and each runs its own L-BFGS.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> victim = {"num_classes": 4, "image_size": 8, "width": 4, "activation": "sigmoid", "init": "dlg"}
    >>> model = gia.models.build("lenet", generator=seed, **victim)
    >>> image, label = torch.rand(1, 3, 8, 8, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label)
    >>> result = gia.attacks.dlg(model, observation, generator=seed, steps=5)
    >>> result.labels.tolist(), bool(gia.metrics.psnr(result.images, image) > 20)
    ([2], True)
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        steps=steps,
        lr=lr,
        history=history,
        converged=converged,
        objective=objective,
        restarts=restarts,
        init=init,
        loss=loss,
        callback=callback,
    )[0]
