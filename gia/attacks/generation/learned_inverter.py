"""Learning to Invert: a network learns from gradients of the attacker's own images what a gradient shows."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.generation.inverter import Inverter
from gia.attacks.generation.pairs import Pairs, gradients_of_batches, gradients_of_images
from gia.attacks.logits import logits_of
from gia.attacks.reconstruction import NothingFound, Reconstruction
from gia.attacks.trials import Card, attack, check_trials, one_by_one
from gia.federated import LocalTraining, Observation
from gia.federated.layers import batch_norm_layers, classifier
from gia.federated.losses import Loss, LossName, check_labels, class_loss
from gia.federated.observation import shared_names
from gia.federated.private_batch import check_batch
from gia.federated.sharing import DivergedError
from gia.models import cached_net


def _many(
    model: nn.Module,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    inverter: Inverter,
    loss: Loss | LossName,
) -> list[Reconstruction]:
    del loss  # the inverter has learned it
    check_trials(model, observations, generators)
    if not isinstance(inverter, Inverter):
        raise TypeError(f"inverter: expected a gia.attacks.Inverter, got {type(inverter).__name__}")
    first = observations[0]
    reference = next(iter(first.gradients.values()))

    def attacked(observation: Observation, _: torch.Generator) -> Reconstruction:
        inverter.check(observation)
        if not any(bool(gradient.any()) for gradient in observation.gradients.values()):
            raise NothingFound("gradients: expected an entry other than 0, got zeros")
        images = inverter(inverter.buckets([observation.gradients[name][None] for name in inverter.shapes]))
        return Reconstruction(images=images[0].clamp(0, 1))

    with torch.no_grad():
        victim = copy.deepcopy(model).eval()
        logits_of(victim, reference.new_zeros(1, *first.image_shape))
        return one_by_one(attacked, observations, generators)


@attack(
    Card(
        leaf="GEN-inverter",
        needs=frozenset({"auxiliary"}),
        iterative=False,
        source="Wu et al., 2023, Learning To Invert: Simple Adaptive Attacks for Gradient Inversion in Federated "
        "Learning",
    ),
    many=_many,
)
def learning_to_invert(
    model: nn.Module,
    observation: Observation,
    *,
    generator: torch.Generator,
    inverter: Inverter,
    loss: Loss | LossName = cross_entropy,
) -> Reconstruction:
    """The images that an inverter trained for this victim sees in a gradient (Wu et al., 2023, Sec. 3).

    Args:
        model: the victim as sent, the one given to `train_inverter`.
        observation: of the form for which the inverter was trained.
        generator: not used, since nothing is drawn.
        inverter: from `train_inverter`.
        loss: not used: the inverter was trained with the client's loss. No gradient is computed.

    Returns images (B, C, H, W), clamped to [0, 1]. Raises ValueError for an inverter that was trained for other
    parameters, images, batches, modes or local training, and for a gradient of zeros; TypeError for another object.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images = torch.rand(40, 3, 4, 4, generator=seed)
    >>> labels = torch.arange(40) % 5
    >>> settings = {"batch_size": 1, "hidden": (8,), "epochs": 2}
    >>> inverter = gia.attacks.train_inverter(model, images, labels, generator=seed, **settings)
    >>> observation = gia.share_gradient(model, images[:1], labels[:1])
    >>> gia.attacks.learning_to_invert(model, observation, generator=seed, inverter=inverter).images.shape
    torch.Size([1, 3, 4, 4])
    """
    return _many(
        model,
        [observation],
        generators=[generator],
        inverter=inverter,
        loss=loss,
    )[0]


@torch.enable_grad()
def train_inverter(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    generator: torch.Generator,
    hidden: Sequence[int] = (3000, 3000),
    epochs: int = 200,
    lr: float = 1e-4,
    training_batch: int = 256,
    hashed: int | None = None,
    by_label: bool = False,
    held_out: float = 0.1,
    patience: int | None = 20,
    local: LocalTraining | None = None,
    training: bool = False,
    loss: Loss | LossName = cross_entropy,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Inverter:
    """Train an MLP on pairs of a gradient of the victim and the images behind it (Wu et al., 2023, Sec. 3).

    The loss of a pair is the mean squared error under the best assignment of outputs to images, since a gradient does
    not show the order of its batch. Where images do not interact, the gradient of a batch is the mean of the gradients
    of its images: one gradient per image is computed, and each training batch draws new subsets of images. After local
    training, or with batch statistics, as many batches as there are images are drawn once, with one gradient each.

    Departures: each parameter's gradient is divided by its root mean square, without which the largest layer dominates
    the hash of a network; features are standardized, GELU replaces ReLU, the last bias starts at the mean image, and
    `by_label`.

    Args:
        model: the victim as sent; unchanged. Dtype and device of the inverter follow it.
        images: (N, C, H, W) in [0, 1], the attacker's own. The same image may occur under several labels.
        labels: (N,) int64, of the victim's classes.
        batch_size: private images behind an observation.
        generator: seeds hash, weights, held-out images and batches. One number is drawn from it, also when the result
            comes from the cache.
        hidden: units of the hidden layers.
        epochs: largest number of epochs, of about N pairs each.
        lr: Adam's step size, > 0.
        training_batch: pairs of a training step.
        hashed: number of buckets of the hash, for networks of many parameters; None uses every entry as a feature.
        by_label: whether the network makes one image at a time, from its label and what the classifier's gradient
            shows of it, so that few images teach it batches (`Inverter`). The attack restores the labels.
        held_out: share of the images, at least one batch, whose pairs only choose the best epoch; between 0 and 1.
        patience: epochs without a smaller held-out error after which training ends; None runs all epochs.
        local: the clients' local training; their order of images is drawn.
        training: whether batch normalization uses batch statistics.
        loss: the client's training loss, a mean over the images of a batch.
        cache: folder of trained inverters; None for no cache. The key holds all of the above, the victim's weights, the
            source code and the arithmetic of this machine.
        progress: called as (epoch, epochs, held-out mean squared error).

    Returns the inverter of the best epoch, frozen. Raises ValueError for an argument out of range, a model that does
    not take the images, too few images for training and held-out batches, or an error that becomes infinite.

    >>> import torch, gia
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> images = torch.rand(40, 3, 4, 4, generator=seed)
    >>> settings = {"batch_size": 2, "hidden": (8,), "epochs": 1}
    >>> gia.attacks.train_inverter(model, images, torch.arange(40) % 5, generator=seed, **settings)
    Inverter(batch_size=2, image_shape=(3, 4, 4), hashed=None, hidden=(8,), training_mode=False, local=None)
    """
    check_batch(images, labels)
    loss = class_loss(loss, "train_inverter")
    for name, value in (("batch_size", batch_size), ("epochs", epochs), ("training_batch", training_batch)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if hashed is not None and hashed < 1:
        raise ValueError(f"hashed: expected at least 1 bucket, got {hashed}")
    for name, got, right, wanted in (
        ("lr", lr, lr > 0, "> 0"),
        ("held_out", held_out, 0 < held_out < 1, "a share between 0 and 1"),
        ("hidden", tuple(hidden), all(units >= 1 for units in hidden), "at least 1 unit per layer"),
    ):
        if not right:
            raise ValueError(f"{name}: expected {wanted}, got {got}")
    apart = max(batch_size, round(held_out * len(images)))
    if len(images) - apart < batch_size:
        raise ValueError(f"images: expected at least {2 * batch_size}, for training and held out, got {len(images)}")
    seed = int(torch.randint(2**62, (1,), generator=generator))
    like = next(model.parameters())
    images, labels = images.detach().to(like), labels.to(like.device)
    check_labels(labels, logits_of(copy.deepcopy(model).eval(), images[:1]))
    shapes = {name: tuple(model.get_parameter(name).shape) for name in shared_names(model)}
    path = None
    if cache is not None:
        settings = [epochs, lr, training_batch, hashed, list(hidden), held_out, patience, seed, batch_size, training]
        trained_by = [local and asdict(local), getattr(loss, "__qualname__", repr(loss))]
        facts = [*settings, by_label, *trained_by, sorted(shapes)]
        folders = [Path(__file__).parent, Path(__file__).parents[2] / "federated"]
        key = cached_net.key(model, {"images": images, "labels": labels}, facts, folders=folders)
        path = Path(cache) / f"inverter-{key}.safetensors"
        if (found := cached_net.find(path)) is not None:
            return Inverter.restored(*found).to(like.device)
    source = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # the weights are drawn below
        inverter = Inverter(
            shapes=shapes,
            image_shape=images.shape[1:],
            batch_size=batch_size,
            training=training,
            local=local,
            hashed=hashed,
            hidden=hidden,
            classifier=classifier(model, images[:1]) if by_label else None,
        )
    inverter.to_empty(device=like.device).to(like.dtype)
    _initialize(inverter, images.mean(0), source)
    order = torch.randperm(len(images), generator=source).to(like.device)
    parts = [(images[part], labels[part]) for part in (order[apart:], order[:apart])]
    if local is None and not (training and batch_norm_layers(model)):
        known, unseen = (gradients_of_images(model, inverter, *part, loss=loss, training=training) for part in parts)
    else:
        known, unseen = (
            gradients_of_batches(model, inverter, *part, local=local, loss=loss, training=training, generator=source)
            for part in parts
        )
    if local is not None and not all(bool(pairs.buckets.isfinite().all()) for pairs in (known, unseen)):
        raise DivergedError(f"local: expected steps after which all weights are finite, got NaN or infinity at {local}")
    _train(inverter, known, unseen, epochs, lr, training_batch, patience, source, progress)
    if path is not None:
        cached_net.keep(path, *inverter.stored())
    return inverter


def _initialize(inverter: Inverter, mean_image: Tensor, source: torch.Generator) -> None:
    """Scales of 0, which the first gradients replace; a hash; torch's default weights; the mean image as last bias."""
    with torch.no_grad():
        inverter.scales.zero_()
        if inverter.hashed is not None:
            count = len(inverter.place)
            bucket = torch.randint(1, inverter.hashed + 1, (count,), generator=source, dtype=torch.int32)
            sign = torch.randint(2, (count,), generator=source, dtype=torch.int32) * 2 - 1
            inverter.place.copy_(bucket * sign)
        layers = [layer for layer in inverter.network if isinstance(layer, nn.Linear)]
        for layer in layers:
            bound = layer.in_features**-0.5
            for parameter in (layer.weight, layer.bias):
                parameter.copy_((torch.rand(parameter.shape, generator=source, dtype=torch.float64) * 2 - 1) * bound)
        layers[-1].bias.copy_(mean_image.flatten().repeat(1 if inverter.classifier else inverter.batch_size))


