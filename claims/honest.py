"""Honest models, and the limits of `gia.federated.validation` that they set: `python -m claims.honest` writes them.

A trial is a training of one network, drawn from `FAMILIES` and the settings below. A client checks what such a training
sends it, on its own batch. False alarms are counted family by family, by limits that the other families set; the limits
that ship are set by all of them. `NEVER_FITTED` are networks of further families, at their random initialization.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gia
from gia.data import Images, load_cached
from gia.federated import LocalTraining, fit_limits, set_mode
from gia.federated.training import fit
from gia.federated.validation import BY_DESIGN, ValidationReport, validate_model
from gia.models import build
from gia.numerics import reproducible

Value = TypeVar("Value")


@dataclass(frozen=True)
class Family:
    """Networks that share a construction.

    Attributes:
        nets: (name, widths, further arguments) of `build`, or of torchvision's transformer.
        norms: the normalizations that the family is trained with.
        long: epochs of a long training; a short one has 2.
        trials: number of seeds.
    """

    nets: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...]
    norms: tuple[str, ...]
    long: int
    trials: int


NORMS = ("batch", "group", "layer", "none")
#: Small, so that hundreds are trained in two minutes.
FAMILIES = {
    "mlp": Family((("mlp", (32, 64, 128, 256, 500), {}), ("mlp", (48,), {"hidden": (128, 64)})), NORMS, 150, 52),
    "convnet": Family((("convnet", (8, 16, 32), {}), ("lenet", (8, 12), {"depth": 5})), NORMS, 40, 48),
    "alexnet": Family((("alexnet", (4, 8), {"stem": "3x3"}),), NORMS, 15, 42),
    "resnet": Family((("resnet8", (4, 8), {}), ("resnet10", (4, 8), {}), ("resnet20", (4,), {})), NORMS, 12, 42),
    "transformer": Family((("transformer", (16, 32), {}),), ("layer",), 20, 42),
}
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "gelu", "sigmoid", "silu")
#: Optimizer -> step sizes.
OPTIMIZERS = {"sgd": (0.01, 0.05), "adam": (1e-3, 3e-3), "adamw": (1e-3, 3e-3)}
DECAYS = (0.0, 1e-4, 1e-2, 0.1)
LENGTHS = ("short", "long")
DATA = ("faces", "cifar10-samples", "digits", "photos")
BATCHES = (2, 4, 8, 16, 32, 64)
#: The first seed; lower ones served to choose the checks (docs/pilots.md#detect).
FIRST = 200
#: Trainings of each family by federated averaging; only these set a limit of drift.
FEDERATED = 4
#: Seeds of each network of `NEVER_FITTED`.
INITIALIZED = 6
#: Networks of timm that join where it is installed.
TIMM = ("ghostnet_050", "mobilevitv2_050", "poolformerv2_s12", "resmlp_12_224", "mixer_s32_224", "tf_mixnet_s")


@dataclass(frozen=True)
class Trial:
    """One training, or one network of `NEVER_FITTED` at its random initialization."""

    family: str
    seed: int
    federated: bool = False

    def draw(self, name: str, values: Sequence[Value]) -> Value:
        """One of the values of a factor, drawn by a generator of this trial and factor."""
        return values[int(torch.randint(len(values), (1,), generator=self.generator(f"draw {name}")))]

    def generator(self, purpose: str) -> torch.Generator:
        """One generator for each purpose."""
        key = f"{self.family} {self.seed} {self.federated} {purpose}"
        return torch.Generator().manual_seed(zlib.crc32(key.encode()))

    @property
    def fitted(self) -> bool:
        """Whether the trial takes part in setting limits."""
        return self.family in FAMILIES


def trials() -> list[Trial]:
    """All, those that set limits first."""

    def seeds(count: int) -> range:
        return range(FIRST, FIRST + count)

    central = [Trial(name, seed) for name, family in FAMILIES.items() for seed in seeds(family.trials)]
    federated = [Trial(name, seed, federated=True) for name in FAMILIES for seed in seeds(FEDERATED)]
    return central + federated + [Trial(name, seed) for name in never_fitted() for seed in seeds(INITIALIZED)]


def reports(trial: Trial) -> list[ValidationReport]:
    """The clients' reports on the models that one honest server sends them."""
    if not trial.fitted:
        return [_initialized(trial)]
    return _federated(trial) if trial.federated else list(_central(trial))


