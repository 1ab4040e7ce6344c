"""Fishing: one image's gradient isolated by a malicious server, and an optimization attack on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Progress, matching_terms
from gia.attacks.objectives import Cosine
from gia.attacks.optimization.inverting_gradients import inverting_gradients
from gia.attacks.optimization.pixels import Space
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Client, Observation
from gia.federated.losses import Loss, LossName, class_loss
from gia.federated.server import classifier, fish_class, fish_feature


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    target: int,
    steps: int,
    converged: float | None,
    total_variation: float,
    restarts: int,
    space: Space,
    loss: Loss | LossName,
    callback: Callable[[Progress], None] | None,
) -> list[Reconstruction]:
    check_trials(model, observations, generators)
    loss = class_loss(loss, "fishing")
    attacked, label, layers, isolated = _isolated(model, observations, target)
    results = inverting_gradients.many(
        attacked,
        isolated,
        generators=generators,
        steps=steps,
        converged=converged,
        objective=Cosine(layers=layers),
        total_variation=total_variation,
        restarts=restarts,
        space=space,
        loss=loss,
        callback=callback,
    )
    return results if label == target else [replace(each, labels=None) for each in results]


def _terms(
    model: nn.Module,
    observation: Observation,
    images: Sequence[Tensor],
    labels: Tensor | None,
    *,
    target: int,
    loss: Loss | LossName,
    **_: object,
) -> list[float]:
    """Of the isolated image. Labels are not read, since the isolated gradient gives its own label."""
    attacked, _label, layers, (isolated,) = _isolated(model, [observation], target)
    return matching_terms(Cosine(layers=layers))(attacked, isolated, images, None, objective=None, loss=loss)


def _isolated(
    model: nn.Module, observations: Sequence[Observation], target: int
) -> tuple[nn.Module, int, list[str], list[Observation]]:
    """What is attacked: a model, the label of the isolated image, the layers that are compared, and observations."""
    name = classifier(model)
    layers = [key for key in observations[0].gradients if not key.startswith(f"{name}.")]
    attacked, label = _unsaturated(model, name, target)
    if not any(bool(each.gradients[key].any()) for each in observations for key in layers):
        raise NothingFound("gradients: expected an entry other than 0 before the classifier, got zeros")
    known = torch.tensor([label], device=next(model.parameters()).device)
    # The search gets nothing from the classifier, so a trial with zeros before it is one without a gradient.
    isolated = [
        replace(
            each,
            gradients={key: g if key in layers else torch.zeros_like(g) for key, g in each.gradients.items()},
            batch_size=1,
            labels=known,
            training=False,
            local=None,
            batch_norm=None,
        )
        for each in observations
    ]
    return attacked, label, layers, isolated


@attack(
    Card(
        leaf="ANA-parameters",
        needs=frozenset({"malicious_server"}),
        iterative=True,
        source="Wen et al., 2022, Fishing for User Data in Large-Batch Federated Learning via Gradient Magnification",
    ),
    many=_many,
    terms=_terms,
)
def fishing(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    target: int,
    steps: int = 24_000,
    converged: float | None = None,
    total_variation: float = 1e-2,
    restarts: int = 1,
    space: Space = "pixels",
    loss: Loss | LossName = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """Inverting Gradients on the gradient that a fished model isolates (Wen et al., 2022; arXiv 2503.11514, Eq. 6).

    Before the classifier, B times the observed gradient is the target's own gradient. In the classifier it is not, so
    the classifier is left out of the cosine.

    Args:
        model: as sent, made by `gia.federated.server.fish_class` or `fish_feature`: one row of the classifier is not 0.
        observation: of a batch of any size. Labels, `local` and batch statistics are not used: the target is matched
            alone, an update as its gradient, and batch normalization by running statistics.
        generator: draws the starts.
        target: class of the isolated image, the one given to `fish_class` or `gia.attacks.fish`.
        steps, converged, total_variation, restarts, space, loss, callback: as in `inverting_gradients`.

    Returns one image (1, C, H, W) in [0, 1]; its label is the target after `fish_class`, and None after `fish_feature`.
    Raises ValueError for a model that is not fished, or fished for another class, and `NothingFound` for a gradient
    that is zero before the classifier.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images = torch.rand(3, 3, 4, 4, generator=seed)
    >>> client = gia.federated.Client(images, torch.tensor([2, 3, 4]))
    >>> sent, observation = gia.attacks.fish(model, client, target=2, generator=seed)
    >>> settings = {"target": 2, "steps": 100, "total_variation": 0.0}
    >>> result = gia.attacks.fishing(sent, observation, generator=seed, **settings)
    >>> result.labels.tolist(), bool(gia.metrics.psnr(result.images, images[:1]) > 20)
    ([2], True)
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        target=target,
        steps=steps,
        converged=converged,
        total_variation=total_variation,
        restarts=restarts,
        space=space,
        loss=loss,
        callback=callback,
    )[0]


