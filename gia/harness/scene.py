"""The scene of an attack: a victim, batches of images, what each of them shares, and the score of what comes back."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gia import attacks, metrics
from gia.attacks.matching import Interrupted
from gia.data import Images
from gia.federated import Client, Observation, accuracy, share_gradient
from gia.federated.server import classifier, fish_class
from gia.harness.blocks import Block
from gia.harness.casting import (
    FITS,
    attacker,
    divided,
    left_over,
    onlookers,
    others_of_their_class,
    public_images,
    victim,
)
from gia.harness.protocol import Fished, Protocol
from gia.harness.scores import CONTEXTUAL, lpips_nearest, score

#: Images per level that are kept for pictures.
KEPT = 8


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


@dataclass(frozen=True, eq=False)
class Shared:
    """One attack's share: the model as sent, what came back, and the images that are scored (indices, (N, C, H, W)).

    `target` is the class that was fished for, if any.
    """

    model: nn.Module
    observation: Observation
    chosen: Tensor
    reference: Tensor
    target: int | None = None


class Scene:
    """A block's victim, the images chosen from the data, and what each batch of them shares."""

    def __init__(self, protocol: Protocol, block: Block, data: Images, chosen: Tensor) -> None:
        size = protocol.batch_size
        if len(chosen) % size if protocol.fish is None else len(chosen) < size:
            raise ValueError(f"control_images: expected whole batches of batch_size={size}, got {len(chosen)}")
        self.protocol, self.block, self.data, self.chosen = protocol, block, data, chosen
        dtype = getattr(torch, protocol.dtype)
        self.model = victim(protocol, block, data, dtype)
        self.accuracy: float | None = None
        if protocol.fit is not None:
            _, test = divided(protocol, protocol.fit, block, data)
            self.accuracy = accuracy(self.model, test)
        self.mean_image = _mean_of_others(data.images, chosen).to(dtype)
        if protocol.fish is None:
            self.shared = [self._share(chosen[first : first + size], first) for first in range(0, len(chosen), size)]
        else:
            self.shared = [self._fish(protocol.fish, number) for number in range(protocol.fish.targets)]

    @property
    def observations(self) -> list[Observation]:
        """What the batches share."""
        return [each.observation for each in self.shared]

    @cached_property
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
        settings = {**protocol.settings, **self._equipment(), **settings}
        began = time.perf_counter()
        found = self._reconstructions(self.shared, start, settings)
        seconds = time.perf_counter() - began
        aligned, blinds, unmatched = [], [], 0
        for reconstruction, each in zip(found, self.shared, strict=True):
            images = reconstruction.images.detach().cpu()
            blind = metrics.blind_guess(each.reference, mean_image=self.mean_image)
            aligned.append(metrics.align(images, each.reference, blind=blind))
            blinds.append(blind)
            unmatched += max(0, len(blind) - len(images))
        reference, result, blind = torch.cat([s.reference for s in self.shared]), torch.cat(aligned), torch.cat(blinds)
        per_image = {name: self._score(name, result, reference) for name in protocol.score if name != "psnr_lost"}
        if "psnr_lost" in protocol.score:
            per_image["psnr_lost"] = self._lost(result, reference, start, settings)
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

    def own_samples(self, steps: int) -> tuple[float, float]:
        """PSNR to samples of the decoder, one for each image with its label: of what the attack finds with Adam, and of
        what it starts from, another such sample."""
        settings = {**self.protocol.settings, **self._equipment(), "optimizer": "adam", "mirror": ()}

        def run(observations: Sequence[Observation], start: str, steps: int) -> list[attacks.Reconstruction]:
            generators = [self.block.generator(start, n) for n in range(len(observations))]
            given = {**settings, "steps": steps}
            return attacks.run_many(self.protocol.attack, self.model, observations, generators=generators, **given)

        own = run(self.observations, "own sample", 0)  # without a step, the start comes back
        shared = []
        for sample in own:
            assert sample.labels is not None  # latent search needs them
            answer = share_gradient(
                self.model, sample.images, sample.labels, reveal=("labels",), training=self.protocol.training
            )
            shared.append(answer)
        samples = torch.cat([sample.images for sample in own])
        found, start = (torch.cat([each.images for each in run(shared, "own search", n)]) for n in (steps, 0))
        return float(metrics.psnr(found, samples).mean()), float(metrics.psnr(start, samples).mean())

    def _client(self, batch: Tensor, number: int) -> Client:
        protocol = self.protocol
        return Client(
            self._images(batch),
            self.data.labels[batch],
            local=protocol.local,
            reveal=protocol.reveal,
            defenses=[
                partial(defense, generator=self.block.generator("defense", number, place))
                for place, defense in enumerate(protocol.defenses)
            ],
            generator=self.block.generator("order", number),
            training=protocol.training,
        )

    def _share(self, batch: Tensor, number: int) -> Shared:
        answer, assumed = self._client(batch, number).answer(self.model), self.protocol.assumed
        observation = answer if assumed is None else replace(answer, local=assumed)
        return Shared(self.model, observation, batch, self._images(batch))

    def _fish(self, fish: Fished, number: int) -> Shared:
        batch = self.chosen[(number + torch.arange(self.protocol.batch_size)) % len(self.chosen)]
        client, target = self._client(batch, number), int(self.data.labels[batch[0]])
        if fish.kind == "class":
            sent = fish_class(self.model, target=target)
            return Shared(sent, client.answer(sent), batch[:1], self._images(batch[:1]), target)
        generator = self.block.generator("fish", number)
        sent, answer = attacks.fish(self.model, client, target=target, queries=fish.queries, generator=generator)
        # The attacker does not know which image it caught; the score does: the one that still has a gradient.
        caught = batch[[self._isolated(sent, batch)]]
        return Shared(sent, answer, caught, self._images(caught), target)

    def _isolated(self, sent: nn.Module, batch: Tensor) -> int:
        """Place in the batch of the image with the largest gradient before the classifier."""
        last, norms = classifier(sent), []
        for index in batch:
            own = share_gradient(sent, self._images(index[None]), self.data.labels[index][None])
            norms.append(
                sum(float(g.square().sum()) for key, g in own.gradients.items() if not key.startswith(f"{last}."))
            )
        return int(np.argmax(norms))

    def _images(self, chosen: Tensor) -> Tensor:
        return self.data.images[chosen].to(getattr(torch, self.protocol.dtype))

    def _equipment(self) -> Mapping[str, Any]:
        protocol, block = self.protocol, self.block
        if protocol.equip is None:
            return {}
        public = public_images(protocol, block, self.data)
        generator = attacker(protocol, block).generator("equip")
        return protocol.equip(protocol, self.model, public, generator=generator, cache=FITS.get())

    def _lost(self, result: Tensor, reference: Tensor, start: str, settings: Mapping[str, Any]) -> list[float]:
        """PSNR of each fished image, had it been alone in its batch, less what it has: what isolation leaves mixed."""
        alone = [
            replace(each, observation=self._client(each.chosen, number).answer(each.model))
            for number, each in enumerate(self.shared)
        ]
        found = self._reconstructions(alone, start, settings)
        best = metrics.psnr(torch.cat([each.images.detach().cpu() for each in found]), reference)
        return [float(value) for value in best - metrics.psnr(result, reference)]

    def _reconstructions(
        self, shared: Sequence[Shared], start: str, settings: Mapping[str, Any]
    ) -> list[attacks.Reconstruction]:
        name, generators = self.protocol.attack, [self.block.generator(start, n) for n in range(len(shared))]
        with warnings.catch_warnings():
            warnings.simplefilter("error", Interrupted)
            try:
                if self.protocol.fish is None:
                    observations = [each.observation for each in shared]
                    return attacks.run_many(name, self.model, observations, generators=generators, **settings)
                attack = attacks.ATTACKS[name]
                return [
                    attack(each.model, each.observation, generator=generator, target=each.target, **settings)
                    for each, generator in zip(shared, generators, strict=True)
                ]
            except Interrupted as stopped:  # half an attack must not be scored, let alone stored
                raise KeyboardInterrupt from stopped

    def _score(self, name: str, result: Tensor, reference: Tensor) -> list[float] | None:
        if name not in CONTEXTUAL:
            return score(name, result, reference)
        chosen = torch.cat([each.chosen for each in self.shared])
        if name == "psnr_other":
            return score("psnr", result, self._images(others_of_their_class(chosen, self.block, self.data)))
        if name == "lpips_nearest":
            return lpips_nearest(result, self.data.images[onlookers(self.protocol, self.block, self.data)])
        assert self.protocol.judge is not None  # a protocol's own check
        left = self.data.take(left_over(self.protocol, self.block, self.data))
        generator = attacker(self.protocol, self.block).generator("judge")
        judge = self.protocol.judge(left, generator=generator, cache=FITS.get())
        with torch.no_grad():
            seen = judge(result.clamp(0, 1).float()).argmax(1)
        return [float(agrees) for agrees in seen == self.data.labels[chosen]]


def _mean_of_others(images: Tensor, chosen: Tensor) -> Tensor:
    """(C, H, W): what an attacker knows of the data without the attacked images; mid-gray where nothing is left."""
    keep = torch.ones(len(images), dtype=torch.bool)
    keep[chosen] = False
    return images[keep].mean(0) if bool(keep.any()) else torch.full(images.shape[1:], 0.5)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _bytes(images: Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