def alarms(found: Iterable[ValidationReport], limits: Mapping[str, float]) -> list[str]:
    """The checks, with their values, that these reports fail under other limits than those they were made with."""
    failed = []
    for report in found:
        beyond = {check: value for check, value in report.values.items() if not value <= limits[check]}
        failed += [f"{check} {value:.4g}" for check, value in beyond.items()]
        failed += [f"{one.check} {one.value:.4g}" for one in report.findings if one.check not in report.values]
    return failed


def left_out(seen: Mapping[Trial, Sequence[ValidationReport]]) -> dict[Trial, list[str]]:
    """The alarms on each trial by limits that the other families set.

    A family that sets no limit is judged by those of all others, which are the ones that ship.
    """
    families = dict.fromkeys(trial.family for trial in seen)
    limits = {
        family: BY_DESIGN
        | fit_limits(r for trial, found in seen.items() if trial.fitted and trial.family != family for r in found)
        for family in families
    }
    return {trial: alarms(found, limits[trial.family]) for trial, found in seen.items()}


def _victim(trial: Trial, data: Images) -> nn.Module:
    family = FAMILIES[trial.family]
    name, widths, options = trial.draw("net", family.nets)
    width = trial.draw(f"width of {name}", widths)
    if name == "transformer":
        return _transformer(trial, data, width)
    net = build(
        name,
        num_classes=data.num_classes,
        image_size=data.images.shape[-1],
        channels=data.images.shape[1],
        generator=trial.generator("weights"),
        activation=trial.draw("activation", ACTIVATIONS),
        width=width,
        **options,
    )
    plain = not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    _normalize(net, trial.draw("norm", family.norms), plain, last)
    return net.eval()


def _transformer(trial: Trial, data: Images, width: int) -> nn.Module:
    from torchvision.models import VisionTransformer  # takes as long to import as torch

    size = data.images.shape[-1]
    with _seeded(trial):
        net: nn.Module = VisionTransformer(
            image_size=size,
            patch_size=size // 4,
            num_layers=2,
            num_heads=2,
            hidden_dim=width,
            mlp_dim=2 * width,
            num_classes=data.num_classes,
        )
    return net.eval()


def _normalize(net: nn.Module, norm: str, plain: bool, last: nn.Module) -> None:
    """Exchange every batch normalization; a plain net gets one after every layer but the last."""
    for name, child in list(net.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, _norm(norm, child.num_features, nn.BatchNorm2d))
        elif plain and isinstance(child, nn.Conv2d) and child is not last:
            setattr(net, name, nn.Sequential(child, _norm(norm, child.out_channels, nn.BatchNorm2d)))
        elif plain and isinstance(child, nn.Linear) and child is not last:
            setattr(net, name, nn.Sequential(child, _norm(norm, child.out_features, nn.BatchNorm1d)))
        else:
            _normalize(child, norm, plain, last)


def _norm(kind: str, channels: int, batch: Callable[[int], nn.Module]) -> nn.Module:
    if kind == "batch":
        return batch(channels)
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(4 if kind == "group" else 1, channels)  # one group is a layer normalization


