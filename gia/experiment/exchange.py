"""What the clients of some images share, what an attack makes of it, and the score of what comes back."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia import attacks, federated, metrics
from gia.attacks.matching import Interrupted
from gia.experiment.measurement import Measurement
from gia.experiment.placebos import Guess, Placebos
from gia.experiment.protocol import Fishing
from gia.experiment.round import Round
from gia.experiment.scoring import CONTEXTUAL, LEAKS
from gia.federated import Observation, share_gradient
from gia.federated.losses import Loss, LossName
from gia.federated.server import classifier, fish_class

#: How an attack fails on its own account: it scores as if it had returned nothing, which is a finding.
_FAILED = (attacks.NothingFound, FloatingPointError)

#: Images per level that are stored for pictures.
SHOWN = 8


@dataclass(frozen=True, eq=False)
class Answer:
    """One client's answer: the model as sent, what it shared, and the images that are scored.

    Attributes:
        chosen: indices (N,) of those images, `reference` the images (N, C, H, W), and `labels` their labels (N,).
        target: the class that was fished for, if any.
    """

    model: nn.Module
    observation: Observation
    chosen: Tensor
    reference: Tensor
    labels: Tensor
    target: int | None = None

    @cached_property
    def truth(self) -> tuple[Tensor, Tensor]:
        """Images and labels in the order of an observation's labels, which are sorted."""
        order = self.labels.argsort(stable=True)
        return self.reference[order], self.labels[order]


