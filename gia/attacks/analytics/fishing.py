"""Fishing: one image's gradient isolated by a malicious server, and an optimization attack on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching import Progress
from gia.attacks.objectives import Cosine
from gia.attacks.optimization.inverting_gradients import inverting_gradients
from gia.attacks.optimization.pixels import Space
from gia.attacks.reconstruction import Reconstruction
from gia.attacks.trials import Card, attack, check_trials
from gia.federated import Client, Observation
from gia.federated.client import Loss
from gia.federated.server import classifier, fish_class, fish_feature


@attack(
    Card(
        leaf="ANA-parameters",
        needs=frozenset({"malicious_server"}),
        iterative=True,
        source="Wen et al., 2022, Fishing for User Data in Large-Batch Federated Learning via Gradient Magnification",
    )
)
def fishing(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    target: int,
    steps: int = 24_000,
    total_variation: float = 1e-2,
    restarts: int = 1,
    space: Space = "pixels",
    loss: Loss = cross_entropy,
    callback: Callable[[Progress], None] | None = None,
) -> list[Reconstruction]:
    """Inverting Gradients on the gradient that a fished model isolates (Wen et al., 2022; arXiv 2503.11514, Eq. 6).

    B times the observed gradient is the target's own before the classifier, but not in it: the classifier is left out
    of the cosine.

    Args:
        model: as sent, made by `gia.federated.server.fish_class` or `fish_feature`: one row of the classifier is not 0.
        observations, generators: one each per trial. Labels, `local` and batch statistics are not used: the target is
            matched alone, an update as its gradient, and batch normalization by running statistics.
        target: class of the isolated image, the one that `fish_class` or `gia.attacks.fish` was given.
        steps, total_variation, restarts, space, loss, callback: as in `inverting_gradients`.

    Returns one image per observation, (1, C, H, W) in [0, 1]; its label is the target after `fish_class`, and not known
    after `fish_feature`. Raises ValueError for a
    model that is not fished, or fished for another class, and for a gradient that is zero before the classifier.
    """
    check_trials(model, observations, generators)
    name = classifier(model)
    kept = [key for key in observations[0].gradients if not key.startswith(f"{name}.")]
    attacked, label = _unsaturated(model, name, target)
    if empty := [i for i, o in enumerate(observations) if not any(bool(o.gradients[key].any()) for key in kept)]:
        raise ValueError(f"gradients: every entry is zero before the classifier in observation {empty[0]}")
    isolated = [
        replace(o, batch_size=1, labels=torch.tensor([label]), training=False, local=None, batch_norm=None)
        for o in observations
    ]
    found = inverting_gradients.many(
        attacked,
        isolated,
        generators=generators,
        steps=steps,
        objective=Cosine(layers=kept),
        total_variation=total_variation,
        restarts=restarts,
        space=space,
        loss=loss,
        callback=callback,
    )
    return found if label == target else [replace(each, labels=None) for each in found]


def fish(
    model: nn.Module, client: Client, *, target: int, queries: int = 32, generator: torch.Generator
) -> tuple[nn.Module, Observation]:
    """Isolate one image of a class with as few questions to the client as it takes (Wen et al., 2022).

    The first question fishes for the class; the classifier's bias gradient tells how many images have each label. If
    several have the target's, the next ones fish for the largest feature: its cut-off is bisected until one image is
    above it, and the number above is read off each answer.

    Args:
        model: the honest model.
        client: answers with the same batch each time; one batch gradient each (no local steps, no defense).
        target: label of the image that is wanted.
        queries: how many questions are allowed.
        generator: chooses the decoy class among those that no image has.

    Returns the model as sent last and its answer, for `fishing`. Where images of other labels are in the batch, the
    image with the largest feature may be one of those: a linear classifier cannot tell both label and feature in one
    gradient. Raises ValueError where no image has the target's label, every class has one, or the queries run out.
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
        raise ValueError(f"target: no image of the client has label {target}")
    if counts[target] == 1:
        return sent, answer
    free = (counts == 0).nonzero().flatten()
    if not len(free):
        raise ValueError("client: every class has an image, so that none is left for a decoy")
    decoy = int(free[torch.randint(len(free), (1,), generator=generator)])
    # The mean feature of the target's images: at least one lies above, unless all are equal.
    low = float(-0.5 * to_weight[target].sum() / counts[target])
    high, step = math.inf, abs(low) or 1.0
    for _ in range(queries - 1):
        cutoff = low + step if high == math.inf else (low + high) / 2
        if not low < cutoff:
            break
        # As sharp as the bracket is narrow: float32 would lose small logits' gaps in the rounding of large ones.
        sharpness = 100 / (cutoff - low)
        step *= 2
        sent = fish_feature(model, decoy=decoy, cutoff=cutoff, sharpness=sharpness)
        answer, to_weight, to_bias = ask(sent)
        above = float(to_bias[decoy])
        # One image far above, or several close to the cut-off that are each counted in part? The gradient of the row
        # tells their mean feature.
        if abs(above - 1) < 1e-3 and sharpness * (0.5 * float(to_weight[decoy].sum()) / above - cutoff) >= 10:
            return sent, answer
        low, high = (low, cutoff) if above < 1 - 1e-3 else (cutoff, high)
    raise ValueError(f"queries: {queries} did not isolate one of {int(counts[target])} images of class {target}")


def _unsaturated(model: nn.Module, name: str, target: int) -> tuple[nn.Module, int]:
    """A model and label whose gradient before the classifier is the isolated one up to a factor, for every image.

    That is the model itself after `fish_class`. After `fish_feature` an image below the cut-off has no gradient, so
    that a search could not start; fishing for the decoy's class with the opposite row has the same direction.
    """
    rows, biases = (model.get_parameter(f"{name}.{part}").detach() for part in ("weight", "bias"))
    used = rows.any(1).nonzero().flatten()
    if len(used) != 1:
        raise ValueError(f"model: expected one row of {name!r} that is not 0, as fishing leaves it, got {len(used)}")
    if not 0 <= target < len(rows):
        raise ValueError(f"target: expected a class from 0 to {len(rows) - 1}, got {target}")
    label = int(used[0])
    by_class = bool((biases[torch.arange(len(biases)) != label] != 0).all())
    if by_class == (label != target):
        raise ValueError(f"target: the model was fished with {'target' if by_class else 'decoy'} {label}, got {target}")
    if by_class:
        return model, label
    return fish_class(model, target=label, row=-0.5 if rows[label, 0] > 0 else 0.5), label