@contextmanager
def _seeded(trial: Trial) -> Iterator[None]:
    """Torch's global generator, seeded by the trial, for networks that draw their weights from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=trial.generator("weights"))))
        yield


def _central(trial: Trial) -> Iterator[ValidationReport]:
    """Before the training, early in it and after it. The images of the client's batch were trained on."""
    data = _data(trial.draw("data", DATA), 16, colour=trial.family == "transformer")
    data = data.take(torch.randperm(len(data.labels), generator=trial.generator("data"))[:64])
    model = _victim(trial, data)
    epochs = 2 if trial.draw("length", LENGTHS) == "short" else FAMILIES[trial.family].long
    optimizer = trial.draw("optimizer", tuple(OPTIMIZERS))
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": 32,
        "held_out": data,
        "checkpoints": (0, 1, epochs),
        "optimizer": optimizer,
        "weight_decay": trial.draw("weight decay", DECAYS),
    }
    lr = trial.draw("lr", OPTIMIZERS[optimizer])
    while True:
        try:
            fitted = fit(model, data, lr=lr, generator=trial.generator("order"), **settings)
        except ValueError as error:
            if not str(error).startswith("lr: "):
                raise
        else:
            if not _diverged(model, fitted.model, data, training=True):
                break
        lr /= 4
    chosen = torch.randperm(len(data.labels), generator=trial.generator("batch"))[: trial.draw("batch", BATCHES)]
    batch, training = (data.images[chosen], data.labels[chosen]), trial.draw("mode", (False, True))
    for checkpoint in fitted.checkpoints.values():
        yield validate_model(checkpoint, batch=batch, training=training)


def _federated(trial: Trial) -> list[ValidationReport]:
    """Three clients with thirteen people each average their weights and buffers; one of them checks each round."""
    data = _data("faces", 16, colour=trial.family == "transformer")
    momentum = trial.draw("momentum", (0.0, 0.9))
    lr = trial.draw("lr", (0.002, 0.01) if momentum else (0.02, 0.1))
    while True:
        local = LocalTraining(trial.draw("epochs", (1, 2)), 10, lr=lr, momentum=momentum)
        found, diverged = _rounds(_victim(trial, data), data, local, training=trial.draw("mode", (False, True)))
        if not diverged:
            return found
        lr /= 4


def _rounds(
    model: nn.Module, data: Images, local: LocalTraining, *, training: bool
) -> tuple[list[ValidationReport], bool]:
    """The reports of four rounds, and whether the training diverged.

    Clients that train with batch statistics move the running ones. They check both what they will train on and what
    the running statistics, which their training leaves out, do to the model.
    """
    found: list[ValidationReport] = []
    sent: nn.Module = model
    before: nn.Module | None = None
    for turn in range(4):
        states = []
        for client in range(3):
            own = (data.labels % 3 == client).nonzero()[:40, 0]
            images, labels = data.images[own], data.labels[own]
            if client == turn % 3:
                modes = (True, False) if training and list(sent.buffers()) else (training,)
                found += [validate_model(sent, before, batch=(images[:8], labels[:8]), training=mode) for mode in modes]
            states.append(_trained(sent, images, labels, local, training=training).state_dict())
        before, sent = sent, copy.deepcopy(sent)
        # A counter of batches is averaged too, and is the same for all.
        sent.load_state_dict(
            {key: torch.stack([s[key].double() for s in states]).mean(0).to(states[0][key]) for key in states[0]}
        )
        if _diverged(model, sent, data, training=training):
            return found, True
    return found, False


def _trained(sent: nn.Module, images: Tensor, labels: Tensor, local: LocalTraining, *, training: bool) -> nn.Module:
    """The model of a client after local training, with running statistics, which `Client.answer` does not share."""
    model = set_mode(copy.deepcopy(sent), training)
    optimizer = torch.optim.SGD(model.parameters(), lr=local.lr, momentum=local.momentum)
    for _ in range(local.epochs):
        for first in range(0, len(images), local.batch_size):
            step = slice(first, first + local.batch_size)
            optimizer.zero_grad()
            cross_entropy(model(images[step]), labels[step]).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
    return model.eval()


@torch.no_grad()
def _diverged(before: nn.Module, after: nn.Module, data: Images, *, training: bool) -> bool:
    """Whether the loss rose by a tenth; whoever trains honestly then starts again with smaller steps."""
    losses = [
        float(cross_entropy(set_mode(copy.deepcopy(model), training)(data.images), data.labels))
        for model in (before, after)
    ]
    return not losses[1] <= 1.1 * losses[0]


def _data(name: str, size: int, *, colour: bool) -> Images:
    data = load_cached(name, image_size=size)
    return replace(data, images=data.images.expand(-1, 3, -1, -1)) if colour else data