class Exchange:
    """The answers of the clients that hold some of a round's images.

    Args:
        round: whose victim is sent.
        chosen: indices of the images: `round.private` or `round.control`.

    Attributes:
        placebo: what is returned in place of the attack's images, that of the protocol at first. What an exchange has
            made for one placebo serves the next one.
        loss: the clients' training loss.

    Raises ValueError where the images do not make whole batches.
    """

    loss: Loss | LossName = staticmethod(cross_entropy)

    def __init__(self, round: Round, chosen: Tensor) -> None:
        size, fish = round.protocol.batch.size, round.protocol.victim.fish
        if len(chosen) % size if fish is None else len(chosen) < size:
            raise ValueError(f"control_images: expected whole batches of size={size}, got {len(chosen)}")
        self.round, self.protocol, self.block, self.chosen = round, round.protocol, round.block, chosen
        self.dtype = getattr(torch, self.protocol.dtype)
        self.placebo = self.protocol.attacker.placebo

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
        answers, norm = self.answers, self.gradient_norm
        if self._runs:
            self.equipment  # noqa: B018 - made before the clock starts
        began = time.perf_counter()
        reconstructions = self.reconstructions(answers, start, settings)
        seconds = time.perf_counter() - began
        reference, result = self.reference, self._aligned(reconstructions)
        placebo = torch.cat([guess.best for guess in self.guesses])
        per_image = {name: self._score(name, result, reference) for name in scores if name != "psnr_lost"}
        if "psnr_lost" in scores:
            per_image["psnr_lost"] = self._lost(result, reference, start, settings)
        per_image["leak"] = self._score("leak", result, reference)
        guessed = {name: _score(name, placebo, reference) for name in ("psnr", "rmse")}
        values = {name: None if each is None else _mean(each) for name, each in per_image.items()}
        for name in LEAKS & set(values):  # averaged first: flooring each image would add to a leak of nothing
            values[name] = max(values[name] or 0.0, 0.0)
        if self.round.accuracy is not None:
            values["held_out_accuracy"] = self.round.accuracy
        objective = float(np.mean([math.nan if r.objective is None else r.objective for r in reconstructions]))
        finite = {"gradient_norm": norm, "objective": objective}
        return Measurement(
            values=values,
            counts={
                "gradient_evaluations": sum(each.gradient_evaluations for each in reconstructions),
                "unmatched": sum(
                    max(0, len(answer.reference) - len(found.images))
                    for answer, found in zip(answers, reconstructions, strict=True)
                ),
            },
            details={
                "placebo": {name: _mean(each) for name, each in guessed.items() if each is not None},
                "per_image": {name: each for name, each in per_image.items() if each is not None},
                "attacked": {"data": self.round.data.source, "images": self.round.private.tolist()},
                "seconds": seconds,
                **{name: value for name, value in finite.items() if math.isfinite(value)},
                **({"lost": lost} if (lost := sum(each.lost for each in reconstructions)) else {}),
            },
            arrays={}
            if self.placebo
            else {"originals": _bytes(reference[:SHOWN]), "reconstructions": _bytes(result[:SHOWN])},
        )

    def reconstructions(
        self, answers: Sequence[Answer], start: str, settings: Mapping[str, Any] | None = None
    ) -> list[attacks.Reconstruction]:
        """What the protocol's attack, or the placebo in its place, returns for each answer."""
        name = self.placebo
        if name == "unmoved" and self.searches:
            return self.attacked(answers, start, {**(settings or {}), "steps": 0})
        if name is None:
            return self.attacked(answers, start, settings)
        found = []
        for number, answer in enumerate(answers):
            images, labels = answer.truth
            returned = self.placebos.returned(name, images, labels, target=answer.target, number=number)
            found.append(attacks.Reconstruction(images=returned, labels=labels))
        return found

    def attacked(
        self, answers: Sequence[Answer], start: str, settings: Mapping[str, Any] | None = None
    ) -> list[attacks.Reconstruction]:
        """What the protocol's attack itself returns for each answer; no image where it fails on its own account.

        It fails where it raises `NothingFound`, and where its objective is not finite.

        Args:
            answers: to the same model, unless it was fished.
            start: the purpose of the generators that the attack gets.
            settings: put over those of the protocol.
        """
        given = {**self.protocol.attacker.settings, **self.equipment, **(settings or {})}
        with warnings.catch_warnings():
            warnings.simplefilter("error", Interrupted)
            try:
                try:
                    return self._run(answers, start, given, range(len(answers)))
                except _FAILED:  # which answer is not said, so each is attacked alone
                    return [self._found(answers, start, given, number) for number in range(len(answers))]
            except Interrupted as stopped:  # half an attack must not be scored, let alone stored
                raise KeyboardInterrupt from stopped

    def unmoved(self, answer: Answer, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """The starts of the attack's search on one answer, one for each generator; a start that diverges is left out.

        There the client's simulated training overflows, so the attack could not begin either.
        """
        settings = {**self.protocol.attacker.settings, **self.equipment, "steps": 0}
        if answer.target is not None:
            settings["target"] = answer.target
        same = [answer.observation] * len(generators)
        attack = self.protocol.attacker.attack
        try:
            starts = attacks.run_many(attack, answer.model, same, generators=generators, **settings)
        except _FAILED:
            return []
        return [each.images.detach().cpu() for each in starts if len(each.images)]

    @property
    def searches(self) -> bool:
        """Whether the attack searches, so that it has `steps`."""
        card = attacks.card_of(self.protocol.attacker.attack)
        return card is not None and card.iterative

    @cached_property
    def placebos(self) -> Placebos:
        """Of the attacker of these answers."""
        return Placebos(self.round, self.chosen, lambda: {**self.protocol.attacker.settings, **self.equipment})

    @cached_property
    def guesses(self) -> list[Guess]:
        """The placebos of each answer, matched with its images as reconstructions are."""
        found = []
        for number, answer in enumerate(self.answers):
            images, labels = answer.truth
            kinds = self.placebos.kinds(images, labels, target=answer.target, number=number)
            found.append(Guess(kinds, answer.reference))
        return found

    @cached_property
    def equipment(self) -> Mapping[str, Any]:
        """What the attacker made before anybody shared anything."""
        round, equip = self.round, self.protocol.attacker.equip
        if equip is None:
            return {}
        generator = round.attacker_generator("equip")
        return equip(self.protocol, round.victim, round.public, generator=generator, cache=round.cache)

    @property
    def _runs(self) -> bool:
        """Whether the attack is run, and no placebo in its place."""
        return self.placebo is None or (self.placebo == "unmoved" and self.searches)

    def _aligned(self, reconstructions: Sequence[attacks.Reconstruction]) -> Tensor:
        """The images in the order of the private ones, matched within each answer; the best placebo where none is."""
        return torch.cat(
            [
                metrics.align(found.images.detach().cpu(), answer.reference, blind=guess.best)
                for found, answer, guess in zip(reconstructions, self.answers, self.guesses, strict=True)
            ]
        )

    def _client(self, batch: Tensor, number: int) -> federated.Client:
        client = self.protocol.client
        return federated.Client(
            self._images(batch),
            self.round.data.labels[batch],
            local=client.local,
            reveal=client.reveal,
            defenses=client.defenses,
            defense_generator=self.block.generator("defense", number, 0) if client.defenses else None,
            generator=self.block.generator("order", number),
            loss=self.loss,
            training=client.training,
        )

    def _shared(self, batch: Tensor, number: int) -> Answer:
        observation, assumed = self._client(batch, number).answer(self.round.victim), self.protocol.attacker.assumed
        if assumed is not None:
            observation = replace(observation, local=assumed)
        return Answer(self.round.victim, observation, batch, self._images(batch), self.round.data.labels[batch])

    def _fished(self, fish: Fishing, number: int) -> Answer:
        batch = self.chosen[(number + torch.arange(self.protocol.batch.size)) % len(self.chosen)]
        client, target = self._client(batch, number), int(self.round.data.labels[batch[0]])
        if fish.kind == "class":
            sent = fish_class(self.round.victim, target=target)
            only = batch[:1]
            return Answer(sent, client.answer(sent), only, self._images(only), self.round.data.labels[only], target)
        sent, observation = attacks.fish(
            self.round.victim,
            client,
            target=target,
            queries=fish.queries,
            generator=self.block.generator("fish", number),
        )
        # The attacker does not know which image it caught; the score does: the one that still has a gradient.
        caught = batch[[self._isolated(sent, batch)]]
        return Answer(sent, observation, caught, self._images(caught), self.round.data.labels[caught], target)

    def _isolated(self, sent: nn.Module, batch: Tensor) -> int:
        """Place in the batch of the image with the largest gradient before the classifier."""
        last, norms = classifier(sent), []
        for index in batch:
            own = share_gradient(sent, self._images(index[None]), self.round.data.labels[index][None], loss=self.loss)
            norms.append(
                sum(float(g.square().sum()) for key, g in own.gradients.items() if not key.startswith(f"{last}."))
            )
        return int(np.argmax(norms))

    def _images(self, chosen: Tensor) -> Tensor:
        return self.round.data.images[chosen].to(self.dtype)

    def _lost(self, result: Tensor, reference: Tensor, start: str, settings: Mapping[str, Any] | None) -> list[float]:
        """PSNR of each fished image, had it been alone in its batch, less what it has: what isolation leaves mixed."""
        best = metrics.psnr(self._aligned(self.reconstructions(self._alone, start, settings)), reference)
        return [float(value) for value in best - metrics.psnr(result, reference)]

    @cached_property
    def _alone(self) -> list[Answer]:
        """The answers, had each fished image been alone in its batch."""
        return [
            replace(answer, observation=self._client(answer.chosen, number).answer(answer.model))
            for number, answer in enumerate(self.answers)
        ]

    def _run(
        self, answers: Sequence[Answer], start: str, settings: Mapping[str, Any], numbers: Sequence[int]
    ) -> list[attacks.Reconstruction]:
        attack: str | Callable[..., attacks.Reconstruction] = self.protocol.attacker.attack
        generators = [self.block.generator(start, number) for number in numbers]
        chosen = [answers[number] for number in numbers]
        if self.protocol.victim.fish is None:
            observations = [answer.observation for answer in chosen]
            return attacks.run_many(attack, chosen[0].model, observations, generators=generators, **settings)
        attack = attacks.find(attack)
        return [
            attack(answer.model, answer.observation, generator=generator, target=answer.target, **settings)
            for answer, generator in zip(chosen, generators, strict=True)
        ]

    def _found(
        self, answers: Sequence[Answer], start: str, settings: Mapping[str, Any], number: int
    ) -> attacks.Reconstruction:
        """What the attack returns for one answer: no image where it finds nothing."""
        try:
            return self._run(answers, start, settings, [number])[0]
        except _FAILED:
            return attacks.Reconstruction(images=answers[number].reference[:0])

    def _score(self, name: str, result: Tensor, reference: Tensor) -> list[float] | None:
        """One value per image, None below the size from which the metric is defined."""
        if name not in CONTEXTUAL:
            return _score(name, result, reference)
        round = self.round
        chosen = torch.cat([answer.chosen for answer in self.answers])
        placebo = torch.cat([guess.best for guess in self.guesses])
        if name == "leak":
            return _difference(metrics.psnr(result, reference), metrics.psnr(placebo, reference))
        if name == "exact_leak":
            exact = metrics.METRICS["exact_share"].function
            return _difference(exact(result, reference), exact(placebo, reference))
        if name == "psnr_other":
            return _score("psnr", result, self._images(round.others_of_their_class(chosen)))
        if name == "lpips_nearest":
            if min(reference.shape[-2:]) < metrics.METRICS["lpips_vgg"].minimum:
                return None
            return metrics.lpips_nearest(result, round.data.images[round.bystanders]).tolist()
        agreement = self._agreement(result, chosen)
        if name == "agreement_leak":
            kinds = [torch.cat([guess.kinds[kind] for guess in self.guesses]) for kind in self.guesses[0].kinds]
            best = max((self._agreement(images, chosen) for images in kinds), key=lambda each: float(each.mean()))
            return _difference(agreement, best)
        return [float(agrees) for agrees in agreement]

    def _agreement(self, images: Tensor, chosen: Tensor) -> Tensor:
        """1 for each image in which the judge sees the label of the private one, else 0."""
        judge = self._judge
        with torch.no_grad():
            seen = judge(images.clamp(0, 1).float()).argmax(1)
        agrees: Tensor = seen == self.round.data.labels[chosen]
        return agrees.double()

    @cached_property
    def _judge(self) -> nn.Module:
        round, judge = self.round, self.protocol.scoring.judge
        assert judge is not None  # the scoring's own check
        generator = round.attacker_generator("judge")
        return judge(round.data.take(round.remaining), generator=generator, cache=round.cache)


def _difference(of: Tensor, to: Tensor) -> list[float]:
    return [float(value) for value in of - to]


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
