"""Honest models, and the limits that half of them set: `python -m claims.honest` writes gia/federated/limits.toml.

A trial is an architecture with a seed. It is trained on real images, and at every checkpoint a client checks what it
receives, against the last one and on the client's own batch. All checkpoints of a trial lie in one half: even seeds set
the limits, on odd ones false alarms are counted.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import gia
from gia.data import Images, load_cached
from gia.federated import Client, LocalTraining, fit_limits
from gia.federated.training import fit
from gia.federated.validation import ValidationReport, validate_model
from gia.models import build
from gia.numerics import reproducible

Value = TypeVar("Value")

#: Name -> widths and arguments of `build`; small, so that hundreds are trained in a minute.
ARCHITECTURES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mlp": ((32, 64, 128, 256, 500), {}),
    "mlp-deep": ((48, 96), {"hidden": (128, 64)}),
    "lenet": ((8, 12, 16), {}),
    "lenet-dlg": ((12,), {"activation": "sigmoid", "init": "dlg"}),
    "convnet": ((8, 16, 32), {}),
    "convnet-deep": ((8, 16), {"depth": 5}),
    "resnet10": ((4, 8, 16), {}),
    "resnet18": ((4, 8), {}),
    "resnet20": ((4, 8), {}),
    "alexnet": ((8,), {"stem": "3x3"}),
}
FEDERATED = {"federated-mlp": "mlp", "federated-convnet": "convnet", "federated-resnet10": "resnet10"}
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "gelu", "sigmoid", "silu")
DATA = {"faces": 16, "cifar10-samples": 16, "digits": 16, "photos": 16}
BATCHES = (2, 4, 8, 16, 32)
SEEDS = {"fit": range(0, 56, 2), "held out": range(1, 57, 2)}
FEDERATED_SEEDS = {"fit": range(0, 14, 2), "held out": range(1, 15, 2)}


@dataclass(frozen=True)
class Trial:
    """One architecture and seed."""

    architecture: str
    seed: int

    def draw(self, values: Sequence[Value]) -> Value:
        """One of the values, drawn by a generator of this trial."""
        return values[int(torch.randint(len(values), (1,), generator=self.generator(f"draw {values}")))]

    def generator(self, purpose: str) -> torch.Generator:
        """One generator for each purpose."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.architecture} {self.seed} {purpose}".encode()))


def trials(half: str) -> list[Trial]:
    """All of "fit" or of "held out"."""
    central = [Trial(name, seed) for name in ARCHITECTURES for seed in SEEDS[half]]
    return central + [Trial(name, seed) for name in FEDERATED for seed in FEDERATED_SEEDS[half]]


def reports(trial: Trial) -> list[ValidationReport]:
    """The clients' reports on the models that one honest training sends them."""
    return list((_federated if trial.architecture in FEDERATED else _central)(trial))


def _victim(trial: Trial, data: Images, architecture: str) -> nn.Module:
    widths, options = ARCHITECTURES[architecture]
    settings: dict[str, Any] = {"activation": trial.draw(ACTIVATIONS), "width": trial.draw(widths)} | options
    return build(
        architecture.partition("-")[0],
        num_classes=data.num_classes,
        image_size=data.images.shape[-1],
        channels=data.images.shape[1],
        generator=trial.generator("weights"),
        **settings,
    ).eval()


def _central(trial: Trial) -> Iterator[ValidationReport]:
    """A training by Adam: before it, early in it and after it. The images of the client's batch were trained on."""
    name = trial.draw(tuple(DATA))
    data = load_cached(name, image_size=DATA[name])
    data = data.take(torch.randperm(len(data.labels), generator=trial.generator("data"))[:96])
    model = _victim(trial, data, trial.architecture)
    steps, lr = trial.draw((4, 8, 16)), trial.draw((1e-3, 3e-3))
    fitted = fit(
        model,
        data,
        epochs=steps,
        batch_size=24,
        lr=lr,
        held_out=data,
        generator=trial.generator("order"),
        checkpoints=(0, 1, steps),
    )
    chosen = torch.randperm(len(data.labels), generator=trial.generator("batch"))[: trial.draw(BATCHES)]
    batch, training = (data.images[chosen], data.labels[chosen]), trial.draw((False, True))
    for checkpoint in fitted.checkpoints.values():
        yield validate_model(checkpoint, batch=batch, training=training)


def _federated(trial: Trial) -> Iterator[ValidationReport]:
    """Five clients with eight people each average their weights over rounds; each checks each round's model."""
    data = load_cached("faces", image_size=16)
    model = _victim(trial, data, FEDERATED[trial.architecture])
    local = LocalTraining(trial.draw((1, 2)), 10, lr=trial.draw((0.02, 0.1)))
    training = trial.draw((False, True))
    sent: nn.Module = model
    before: nn.Module | None = None
    for _ in range(4):
        updates = []
        for client in range(5):
            own = (data.labels % 5 == client).nonzero()[:40, 0]
            images, labels = data.images[own], data.labels[own]
            yield validate_model(sent, before, batch=(images[:8], labels[:8]), training=training)
            updates.append(Client(images, labels, local=local, training=training).answer(sent).gradients)
        before, sent = sent, copy.deepcopy(sent)
        with torch.no_grad():
            for key, parameter in sent.named_parameters():
                parameter.sub_(torch.stack([update[key] for update in updates]).mean(0))


def main() -> None:
    """Fit and write."""
    with reproducible():
        limits = fit_limits(report for trial in trials("fit") for report in reports(trial))
    path = Path(gia.__file__).parent / "federated" / "limits.toml"
    lines = [
        "# Written by `python -m claims.honest`: twice the largest value of honest models, half as far from 1 for",
        "# similar_rows. False alarms are counted on other models (claims/honest.py).",
        "",
        "[limits]",
        *(f"{check} = {float(f'{value:.4g}')}" for check, value in sorted(limits.items())),
        "",
        "[provenance]",
        f'torch = "{torch.__version__}"',
        f"trials = {len(trials('fit'))}",
        f"architectures = {[*ARCHITECTURES, *FEDERATED]}".replace("'", '"'),
        f"seeds = {list(SEEDS['fit'])}",
        f"federated_seeds = {list(FEDERATED_SEEDS['fit'])}",
        f"data = {list(DATA)}".replace("'", '"'),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