def never_fitted() -> dict[str, Callable[[], nn.Module]]:
    """Name -> a network of a family that sets no limit, with ten classes and torch's global generator.

    Those that are large in torchvision are built small from its classes.
    """
    from torchvision import models  # takes as long to import as torch
    from torchvision.models.convnext import CNBlockConfig

    ten = {"num_classes": 10}
    swin = {"embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 4, 8], "window_size": [4, 4]}
    vgg = [32, "M", 64, "M", 128, 128, "M", 256, 256, "M"]
    blocks = [CNBlockConfig(24, 48, 1), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 1)]
    made: dict[str, Callable[[], nn.Module]] = {
        "vgg with batch normalization": lambda: nn.Sequential(
            models.vgg.make_layers(vgg, batch_norm=True), nn.Flatten(), nn.Linear(1024, 10)
        ),
        "mobilenet_v2": partial(models.mobilenet_v2, **ten),
        "mobilenet_v3": partial(models.mobilenet_v3_small, **ten),
        "efficientnet": partial(models.efficientnet_b0, **ten),
        "densenet": partial(models.DenseNet, growth_rate=12, block_config=(3, 3, 3), num_init_features=24, **ten),
        "squeezenet": partial(models.squeezenet1_1, **ten),
        "shufflenet": partial(models.shufflenet_v2_x0_5, **ten),
        "mnasnet": partial(models.mnasnet0_5, **ten),
        "convnext": partial(models.ConvNeXt, blocks, **ten),
        "swin": partial(models.SwinTransformer, patch_size=[2, 2], **swin, **ten),
    }
    if find_spec("timm"):
        timm = import_module("timm")
        made |= {f"timm {name}": partial(timm.create_model, name, **ten) for name in TIMM}
    return made


def _initialized(trial: Trial) -> ValidationReport:
    data = _data("cifar10-samples", 32, colour=True)
    chosen = torch.randperm(len(data.labels), generator=trial.generator("batch"))[: trial.draw("batch", (2, 4, 8))]
    with _seeded(trial):
        model = never_fitted()[trial.family]().eval()
    images = data.images[chosen]
    wanted = getattr(model, "default_cfg", {}).get("input_size", images.shape[1:])[-1] if "timm" in trial.family else 32
    images = nn.functional.interpolate(images, size=wanted, mode="bilinear") if wanted != 32 else images
    return validate_model(model, batch=(images, data.labels[chosen]))


def main() -> None:
    """Fit and write."""
    fitted = [trial for trial in trials() if trial.fitted]
    with reproducible():
        limits = BY_DESIGN | fit_limits(report for trial in fitted for report in reports(trial))
    path = Path(gia.__file__).parent / "federated" / "validation" / "limits.toml"
    nets = sorted({net for family in FAMILIES.values() for net, *_ in family.nets})
    lines = [
        "# Written by `python -m claims.honest`: twice the value that one honest model in 300 exceeds, half as far",
        "# from 1 for similar_rows; inf for a check that is advisory. False alarms are counted by limits that were",
        "# fitted without the family of the model (claims/honest.py).",
        "",
        "[limits]",
        *(f"{check} = {float(f'{value:.4g}')}" for check, value in sorted(limits.items())),
        "",
        "[provenance]",
        f'torch = "{torch.__version__}"',
        f"trials = {len(fitted)}",
        f"families = {list(FAMILIES)}".replace("'", '"'),
        f"nets = {nets}".replace("'", '"'),
        f"norms = {list(NORMS)}".replace("'", '"'),
        f"activations = {list(ACTIVATIONS)}".replace("'", '"'),
        f"optimizers = {list(OPTIMIZERS)}".replace("'", '"'),
        f"weight_decays = {list(DECAYS)}",
        f"epochs = {{ short = 2, {', '.join(f'{name} = {family.long}' for name, family in FAMILIES.items())} }}",
        f"first_seed = {FIRST}",
        f"seeds = {{ {', '.join(f'{name} = {family.trials}' for name, family in FAMILIES.items())} }}",
        f"federated_seeds = {FEDERATED}",
        f"batches = {list(BATCHES)}",
        f"data = {list(DATA)}".replace("'", '"'),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