def _train(
    inverter: Inverter,
    known: Pairs,
    unseen: Pairs,
    epochs: int,
    lr: float,
    training_batch: int,
    patience: int | None,
    source: torch.Generator,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    """Adam on the matched error of `known` pairs; the weights with the least error on `unseen` pairs remain."""
    rows, members = known.drawn(source)
    inverter.standardize_by(known.buckets[rows].mean(1), known.labels[members])
    judged = unseen.drawn(source)
    network = inverter.network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
    best, best_weights, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, epochs + 1):
        for row, member in zip(torch.split(rows, training_batch), torch.split(members, training_batch), strict=True):
            outputs = inverter(known.buckets[row].mean(1), known.labels[member])
            error = _matched_error(outputs, known.images[member])
            optimizer.zero_grad()
            error.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        with torch.no_grad():
            outputs = inverter(unseen.buckets[judged[0]].mean(1), unseen.labels[judged[1]])
            held_out = float(_matched_error(outputs, unseen.images[judged[1]]))
        if not math.isfinite(held_out):
            raise ValueError(f"lr: expected a step size with a finite error, got {lr}, which fails in epoch {epoch}")
        if progress is not None:
            progress(epoch, epochs, held_out)
        waited += 1
        if held_out < best:
            best, best_weights, waited = held_out, copy.deepcopy(network.state_dict()), 0
        if patience is not None and waited >= patience:
            break
        rows, members = known.drawn(source)
    network.load_state_dict(best_weights)
    inverter.requires_grad_(False).eval()


def _matched_error(outputs: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of (P, B, C, H, W) under each pair's best assignment of outputs to images."""
    if images.shape[1] > 1:
        with torch.no_grad():  # every assignment has the same sums of squares, so the products decide
            alike = (outputs.flatten(2) @ images.flatten(2).mT).cpu().numpy()
        chosen = torch.from_numpy(np.stack([linear_sum_assignment(pair, maximize=True)[1] for pair in alike]))
        images = images.take_along_dim(chosen.to(images.device)[:, :, None, None, None], 1)
    return (outputs - images).square().mean()
