"""Train a victim: seconds to a minute on a small set, with checkpoints, held-out accuracy, and a cache by content."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.data.images import Images
from gia.federated.client import set_mode
from gia.models import keeping

__all__ = ["Fit", "accuracy", "fit"]

Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """A trained victim.

    Attributes:
        model: after the last epoch, in eval mode like all checkpoints.
        checkpoints: epoch -> model after so many epochs; 0 is the untrained one.
        accuracy: share in [0, 1] of held-out images that `model` classifies rightly.
        held_out: LongTensor (M,), sorted: which of the images were held out; None if held-out images were given.
        cached: whether this was read from the cache.
    """

    model: nn.Module
    checkpoints: dict[int, nn.Module]
    accuracy: float
    held_out: Tensor | None
    cached: bool


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

    Each epoch visits all training images once in a new order, in batches of nearly equal size, at most `batch_size`.

    Args:
        held_out: images that are not trained on, or which share of each label's `images` to hold out (rounded; at least
            one image of a label is trained on).
        generator: decides the held-out images and the order; one draw is taken from it, also when the cache answers.
        checkpoints: after which epochs (0 .. epochs) to keep a copy.
        optimizer: "adam" (betas 0.9, 0.999) or "sgd" with `momentum`.
        cache: folder of finished fits, none by default. The key holds weights, data, settings, seed, the fingerprint of
            this machine's arithmetic (with torch's version), and the source of training, models and model classes.

    Raises:
        ValueError: an argument out of range, nothing held out, weights that become infinite, or a cache that cannot be
            read or keyed.
    """
    if epochs < 1 or batch_size < 1 or not lr > 0:
        raise ValueError(f"epochs, batch_size and lr must be positive, not {epochs}, {batch_size} and {lr}")
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer must be 'adam' or 'sgd', not {optimizer!r}")
    if not set(checkpoints) <= set(range(epochs + 1)):
        raise ValueError(f"checkpoints must lie in 0 .. epochs = {epochs}, not {sorted(checkpoints)}")
    seed = int(torch.randint(2**62, (1,), generator=generator))
    source = torch.Generator().manual_seed(seed)
    if isinstance(held_out, Images):
        train, test, chosen = images, held_out, None
    else:
        chosen = _choose(images.labels, held_out, source)
        left = torch.ones(len(images), dtype=torch.bool).index_fill(0, chosen, False).nonzero()[:, 0]
        train, test = images.take(left), images.take(chosen)

    keep = sorted({*checkpoints, epochs})
    rule = {"name": optimizer, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    path = None
    if cache is not None:
        settings = {"epochs": epochs, "batch_size": batch_size, "keep": keep, "rule": rule, "seed": seed}
        path = Path(cache) / f"fit-{_key(model, train, test, settings)}.safetensors"
    cached = path is not None and path.exists()
    if path is not None and cached:
        states, share = _read(path)
    else:
        states = _train(model, train, keep, batch_size, rule, source)
        share = accuracy(_restored(model, states[epochs]), test)
        if path is not None:
            _write(path, states, share)
    return Fit(
        model=_restored(model, states[epochs]),
        checkpoints={epoch: _restored(model, states[epoch]) for epoch in sorted(checkpoints)},
        accuracy=share,
        held_out=chosen,
        cached=cached,
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Share in [0, 1] of the images that the model, in eval mode, classifies rightly; it is left as it is."""
    model = set_mode(copy.deepcopy(model), False)
    inputs, labels = _on(model, images)
    logits = torch.cat([model(batch) for batch in torch.split(inputs, 256)])
    return float((logits.argmax(1) == labels).double().mean())


def _choose(labels: Tensor, share: float, source: torch.Generator) -> Tensor:
    if not 0 < share < 1:
        raise ValueError(f"held_out must be Images or a share between 0 and 1, not {share}")
    chosen = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        count = min(round(share * len(members)), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=source)[:count]])
    indices = torch.cat(chosen).sort().values
    if len(indices) == 0:
        raise ValueError(f"held_out: a share of {share} leaves nothing of {len(labels)} images to hold out")
    return indices


_State = dict[str, Tensor]


def _train(
    model: nn.Module,
    images: Images,
    keep: list[int],
    batch_size: int,
    rule: Mapping[str, Any],
    source: torch.Generator,
) -> dict[int, _State]:
    model = set_mode(copy.deepcopy(model), True)
    optimizer = _optimizer([p for p in model.parameters() if p.requires_grad], **rule)
    inputs, labels = _on(model, images)
    batches = -(-len(labels) // batch_size)
    states = {0: _state(model)} if 0 in keep else {}
    for epoch in range(1, keep[-1] + 1):
        order = torch.randperm(len(labels), generator=source)
        for batch in torch.tensor_split(order.to(labels.device), batches):
            loss = cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise ValueError(f"lr {rule['lr']} is too large: weights are not finite after epoch {epoch}")
        if epoch in keep:
            states[epoch] = _state(model)
    return states


def _optimizer(
    parameters: list[nn.Parameter], *, name: Optimizer, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
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
    return keeping.key(model, tensors, settings, rooms=[Path(__file__).parent])


def _write(path: Path, states: Mapping[int, _State], accuracy: float) -> None:
    tensors = {f"{epoch}/{name}": value for epoch, state in states.items() for name, value in state.items()}
    keeping.write(path, tensors, {"accuracy": accuracy})


def _read(path: Path) -> tuple[dict[int, _State], float]:
    tensors, facts = keeping.read(path)
    states: dict[int, _State] = {}
    for name, value in tensors.items():
        epoch, _, entry = name.partition("/")
        states.setdefault(int(epoch), {})[entry] = value
    return states, float(facts["accuracy"])
