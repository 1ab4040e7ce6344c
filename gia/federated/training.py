"""Training of victims, with checkpoints, held-out accuracy, and a cache; a small data set takes at most a minute."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.data.images import Images
from gia.errors import expected_one_of
from gia.federated.layers import set_mode
from gia.federated.losses import check_labels
from gia.federated.outputs import check_logits
from gia.federated.victims import victim_of
from gia.models import cached_net

__all__ = ["Fit", "accuracy", "fit"]

Optimizer = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """A trained victim.

    Attributes:
        model: the model after the last epoch, in evaluation mode, as are all checkpoints.
        checkpoints: epoch -> the model after that epoch; 0 is the untrained model.
        accuracy: share in [0, 1] of held-out images that `model` classifies correctly.
        held_out: (M,) int64, sorted indices of the images that were held out; None if held-out images were given.
        cached: whether the models were read from the cache.

    >>> import torch
    >>> from gia.federated import Fit
    >>> Fit(model=torch.nn.Linear(2, 3), checkpoints={}, accuracy=0.5, held_out=torch.arange(4), cached=False)
    Fit(Linear with 9 parameters, accuracy 0.500, 4 images held out, checkpoints: none, trained)
    """

    model: nn.Module
    checkpoints: dict[int, nn.Module]
    accuracy: float
    held_out: Tensor | None
    cached: bool

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        held_out = "held-out images given" if self.held_out is None else f"{len(self.held_out)} images held out"
        return (
            f"Fit({type(self.model).__name__} with {parameters:,} parameters, accuracy {self.accuracy:.3f}, "
            f"{held_out}, checkpoints: {', '.join(map(str, self.checkpoints)) or 'none'}, "
            f"{'cached' if self.cached else 'trained'})"
        )


def fit(
    model: nn.Module,
    images: Images,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    held_out: Images | float = 0.2,
    generator: torch.Generator,
    checkpoints: Collection[int] = (),
    optimizer: Optimizer = "adam",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    cache: str | os.PathLike[str] | None = None,
) -> Fit:
    """Train a copy of `model` with cross-entropy on its device and in its dtype, in train mode.

    Each epoch visits all training images once in a new order, in batches of nearly equal size.

    Args:
        model: the start; it is not changed.
        images: labelled images in [0, 1].
        epochs: at least 1.
        batch_size: images per step at most, at least 1.
        lr: step size, positive.
        held_out: images that are not trained on, or the share of each label's `images` to hold out. The share is
            rounded; at least one image of a label is trained on.
        generator: decides which images are held out, and the order of training. One number is drawn from it, also when
            the cache answers.
        checkpoints: epochs, from 0 to `epochs`, after which a copy of the model is returned.
        optimizer: "adam" or "adamw" (betas 0.9, 0.999), or "sgd" with `momentum`.
        momentum: of "sgd"; the others ignore it.
        weight_decay: L2 penalty; of "adamw" the share of the weights that each step takes away, in step sizes.
        cache: folder of finished fits, none by default. The key covers weights, data, settings, seed, the fingerprint
            of this machine's arithmetic with torch's version, and the source of training, models and model classes.

    Returns:
        The trained model with its checkpoints and held-out accuracy.

    Raises:
        ValueError: an argument out of range, nothing held out, a model that does not return logits (N, classes), labels
            without a logit, weights that are not finite, or a cache whose key cannot be computed.

    >>> import torch, gia
    >>> images = gia.data.load("digits").take(torch.arange(100))
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=10, image_size=8, channels=1, width=16, generator=g)
    >>> gia.federated.fit(model, images, epochs=1, batch_size=32, lr=0.01, generator=g).model.training
    False
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive step size, got {lr}")
    if optimizer not in get_args(Optimizer):
        raise ValueError(expected_one_of("optimizer", optimizer, get_args(Optimizer)))
    if not set(checkpoints) <= set(range(epochs + 1)):
        raise ValueError(f"checkpoints: expected epochs from 0 to {epochs}, got {sorted(checkpoints)}")
    seed = int(torch.randint(2**62, (1,), generator=generator))
    source = torch.Generator().manual_seed(seed)
    if isinstance(held_out, Images):
        train, test, chosen = images, held_out, None
    else:
        chosen = _choose(images.labels, held_out, source)
        others = torch.ones(len(images), dtype=torch.bool, device="cpu").index_fill(0, chosen, False).nonzero()[:, 0]
        train, test = images.take(others), images.take(chosen)

    stored = sorted({*checkpoints, epochs})
    rule = {"name": optimizer, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    path = None
    if cache is not None:
        settings = {"epochs": epochs, "batch_size": batch_size, "stored": stored, "rule": rule, "seed": seed}
        path = Path(cache) / f"fit-{_key(model, train, test, settings)}.safetensors"
    found = None if path is None else cached_net.find(path)
    if found is not None:
        states, share = _states(found[0]), float(found[1]["accuracy"])
    else:
        states = _train(model, train, stored, batch_size, rule, source)
        share = accuracy(_restored(model, states[epochs]), test)
        if path is not None:
            _write(path, states, share)
    return Fit(
        model=_restored(model, states[epochs]),
        checkpoints={epoch: _restored(model, states[epoch]) for epoch in sorted(checkpoints)},
        accuracy=share,
        held_out=chosen,
        cached=found is not None,
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share in [0, 1] of the images that the model classifies correctly in evaluation mode.

    Args:
        model: maps images to logits; not changed.
        images: at least one image with its label.

    Raises:
        ValueError: a model that does not return logits (N, classes).

    >>> import torch, gia
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.zero_(), model[1].bias.copy_(torch.arange(10))
    >>> nines = gia.data.load("digits").take(torch.tensor([9, 19, 1]))
    >>> gia.federated.accuracy(model, nines) == float((nines.labels == 9).double().mean())
    True
    """
    model = victim_of(model, False)
    inputs, labels = _on(model, images)
    logits = torch.cat([model(batch) for batch in torch.split(inputs, 256)])
    check_logits(logits)
    return float((logits.argmax(1) == labels).double().mean())


def _choose(labels: Tensor, share: float, source: torch.Generator) -> Tensor:
    if not 0 < share < 1:
        raise ValueError(f"held_out: expected Images or a share between 0 and 1, got {share}")
    chosen = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        count = min(round(share * len(members)), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=source)[:count]])
    indices = torch.cat(chosen).sort().values
    if len(indices) == 0:
        raise ValueError(f"held_out: expected a share that holds out an image, got {share} of {len(labels)} images")
    return indices


_State = dict[str, Tensor]


def _train(
    model: nn.Module,
    images: Images,
    stored: list[int],
    batch_size: int,
    rule: Mapping[str, Any],
    source: torch.Generator,
) -> dict[int, _State]:
    model = victim_of(model, True)
    optimizer = _optimizer([p for p in model.parameters() if p.requires_grad], **rule)
    inputs, labels = _on(model, images)
    batches = -(-len(labels) // batch_size)
    states = {0: _state(model)} if 0 in stored else {}
    for epoch in range(1, stored[-1] + 1):
        order = torch.randperm(len(labels), generator=source)
        for batch in torch.tensor_split(order.to(labels.device), batches):
            logits = model(inputs[batch])
            check_labels(labels[batch], logits)
            loss = cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise ValueError(
                f"lr: expected a step size that keeps weights finite, got {rule['lr']} (not finite after epoch {epoch})"
            )
        if epoch in stored:
            states[epoch] = _state(model)
    return states


def _optimizer(
    parameters: list[nn.Parameter], *, name: Optimizer, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name != "sgd":
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return kind(parameters, lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


def _on(model: nn.Module, images: Images) -> tuple[Tensor, Tensor]:
    like = next(model.parameters())
    return images.images.to(like), images.labels.to(like.device)


def _state(model: nn.Module) -> _State:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _restored(model: nn.Module, state: _State) -> nn.Module:
    restored = copy.deepcopy(model)
    restored.load_state_dict(state)
    return set_mode(restored, False)


def _key(model: nn.Module, train: Images, test: Images, settings: Mapping[str, Any]) -> str:
    tensors = {"train": train.images, "test": test.images, "seen": train.labels, "unseen": test.labels}
    return cached_net.key(model, tensors, settings, folders=[Path(__file__).parent])


def _write(path: Path, states: Mapping[int, _State], accuracy: float) -> None:
    tensors = {f"{epoch}/{name}": value for epoch, state in states.items() for name, value in state.items()}
    cached_net.keep(path, tensors, {"accuracy": accuracy})


def _states(tensors: _State) -> dict[int, _State]:
    """Epoch -> state, of the tensors of a file."""
    states: dict[int, _State] = {}
    for name, value in tensors.items():
        epoch, _, entry = name.partition("/")
        states.setdefault(int(epoch), {})[entry] = value
    return states
