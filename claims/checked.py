"""A malicious server whose clients check what they receive: what leaks, and to which server (Sec. VI, stage 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from claims.evasion import SIZE, SPACE, WIDTH, Manipulation, manipulated, recovered
from gia import metrics
from gia.data import load_cached
from gia.experiment import Control, Measurement, Protocol
from gia.experiment.round import Block
from gia.federated import Client, validate_model
from gia.models import build

#: Manipulations that a server tries on its own copy of the model, beside each kind at full strength.
TRIES = 12

#: PSNR in decibels of an error of 1e-3 in every pixel, with which an image counts as exact.
EXACT = 60.0

#: Of these, a kind takes the settings that it knows (`claims.evasion.Manipulation`).
FULL_STRENGTH: dict[str, Any] = {
    "bins": 150,
    "noise": 0.0,
    "shuffled": False,
    "scaling": 0.0,
    "probe": (0, 0),
    "centred": False,
    "spared": 0.0,
    "shared": 1.0,
    "rate": 0.05,
    "strength": 3.0,
    "given": "first round",
}


class _Scene:
    """One block: the client's images, the server's, the honest model and what the server may send."""

    def __init__(self, protocol: Protocol, block: Block, purpose: str) -> None:
        self.protocol = protocol = protocol.drawn(block.setting)
        self.g = block.generator(purpose)
        self.block, self.size = block, protocol.batch.size
        data = load_cached(protocol.batch.data, image_size=SIZE)
        order = torch.randperm(len(data.labels), generator=self.g)
        self.chosen = order[: self.size]
        self.images, self.labels = data.images[self.chosen], data.labels[self.chosen]
        # What the server holds: as many images to rehearse on, and the rest to fit its bins to.
        rehearsed, self.others = order[self.size : 2 * self.size], data.images[order[2 * self.size :]]
        self.public = data.images[rehearsed], data.labels[rehearsed]
        self.model = build(
            protocol.victim.name,
            num_classes=data.num_classes,
            image_size=SIZE,
            channels=self.images.shape[1],
            generator=self.g,
            **protocol.victim.options,
        ).eval()

    def leaked(self, sent: nn.Module, images: Tensor, labels: Tensor, scales: Tensor) -> dict[int, Tensor]:
        """Index -> image, of those that a client with these images leaks."""
        client = Client(images, labels, local=self.protocol.client.local, generator=self.g)
        return recovered(client.answer(sent), images, scales)

    def strongest(self, *, passing: bool) -> tuple[nn.Module, Tensor]:
        """What leaks most on the server's own images, of the tries, or of those that pass the checks there."""
        best, most = (self.model, torch.ones(WIDTH)), 0
        for how in self._tries():
            with torch.no_grad():
                sent, scales = manipulated(how, self.model, self.others.flatten(1), int(self.labels[0]), self.g)
            if passing and not validate_model(sent, batch=self.public).ok:
                continue
            if (count := len(self.leaked(sent, *self.public, scales))) > most:
                best, most = (sent, scales), count
        return best

    def _tries(self) -> list[Manipulation]:
        """Each kind at full strength, and draws from the space of `detect.evasion`."""
        kinds = self.protocol.attacker.settings["kinds"]
        tries = [Manipulation(kind=kind, seed=0, **FULL_STRENGTH) for kind in kinds]
        g = self.block.generator("tries")
        for number in range(TRIES):
            drawn = {name: values[int(torch.randint(len(values), (1,), generator=g))] for name, values in SPACE.items()}
            strength = 0.5 + 2.5 * float(torch.rand((), generator=g))
            kind = kinds[number % len(kinds)]
            tries.append(
                Manipulation(**{**drawn, "kind": kind, "seed": 0, "strength": strength, "given": "first round"})
            )
        return tries


def behind_checks(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Measurement:
    """What leaks to a malicious server, where `checked` in the attack's settings says how clients and server behave.

    None: clients check nothing, and the server sends what leaks most on its images. "naive": the server sends
    the same, and clients refuse what `gia.validate_model` flags. "adaptive": the server sends the strongest of its
    tries that pass these checks, or the honest model where none does. Clients know no earlier model. A refused model
    leaks nothing. Which of the server's quotients are images is seen by the images, as in `detect.evasion`. An exact
    image counts as `EXACT` decibels: above it, PSNR is that of rounding.
    """
    scene = _Scene(protocol, block, "model and images")
    checked = scene.protocol.attacker.settings["checked"]
    sent, scales = scene.strongest(passing=checked == "adaptive")
    refused = checked is not None and not validate_model(sent, batch=(scene.images, scene.labels)).ok
    found = {} if refused else scene.leaked(sent, scene.images, scene.labels, scales)
    images = scene.images
    guesses = torch.stack([images.mean((2, 3), keepdim=True).expand_as(images), scene.others.mean(0).expand_as(images)])
    placebo = torch.stack([metrics.psnr(guess, images) for guess in guesses]).amax(0)
    gained = [
        min(float(metrics.psnr(found[i][None], images[i : i + 1])[0]), EXACT) - float(placebo[i]) if i in found else 0.0
        for i in range(len(images))
    ]
    return Measurement(
        values={
            "leak": max(sum(gained) / len(gained), 0.0),
            "exact_leak": len(found) / len(images),
            "refused": float(refused),
        },
        details={"attacked": {"data": protocol.batch.data, "images": scene.chosen.tolist()}},
    )


def path_works(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """One image alone behind the gradient of the level's model comes back to 1e-3, for each of four other images.

    The model is the one that this level's server sends, on another victim.
    """
    scene = _Scene(protocol, block, "control")
    sent, scales = scene.strongest(passing=scene.protocol.attacker.settings["checked"] == "adaptive")
    alone = [slice(i, i + 1) for i in range(4)]
    shared = [Client(scene.images[i], scene.labels[i]).answer(sent) for i in alone]
    exact = sum(len(recovered(each, scene.images[i], scales)) for each, i in zip(shared, alone, strict=True))
    return Control(exact == len(alone), f"{exact} of {len(alone)} images exact, each alone", {"recovered": exact / 4})
