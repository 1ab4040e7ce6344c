"""Placebos: what an attacker can return without looking at the gradient, given everything else that it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gia import attacks, metrics
from gia.attacks.generation.decoding import as_images, decoder_for, takes_labels
from gia.errors import expected_one_of
from gia.experiment.protocol import Protocol
from gia.experiment.round import Round
from gia.federated import set_mode

#: What `placebo` takes: placebo attackers, and the saboteur.
PLACEBOS = ("blind", "labels", "nearest", "noise", "unmoved", "saboteur")

#: Labelled samples of a decoder whose mean is a placebo.
SAMPLES = 64


#: Scores that decide nothing and cost most; a placebo run leaves them out.
_SHOWN = frozenset({"ssim", "cw_ssim", "lpips", "lpips_vgg"})


def placebo(name: str, *, controlled: bool = True) -> Callable[[Protocol, int], Protocol]:
    """A function that puts a placebo in the place of a level's attack.

    Args:
        name: one of `PLACEBOS`. "saboteur" returns the private images at the first level and noise at all others; the
            other names are those of `Attacker.placebo`.
        controlled: whether the level keeps its control. Without it a run is cheap, and asks more of the other rules.

    Returns (level, position among the levels) -> level. Raises ValueError for an unknown name.

    >>> from gia.experiment import Attacker, Batch, Protocol, Victim, placebo
    >>> batch = Batch(data="digits", image_size=8)
    >>> level = Protocol(victim=Victim(name="mlp"), batch=batch, attacker=Attacker(attack="dlg"))
    >>> [placebo("saboteur")(level, position).attacker.placebo for position in range(3)]
    ['truth', 'noise', 'noise']
    """
    if name not in PLACEBOS:
        raise ValueError(expected_one_of("placebo", name, PLACEBOS))

    def put(level: Protocol, position: int) -> Protocol:
        sabotage = "noise" if position else "truth"
        metrics = tuple(metric for metric in level.scoring.metrics if metric not in _SHOWN)
        changes = {"attacker.placebo": sabotage if name == "saboteur" else name, "scoring.metrics": metrics}
        return level.with_(changes if controlled else {**changes, "scoring.control": None})

    return put


class Placebos:
    """The placebos of one round's attacker.

    Each image has a constant in its own best colour (more than an attacker knows), the mean of the public images and,
    where labels are given, the mean of its class in them. Latent search adds what its decoder makes without a gradient:
    an unsearched sample, the zero latent, and the mean of `SAMPLES` labelled samples.

    Args:
        round: whose attacker it is.
        attacked: indices of the attacked images. They are in no mean, even where all other images are attacked too.
        settings: makes the attack's settings with its equipment; called only where a decoder is needed.
    """

    def __init__(self, round: Round, attacked: Tensor, settings: Callable[[], Mapping[str, Any]]) -> None:
        self._round, self._attacked, self._settings = round, attacked, settings
        card = attacks.card_of(round.protocol.attacker.attack)
        self._leaf = None if card is None else card.leaf

    def kinds(self, reference: Tensor, labels: Tensor, *, target: int | None, number: int) -> dict[str, Tensor]:
        """Name of each kind -> its images, like `reference` (N, C, H, W) with `labels` (N,), of answer `number`.

        `target` is the class that was fished for, if any.
        """
        found = {
            "constant": reference.mean((2, 3), keepdim=True).expand_as(reference),
            "mean": self._mean.to(reference).expand_as(reference),
        }
        if self._labels_given(target):
            found["class mean"] = self._class_means(labels, target).to(reference)
        if self._leaf == "GEN-z":
            found["sample"] = self.samples(reference, labels, self._round.block.generator("sample", number))
            zeros = torch.zeros(len(labels), *self._decoder.latent_shape)  # type: ignore[misc]
            found["zero latent"] = self._decoded(reference, zeros, labels)
            found["mean of samples"] = self._means_of_samples(reference, labels)
        return found

    def samples(self, reference: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Unsearched samples of the attack's decoder, with these labels."""
        return self._decoded(reference, self._latents(len(labels), generator), labels)

    def returned(self, name: str, reference: Tensor, labels: Tensor, *, target: int | None, number: int) -> Tensor:
        """The images that a placebo attacker returns for answer `number`, with arguments as in `kinds`.

        "labels" takes the mean image where labels are not given, as an attacker would.
        """
        if name == "truth":
            return reference
        if name == "noise":
            noise = torch.rand(
                reference.shape, generator=self._round.block.generator("placebo noise", number), dtype=torch.float32
            )
            return noise.to(reference)
        if name == "blind":
            return reference.mean((2, 3), keepdim=True).expand_as(reference)
        means = self._mean.expand(len(labels), *self._mean.shape)
        if name in ("labels", "nearest") and self._labels_given(target):
            means = self._class_means(labels, target)
        if name == "nearest":
            images = self._public[0]
            means = images[torch.cdist(means.flatten(1), images.flatten(1)).argmin(1)]
        return means.to(reference)

    def _labels_given(self, target: int | None) -> bool:
        """A learned inverter holds the labels of its images, and its control is to beat their class means."""
        return target is not None or self._leaf == "GEN-inverter" or "labels" in self._round.protocol.client.reveal

    @cached_property
    def _public(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the attacker; where it has none, of all that are not attacked; else mid-gray."""
        round, data = self._round, self._round.data
        if round.protocol.attacker.public is not None or len(round.remaining):
            return round.public.images, round.public.labels
        others = torch.ones(len(data), dtype=torch.bool).index_fill(0, self._attacked, False)
        if bool(others.any()):
            return data.images[others], data.labels[others]
        return torch.full((1, *data.images.shape[1:]), 0.5), torch.tensor([-1])

    @cached_property
    def _mean(self) -> Tensor:
        return self._public[0].mean(0)

    def _class_means(self, labels: Tensor, target: int | None) -> Tensor:
        """(N, C, H, W); the mean of all images for a class that the attacker has no image of."""
        images, known = self._public
        wanted = labels.tolist() if target is None else [target] * len(labels)
        means = {
            label: images[known == label].mean(0) if bool((known == label).any()) else self._mean
            for label in set(wanted)
        }
        return torch.stack([means[label] for label in wanted])

    @cached_property
    def _decoder(self) -> nn.Module:
        reference = torch.empty(0, dtype=getattr(torch, self._round.protocol.dtype))
        return set_mode(decoder_for(self._settings().get("decoder"), reference), False)

    def _latents(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn((count, *self._decoder.latent_shape), generator=generator, dtype=torch.float32)  # type: ignore[misc]

    @torch.no_grad()
    def _decoded(self, reference: Tensor, latents: Tensor, labels: Tensor) -> Tensor:
        latents = latents.to(reference)
        inputs = (latents, labels) if takes_labels(self._decoder) else (latents,)
        _, channels, height, width = reference.shape
        return as_images(self._decoder(*inputs), (channels, height, width)).clamp(0, 1)

    def _means_of_samples(self, reference: Tensor, labels: Tensor) -> Tensor:
        latents = self._latents(SAMPLES, self._round.block.generator("mean of samples"))
        means = {
            label: self._decoded(reference, latents, torch.full((SAMPLES,), label)).mean(0)
            for label in set(labels.tolist())
        }
        return torch.stack([means[label] for label in labels.tolist()])


class Guess:
    """The placebos of one answer, in the order of its images, and for each image the one with the best PSNR."""

    def __init__(self, kinds: Mapping[str, Tensor], reference: Tensor) -> None:
        self.kinds = {
            kind: metrics.align(images, reference, blind=reference) for kind, images in kinds.items()
        }  # as many as private ones, so none is blind
        every = torch.stack(list(self.kinds.values()))
        nearest = torch.stack([metrics.psnr(images, reference) for images in every]).argmax(0)
        self.best = every[nearest, torch.arange(len(reference))]