def fish(
    model: nn.Module, client: Client, *, target: int, queries: int = 32, generator: torch.Generator
) -> tuple[nn.Module, Observation]:
    """Isolate one image of a class with few questions to the client (Wen et al., 2022, Sec. 3).

    The first question fishes for the class; the classifier's bias gradient then shows how many images have each label.
    If several images have the target's label, the next questions fish for the largest feature: its cut-off is bisected
    until exactly one image lies above it. Each answer shows how many images lie above.

    Args:
        model: the honest model.
        client: answers with the same batch each time, one batch gradient per question (no local steps, no defense).
        target: label of the wanted image.
        queries: largest number of questions.
        generator: chooses the decoy class among those that no image has.

    Returns the model as sent last and the client's answer to it, for `fishing`. Where images of other labels are in the
    batch, the image with the largest feature may be one of those: a linear classifier cannot select by label and by
    feature in one gradient. Raises ValueError where no image has the target's label, every class has an image, or
    `queries` questions are not enough.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images = torch.rand(3, 3, 4, 4, generator=seed)
    >>> client = gia.federated.Client(images, torch.tensor([2, 3, 4]))
    >>> sent, observation = gia.attacks.fish(model, client, target=2, generator=seed)
    >>> observation.batch_size
    3
    """
    name = classifier(model)

    def ask(sent: nn.Module) -> tuple[Observation, Tensor, Tensor]:
        answer = client.answer(sent)
        to_weight, to_bias = answer.gradients[f"{name}.weight"], answer.gradients[f"{name}.bias"]
        return answer, answer.batch_size * to_weight.double(), answer.batch_size * to_bias.double()

    sent = fish_class(model, target=target)
    answer, to_weight, to_bias = ask(sent)
    # dL/db is the sum of p - onehot: p is 0 for the target and spread evenly over the others.
    counts = answer.batch_size / (len(to_bias) - 1) - to_bias
    counts[target] = -to_bias[target]
    counts = counts.round()
    if counts[target] < 1:
        raise ValueError(f"target: expected the label of one of the client's images, got {target}")
    if counts[target] == 1:
        return sent, answer
    free = (counts == 0).nonzero().flatten()
    if not len(free):
        raise ValueError("client: expected a class without images, as a decoy, got images of every class")
    decoy = int(free[torch.randint(len(free), (1,), generator=generator)])
    # The mean feature of the target's images: at least one image lies above, unless all are equal.
    low = float(-0.5 * to_weight[target].sum() / counts[target])
    high, step = math.inf, abs(low) or 1.0
    for _ in range(queries - 1):
        cutoff = low + step if high == math.inf else (low + high) / 2
        if not low < cutoff:
            break
        # The narrower the bracket, the sharper: a constant sharpness would lose small gaps to float32 rounding.
        sharpness = 100 / (cutoff - low)
        step *= 2
        sent = fish_feature(model, decoy=decoy, cutoff=cutoff, sharpness=sharpness)
        answer, to_weight, to_bias = ask(sent)
        above = float(to_bias[decoy])
        # A count of 1 is one image far above the cut-off, or several close to it that each count in part. The row's
        # gradient gives their mean feature and so decides.
        if abs(above - 1) < 1e-3 and sharpness * (0.5 * float(to_weight[decoy].sum()) / above - cutoff) >= 10:
            return sent, answer
        low, high = (low, cutoff) if above < 1 - 1e-3 else (cutoff, high)
    raise ValueError(
        f"queries: expected enough to isolate one of {int(counts[target])} images of class {target}, got {queries}"
    )


def _unsaturated(model: nn.Module, name: str, target: int) -> tuple[nn.Module, int]:
    """A model and label whose gradient before the classifier is the isolated one up to a factor, for every image.

    After `fish_class` this is the model itself. After `fish_feature` an image below the cut-off has no gradient, so a
    search could not start; fishing for the decoy's class with the opposite row gives the same direction.
    """
    rows, biases = (model.get_parameter(f"{name}.{part}").detach() for part in ("weight", "bias"))
    used = rows.any(1).nonzero().flatten()
    if len(used) != 1:
        raise ValueError(f"model: expected one row of {name!r} that is not 0, as after fishing, got {len(used)}")
    if not 0 <= target < len(rows):
        raise ValueError(f"target: expected a class from 0 to {len(rows) - 1}, got {target}")
    label = int(used[0])
    by_class = bool((biases[torch.arange(len(biases), device=biases.device) != label] != 0).all())
    if by_class == (label != target):
        role = "target" if by_class else "decoy"
        raise ValueError(
            f"target: expected to agree with the model, which was fished with {role} {label}, got {target}"
        )
    if by_class:
        return model, label
    return fish_class(model, target=label, row=-0.5 if rows[label, 0] > 0 else 0.5), label
