"""What the clients of some images share, what an attack makes of it, and the score of what comes back."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gia import attacks, federated, metrics
from gia.attacks.matching import Interrupted
from gia.experiment.measurement import Measurement
from gia.experiment.protocol import CONTEXTUAL, Fishing
from gia.experiment.round import Round
from gia.federated import Observation, share_gradient
from gia.federated.server import classifier, fish_class

#: Images per level that are stored for pictures.
SHOWN = 8


@dataclass(frozen=True, eq=False)
class Answer:
    """One client's answer: the model as sent, what it shared, and the images that are scored.

    Attributes:
        chosen: indices (N,) of those images, `reference` the images (N, C, H, W).
        target: the class that was fished for, if any.
    """

    model: nn.Module
    observation: Observation
    chosen: Tensor
    reference: Tensor
    target: int | None = None


class Exchange:
    """The answers of the clients that hold some of a round's images.

    Args:
        round: whose victim is sent.
        chosen: indices of the images: `round.private` or `round.control`.

    Raises ValueError where the images do not make whole batches.
    """

    def __init__(self, round: Round, chosen: Tensor) -> None:
        size, fish = round.protocol.batch.size, round.protocol.victim.fish
        if len(chosen) % size if fish is None else len(chosen) < size:
            raise ValueError(f"control_images: expected whole batches of size={size}, got {len(chosen)}")
        self.round, self.protocol, self.block, self.chosen = round, round.protocol, round.block, chosen
        self.dtype = getattr(torch, self.protocol.dtype)

    @cached_property
    def answers(self) -> list[Answer]:
        """One per batch, or one per target of a malicious server that fishes."""
        size, fish = self.protocol.batch.size, self.protocol.victim.fish
        if fish is not None:
            return [self._fished(fish, number) for number in range(fish.targets)]
        return [self._shared(self.chosen[first : first + size], first) for first in range(0, len(self.chosen), size)]

    @property
    def observations(self) -> list[Observation]:
        """What the attacker sees of each answer."""
        return [answer.observation for answer in self.answers]

    @property
    def reference(self) -> Tensor:
        """The images that are scored, (N, C, H, W)."""
        return torch.cat([answer.reference for answer in self.answers])

    @cached_property
    def gradient_norm(self) -> float:
        """The smallest 2-norm among the shared gradients."""
        return min(
            math.sqrt(sum(float(g.double().square().sum()) for g in observation.gradients.values()))
            for observation in self.observations
        )

    def attack(
        self, start: str, *, settings: Mapping[str, Any] | None = None, scores: Sequence[str] | None = None
    ) -> Measurement:
        """Run the attack on every observation and score it.

        Args:
            start: the purpose of the generators that the attack gets.
            settings: put over those of the protocol.
            scores: in place of the protocol's metrics.
        """
        scores = self.protocol.scoring.metrics if scores is None else scores
        settings = {**self.protocol.attacker.settings, **self._equipment, **(settings or {})}
        answers, norm, mean_image = self.answers, self.gradient_norm, self._mean_of_others
        began = time.perf_counter()
        reconstructions = self._reconstructions(answers, start, settings)
        seconds = time.perf_counter() - began
        aligned, blinds, unmatched = [], [], 0
        for reconstruction, answer in zip(reconstructions, answers, strict=True):
            images = reconstruction.images.detach().cpu()
            blind = metrics.blind_guess(answer.reference, mean_image=mean_image)
            aligned.append(metrics.align(images, answer.reference, blind=blind))
            blinds.append(blind)
            unmatched += max(0, len(blind) - len(images))
        reference, result, blind = self.reference, torch.cat(aligned), torch.cat(blinds)
        per_image = {name: self._score(name, result, reference) for name in scores if name != "psnr_lost"}
        if "psnr_lost" in scores:
            per_image["psnr_lost"] = self._lost(result, reference, start, settings)
        guessed = {name: _score(name, blind, reference) for name in ("psnr", "rmse")}
        values = {name: None if each is None else _mean(each) for name, each in per_image.items()}
        if self.round.accuracy is not None:
            values["held_out_accuracy"] = self.round.accuracy
        objective = float(np.mean([math.nan if r.objective is None else r.objective for r in reconstructions]))
        finite = {"gradient_norm": norm, "objective": objective}
        return Measurement(
            values=values,
            counts={
                "gradient_evaluations": sum(each.gradient_evaluations for each in reconstructions),
                "unmatched": unmatched,
            },
            details={
                "blind": {name: _mean(each) for name, each in guessed.items() if each is not None},
                "per_image": {name: each for name, each in per_image.items() if each is not None},
                "seconds": seconds,
                **{name: value for name, value in finite.items() if math.isfinite(value)},
            },
            arrays={"originals": _bytes(reference[:SHOWN]), "reconstructions": _bytes(result[:SHOWN])},
        )

    def own_samples(self, steps: int) -> tuple[float, float]:
        """PSNR to samples of the decoder, one for each image and with its label.

        The first value is that of what the attack reaches with Adam, the second that of what it starts from, another
        such sample.
        """
        settings = {**self.protocol.attacker.settings, **self._equipment, "optimizer": "adam", "mirror": ()}

        def run(observations: Sequence[Observation], start: str, steps: int) -> list[attacks.Reconstruction]:
            generators = [self.block.generator(start, n) for n in range(len(observations))]
            given = {**settings, "steps": steps}
            attack = self.protocol.attacker.attack
            return attacks.run_many(attack, self.round.victim, observations, generators=generators, **given)

        own = run(self.observations, "own sample", 0)  # without a step, the start comes back
        shared = []
        for sample in own:
            assert sample.labels is not None  # latent search needs them
            answer = share_gradient(
                self.round.victim,
                sample.images,
                sample.labels,
                reveal=("labels",),
                training=self.protocol.client.training,
            )
            shared.append(answer)
        samples = torch.cat([sample.images for sample in own])
        end, start = (torch.cat([each.images for each in run(shared, "own search", n)]) for n in (steps, 0))
        return float(metrics.psnr(end, samples).mean()), float(metrics.psnr(start, samples).mean())

    def _client(self, batch: Tensor, number: int) -> federated.Client:
        client = self.protocol.client
        return federated.Client(
            self._images(batch),
            self.round.data.labels[batch],
            local=client.local,
            reveal=client.reveal,
            defenses=[
                partial(defense, generator=self.block.generator("defense", number, place))
                for place, defense in enumerate(client.defenses)
            ],
            generator=self.block.generator("order", number),
            training=client.training,
        )

    def _shared(self, batch: Tensor, number: int) -> Answer:
        observation, assumed = self._client(batch, number).answer(self.round.victim), self.protocol.attacker.assumed
        if assumed is not None:
            observation = replace(observation, local=assumed)
        return Answer(self.round.victim, observation, batch, self._images(batch))

    def _fished(self, fish: Fishing, number: int) -> Answer:
        batch = self.chosen[(number + torch.arange(self.protocol.batch.size)) % len(self.chosen)]
        client, target = self._client(batch, number), int(self.round.data.labels[batch[0]])
        if fish.kind == "class":
            sent = fish_class(self.round.victim, target=target)
            return Answer(sent, client.answer(sent), batch[:1], self._images(batch[:1]), target)
        sent, observation = attacks.fish(
            self.round.victim,
            client,
            target=target,
            queries=fish.queries,
            generator=self.block.generator("fish", number),
        )
        # The attacker does not know which image it caught; the score does: the one that still has a gradient.
        caught = batch[[self._isolated(sent, batch)]]
        return Answer(sent, observation, caught, self._images(caught), target)

    def _isolated(self, sent: nn.Module, batch: Tensor) -> int:
        """Place in the batch of the image with the largest gradient before the classifier."""
        last, norms = classifier(sent), []
        for index in batch:
            own = share_gradient(sent, self._images(index[None]), self.round.data.labels[index][None])
            norms.append(
                sum(float(g.square().sum()) for key, g in own.gradients.items() if not key.startswith(f"{last}."))
            )
        return int(np.argmax(norms))

    def _images(self, chosen: Tensor) -> Tensor:
        return self.round.data.images[chosen].to(self.dtype)

    @cached_property
    def _mean_of_others(self) -> Tensor:
        """(C, H, W): what an attacker knows of the data without the attacked images; mid-gray where none are left."""
        images = self.round.data.images
        others = torch.ones(len(images), dtype=torch.bool).index_fill(0, self.chosen, False)
        mean = images[others].mean(0) if bool(others.any()) else torch.full(images.shape[1:], 0.5)
        return mean.to(self.dtype)

    @cached_property
    def _equipment(self) -> Mapping[str, Any]:
        round, equip = self.round, self.protocol.attacker.equip
        if equip is None:
            return {}
        generator = round.attacker_generator("equip")
        return equip(self.protocol, round.victim, round.public, generator=generator, cache=round.cache)

    def _lost(self, result: Tensor, reference: Tensor, start: str, settings: Mapping[str, Any]) -> list[float]:
        """PSNR of each fished image, had it been alone in its batch, less what it has: what isolation leaves mixed."""
        alone = [
            replace(answer, observation=self._client(answer.chosen, number).answer(answer.model))
            for number, answer in enumerate(self.answers)
        ]
        reconstructions = self._reconstructions(alone, start, settings)
        best = metrics.psnr(torch.cat([each.images.detach().cpu() for each in reconstructions]), reference)
        return [float(value) for value in best - metrics.psnr(result, reference)]

    def _reconstructions(
        self, answers: Sequence[Answer], start: str, settings: Mapping[str, Any]
    ) -> list[attacks.Reconstruction]:
        attack: str | Callable[..., attacks.Reconstruction] = self.protocol.attacker.attack
        generators = [self.block.generator(start, number) for number in range(len(answers))]
        with warnings.catch_warnings():
            warnings.simplefilter("error", Interrupted)
            try:
                if self.protocol.victim.fish is None:
                    observations = [answer.observation for answer in answers]
                    return attacks.run_many(attack, self.round.victim, observations, generators=generators, **settings)
                attack = attacks.find(attack)
                return [
                    attack(answer.model, answer.observation, generator=generator, target=answer.target, **settings)
                    for answer, generator in zip(answers, generators, strict=True)
                ]
            except Interrupted as stopped:  # half an attack must not be scored, let alone stored
                raise KeyboardInterrupt from stopped

    def _score(self, name: str, result: Tensor, reference: Tensor) -> list[float] | None:
        if name not in CONTEXTUAL:
            return _score(name, result, reference)
        round, judge = self.round, self.protocol.scoring.judge
        chosen = torch.cat([answer.chosen for answer in self.answers])
        if name == "psnr_other":
            return _score("psnr", result, self._images(round.others_of_their_class(chosen)))
        if name == "lpips_nearest":
            if min(reference.shape[-2:]) < metrics.METRICS["lpips_vgg"].minimum:
                return None
            return metrics.lpips_nearest(result, round.data.images[round.bystanders]).tolist()
        assert judge is not None  # the scoring's own check
        generator = round.attacker_generator("judge")
        classify = judge(round.data.take(round.remaining), generator=generator, cache=round.cache)
        with torch.no_grad():
            seen = classify(result.clamp(0, 1).float()).argmax(1)
        return [float(agrees) for agrees in seen == round.data.labels[chosen]]


def _score(name: str, result: Tensor, reference: Tensor) -> list[float] | None:
    """One value per image, None below the size from which the metric is defined."""
    metric = metrics.METRICS[name]
    if min(reference.shape[-2:]) < metric.minimum:
        return None
    scores = [float(value) for value in metric.function(result, reference)]
    if not all(map(math.isfinite, scores)):
        raise ValueError(f"{name}: expected a finite value for each image, got {scores}")
    return scores


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _bytes(images: Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
