"""From a private batch to a score: the only path that carries a measurement out, and the controls beside it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gia import attacks, metrics
from gia.attacks.matching import Interrupted
from gia.data import Images, load, sample
from gia.federated import Client, Fit, Observation, accuracy, fit
from gia.harness.blocks import Block
from gia.harness.protocol import Experiment, Fitting, Protocol
from gia.harness.scores import score
from gia.models import build, standardize
from gia.numerics import reproducible

__all__ = [
    "Control",
    "Experiment",
    "Fitting",
    "Measurement",
    "Protocol",
    "beats_blind_guess",
    "keeping_fits",
    "measure",
    "prepared",
    "sampled",
    "shares_gradients",
]

Measure = Callable[[Protocol, Block], "Measurement"]

#: Images per level that are kept for pictures.
KEPT = 8

#: Where trained victims are kept; None trains them anew for each level.
_FITS: ContextVar[Path | None] = ContextVar("fits", default=None)


@dataclass(frozen=True, eq=False)
class Measurement:
    """One level of one block.

    Attributes:
        values: metric -> mean over the block's images; None where the metric is not defined at this size. With a `fit`
            also "held_out_accuracy" of the victim as it is attacked.
        blind: "psnr" and "rmse" of the blind guess, what a dead attack with a good prior would score.
        per_image: metric -> one value per private image.
        gradient_evaluations, seconds: cost of the attack alone.
        gradient_norm: smallest 2-norm among the shared gradients.
        objective: mean of the attack's own objective at its results, NaN if it has none.
        unmatched: private images for which no reconstruction was left.
        originals, reconstructions: the first images, uint8 (n, C, H, W), for pictures.
    """

    values: Mapping[str, float | None]
    blind: Mapping[str, float] = field(default_factory=dict)
    per_image: Mapping[str, Sequence[float]] = field(default_factory=dict)
    gradient_evaluations: int = 0
    seconds: float = 0.0
    gradient_norm: float = math.nan
    objective: float = math.nan
    unmatched: int = 0
    originals: np.ndarray | None = None
    reconstructions: np.ndarray | None = None


@dataclass(frozen=True)
class Control:
    """Whether a block can say anything: `reason` tells what was seen either way."""

    passed: bool
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


def measure(protocol: Protocol, block: Block) -> Measurement:
    """Attack the private images of a block in batches, score each image, and average: the only path that does.

    Victim, images and starts come from the block's own generators, so that all levels share what they can: the victim
    where its description is the same, the images where pattern and `pattern_batch` are. The attack gets the model as
    sent and the observations. Images are matched within their own batch; an unmatched one scores as the blind guess.
    """
    protocol = protocol.drawn(block.setting)
    data = _load(protocol)
    return _Scene(protocol, block, data, _private(protocol, block, data)).attacked("start")


@contextmanager
def keeping_fits(folder: Path | None) -> Iterator[None]:
    """Within it, victims are trained once and kept in `folder`, by the content of all that they depend on."""
    token = _FITS.set(folder)
    try:
        yield
    finally:
        _FITS.reset(token)


def prepared(protocol: Protocol, block: Block) -> tuple[nn.Module, list[Observation]]:
    """What the attacks of a block are given, for timings: the victim as sent and one observation per batch."""
    protocol = protocol.drawn(block.setting)
    data = _load(protocol)
    scene = _Scene(protocol, block, data, _private(protocol, block, data))
    return scene.model, scene.observations


def sampled(protocol: Protocol, *, seeds: int = 6) -> dict[str, list[float]]:
    """One value per seed of every metric in `score` and of the gradient evaluations, for a stored baseline.

    Nothing may vary per block: a baseline is a pinned setting. Raises ValueError where the protocol varies something or
    a metric is not defined at its size.
    """
    if protocol.vary:
        raise ValueError(f"vary: expected nothing, a baseline is pinned, got {sorted(protocol.vary)}")
    with reproducible():
        seen = [measure(protocol, Block("baseline", seed, {})) for seed in range(seeds)]
    values: dict[str, list[float]] = {"gradient_evaluations": [float(found.gradient_evaluations) for found in seen]}
    for metric in protocol.score:
        scores = [found.values[metric] for found in seen]
        values[metric] = [score for score in scores if score is not None]
        if len(values[metric]) < seeds:
            raise ValueError(f"score: {metric!r} is not defined at {protocol.image_size} pixels")
    return values


def beats_blind_guess(protocol: Protocol, block: Block) -> Control:
    """The control of pixel attacks, on other images of the same victim: the attack is alive.

    The shared gradients are finite and not zero, the attack's objective fell, and its mean PSNR is above that of the
    blind guess (for each image the better of its best constant colour and the mean image). Where the protocol has a
    `fit`, whatever its state, the trained victim must have reached the accuracy that it states.
    """
    protocol = replace(protocol.drawn(block.setting), score=("psnr",))
    data = _load(protocol)
    scene = _Scene(protocol, block, data, _others(protocol, block, data))
    if (norm := scene.gradient_norm) == 0:
        return Control(False, "failed: a shared gradient is zero", {"gradient_norm": norm})
    best: list[float] = []  # before each step; infinite until the start is evaluated
    watch = {"callback": lambda progress: best.append(float(progress.best.mean()))}
    iterative = attacks.CARDS[protocol.attack].iterative
    seen = scene.attacked("control start", **(watch if iterative else {}))
    psnr, blind = _mean(seen.per_image["psnr"]), seen.blind["psnr"]
    checks = {f"PSNR {psnr:.2f} dB against {blind:.2f} dB blind": psnr > blind}
    values = {"psnr": psnr, "blind_psnr": blind, "gradient_norm": norm}
    if iterative:
        first, last = next(filter(math.isfinite, best), -math.inf), seen.objective
        checks[f"objective {first:.4g} to {last:.4g}"] = last < first
    return _control(protocol, block, data, checks, values)


def shares_gradients(protocol: Protocol, block: Block) -> Control:
    """The control where gradients are compared and nothing is attacked, on other images of the same victim.

    The shared gradients are finite and not zero. Where the protocol has a `fit`, whatever its state, the trained victim
    must have reached the accuracy that it states.
    """
    protocol = protocol.drawn(block.setting)
    data = _load(protocol)
    norm = _Scene(protocol, block, data, _others(protocol, block, data)).gradient_norm
    return _control(protocol, block, data, {f"gradient norm {norm:.3g}": norm > 0}, {"gradient_norm": norm})


def _control(
    protocol: Protocol, block: Block, data: Images, checks: dict[str, bool], values: dict[str, float]
) -> Control:
    """Passed where all checks are fine and a victim to be trained has learned."""
    if protocol.fit is not None:
        learned, least = _fitted(protocol, protocol.fit, block, data).accuracy, protocol.fit.accuracy
        text = f"held-out accuracy {learned:.3f} of the trained victim, at least {least:g} asked"
        checks, values = {**checks, text: learned >= least}, {**values, "held_out_accuracy": learned}
    failed = [text for text, fine in checks.items() if not fine]
    reason = "failed: " + "; ".join(failed) if failed else "; ".join(checks)
    return Control(not failed, reason, values)


class _Scene:
    """A block's victim, the images chosen from the data, and what each batch of them shares."""

    def __init__(self, protocol: Protocol, block: Block, data: Images, chosen: Tensor) -> None:
        self.protocol, self.block = protocol, block
        dtype = getattr(torch, protocol.dtype)
        self.model = _victim(protocol, block, data, dtype)
        self.accuracy: float | None = None
        if protocol.fit is not None:
            _, test = _divided(protocol, protocol.fit, block, data)
            self.accuracy = accuracy(self.model, test)
        images, labels = data.images[chosen].to(dtype), data.labels[chosen]
        self.batches, self.observations = [], []
        self.mean_image = _mean_of_others(data.images, chosen).to(dtype)
        for first in range(0, len(chosen), protocol.batch_size):
            batch = slice(first, first + protocol.batch_size)
            client = Client(
                images[batch],
                labels[batch],
                local=protocol.local,
                reveal=protocol.reveal,
                generator=block.generator("order", first),
                training=protocol.training,
            )
            self.batches.append(images[batch])
            answer = client.answer(self.model)
            self.observations.append(answer if protocol.assumed is None else replace(answer, local=protocol.assumed))

    @property
    def gradient_norm(self) -> float:
        """The smallest 2-norm among the shared gradients."""
        return min(
            math.sqrt(sum(float(g.double().square().sum()) for g in observation.gradients.values()))
            for observation in self.observations
        )

    def attacked(self, start: str, **settings: Any) -> Measurement:
        """Run the attack on every observation and score it; `start` names the purpose of its generators."""
        protocol = self.protocol
        if protocol.space != "pixels":
            settings["space"] = protocol.space
        generators = [self.block.generator(start, trial) for trial in range(len(self.observations))]
        began = time.perf_counter()
        settings = {**protocol.settings, **settings}
        with warnings.catch_warnings():
            warnings.simplefilter("error", Interrupted)
            try:
                found = attacks.run_many(
                    protocol.attack, self.model, self.observations, generators=generators, **settings
                )
            except Interrupted as stopped:  # half an attack must not be scored, let alone stored
                raise KeyboardInterrupt from stopped
        seconds = time.perf_counter() - began
        aligned, blinds, unmatched = [], [], 0
        for reconstruction, batch in zip(found, self.batches, strict=True):
            images = reconstruction.images.detach().cpu()
            blind = metrics.blind_guess(batch, mean_image=self.mean_image)
            aligned.append(metrics.align(images, batch, blind=blind))
            blinds.append(blind)
            unmatched += max(0, len(batch) - len(images))
        reference, result, blind = torch.cat(self.batches), torch.cat(aligned), torch.cat(blinds)
        per_image = {name: score(name, result, reference) for name in protocol.score}
        guessed = {name: score(name, blind, reference) for name in ("psnr", "rmse")}
        values = {name: None if scores is None else _mean(scores) for name, scores in per_image.items()}
        return Measurement(
            values=values if self.accuracy is None else {**values, "held_out_accuracy": self.accuracy},
            blind={name: _mean(scores) for name, scores in guessed.items() if scores is not None},
            per_image={name: scores for name, scores in per_image.items() if scores is not None},
            gradient_evaluations=sum(reconstruction.gradient_evaluations for reconstruction in found),
            seconds=seconds,
            gradient_norm=self.gradient_norm,
            objective=float(np.mean([math.nan if r.objective is None else r.objective for r in found])),
            unmatched=unmatched,
            originals=_bytes(reference[:KEPT]),
            reconstructions=_bytes(result[:KEPT]),
        )


def _load(protocol: Protocol) -> Images:
    return _images(protocol.data, protocol.image_size, protocol.root)


@lru_cache(maxsize=4)  # a block reads its data once, not once per level
def _images(name: str, image_size: int, root: str | None) -> Images:
    return load(name, image_size=image_size, root=root)


def _private(protocol: Protocol, block: Block, data: Images) -> Tensor:
    return sample(
        data,
        protocol.images,
        pattern=protocol.pattern,
        batch_size=protocol.pattern_batch or protocol.batch_size,
        generator=block.generator("images"),
    )


def _others(protocol: Protocol, block: Block, data: Images) -> Tensor:
    """`control_images` indices, none of them private in this block."""
    others, count = _except(data, _private(protocol, block, data)), protocol.control_images
    if count < 1 or count > len(others) or count % protocol.batch_size:
        raise ValueError(
            f"control_images: expected a positive multiple of batch_size={protocol.batch_size}, at most the "
            f"{len(others)} images of {protocol.data!r} that are not private, got {count}"
        )
    return others[torch.randperm(len(others), generator=block.generator("control images"))[:count]]


def _except(data: Images, indices: Tensor) -> Tensor:
    """The other indices, in order."""
    return torch.ones(len(data), dtype=torch.bool).index_fill(0, indices, False).nonzero()[:, 0]


def _divided(protocol: Protocol, fitting: Fitting, block: Block, data: Images) -> tuple[Images, Images]:
    """What the victim is trained on, and what its accuracy is measured on: the same for all states of a training."""
    attacked = torch.cat([_private(protocol, block, data), _others(protocol, block, data)])
    left, generator = _except(data, attacked), block.generator("held out")
    left = left[torch.randperm(len(left), generator=generator)]
    held = []
    for label in range(data.num_classes):
        members = left[data.labels[left] == label]
        held.append(members[: round(fitting.held_out * int((data.labels == label).sum()))])
    out = torch.cat(held)
    return data.take(_except(data, out if fitting.members else torch.cat([out, attacked]))), data.take(out)


def _fitted(protocol: Protocol, fitting: Fitting, block: Block, data: Images) -> Fit:
    """The block's victim after the whole training, with what it was after half of it."""
    train, test = _divided(protocol, fitting, block, data)
    return fit(
        _untrained(protocol, block, data, getattr(torch, protocol.dtype)).to(protocol.device),
        train,
        epochs=fitting.epochs,
        batch_size=fitting.batch_size,
        lr=fitting.lr,
        held_out=test,
        generator=block.generator("fit"),
        checkpoints=(fitting.half,),
        cache=_FITS.get(),
    )


def _victim(protocol: Protocol, block: Block, data: Images, dtype: torch.dtype) -> nn.Module:
    fitting = protocol.fit
    if fitting is None or fitting.state == "untrained":
        model = _untrained(protocol, block, data, dtype)
    else:
        fitted = _fitted(protocol, fitting, block, data)
        model = fitted.model if fitting.state == "trained" else fitted.checkpoints[fitting.half]
    if protocol.edit is not None:
        model = protocol.edit(model.cpu(), generator=block.generator("edit"))
    return model.to(protocol.device)


def _untrained(protocol: Protocol, block: Block, data: Images, dtype: torch.dtype) -> nn.Module:
    options = dict(protocol.victim)
    name, standard = options.pop("name"), options.pop("standardize", None)
    model = build(
        name,
        num_classes=data.num_classes,
        image_size=protocol.image_size,
        channels=data.images.shape[1],
        generator=block.generator("victim"),
        dtype=dtype,
        **options,
    )
    if standard is not None:
        model = standardize(model, **standard)
    return model


def _mean_of_others(images: Tensor, chosen: Tensor) -> Tensor:
    """(C, H, W): what an attacker knows of the data without the attacked images; mid-gray where nothing is left."""
    keep = torch.ones(len(images), dtype=torch.bool)
    keep[chosen] = False
    return images[keep].mean(0) if bool(keep.any()) else torch.full(images.shape[1:], 0.5)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _bytes(images: Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
