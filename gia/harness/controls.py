"""Controls: whether a block can say anything, seen on images that enter no statistic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from scipy.stats import binom

from gia import attacks, metrics
from gia.data import Images
from gia.harness.blocks import Block
from gia.harness.casting import fitted, images_of, others, public_images
from gia.harness.protocol import Protocol
from gia.harness.scene import Scene


@dataclass(frozen=True)
class Control:
    """Whether a block can say anything: `reason` tells what was seen either way."""

    passed: bool
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


def beats_blind_guess(protocol: Protocol, block: Block) -> Control:
    """The control of pixel attacks, on other images of the same victim: the attack is alive.

    The shared gradients are finite and not zero, the attack's objective fell, and its mean PSNR is above that of the
    blind guess (for each image the better of its best constant colour and the mean image). Where the protocol has a
    `fit`, whatever its state, the trained victim must have reached the accuracy that it states.
    """
    protocol = replace(protocol.drawn(block.setting), score=("psnr",))
    data = images_of(protocol)
    scene = Scene(protocol, block, data, others(protocol, block, data))
    if (norm := scene.gradient_norm) == 0:
        return Control(False, "failed: a shared gradient is zero", {"gradient_norm": norm})
    best: list[float] = []  # before each step; infinite until the start is evaluated
    watch = {"callback": lambda progress: best.append(float(progress.best.mean()))}
    iterative = attacks.CARDS[protocol.attack].iterative
    seen = scene.attacked("control start", **(watch if iterative else {}))
    psnr, blind = float(seen.values["psnr"] or 0.0), seen.blind["psnr"]
    checks = {f"PSNR {psnr:.2f} dB against {blind:.2f} dB blind": psnr > blind}
    values = {"psnr": psnr, "blind_psnr": blind, "gradient_norm": norm}
    if iterative:
        first, last = next(filter(math.isfinite, best), -math.inf), seen.objective
        checks[f"objective {first:.4g} to {last:.4g}"] = last < first
    return _control(protocol, block, data, checks, values)


def beats_auxiliary_mean(protocol: Protocol, block: Block) -> Control:
    """The control of a learned inverter, on other images of the same victim: it has learned something from gradients.

    Its mean PSNR is above that of the mean of the attacker's own images, the best that it could return without looking.
    The rest is as in `beats_blind_guess`.
    """
    protocol = replace(protocol.drawn(block.setting), score=("psnr",))
    data = images_of(protocol)
    scene = Scene(protocol, block, data, others(protocol, block, data))
    if (norm := scene.gradient_norm) == 0:
        return Control(False, "failed: a shared gradient is zero", {"gradient_norm": norm})
    psnr = float(scene.attacked("control start").values["psnr"] or 0.0)
    reference = torch.cat([each.reference for each in scene.shared])
    mean_image = public_images(protocol, block, data).images.mean(0).to(reference)
    mean = float(metrics.psnr(mean_image.expand_as(reference), reference).mean())
    checks = {f"PSNR {psnr:.2f} dB against {mean:.2f} dB of the auxiliary mean image": psnr > mean}
    return _control(protocol, block, data, checks, {"psnr": psnr, "mean_psnr": mean, "gradient_norm": norm})


#: What the control of latent search asks: decibels on the decoder's own samples, how many of them by the search (the
#: samples of a class resemble each other), and Adam's steps to get there.
OWN_SAMPLE, OWN_GAIN, OWN_STEPS = 20.0, 3.0, 80


def inverts_its_own_samples(protocol: Protocol, block: Block) -> Control:
    """The control of latent search, on other images of the same victim: search, decoder and judge are alive.

    Samples of the decoder, with the labels of the control images, are shared as gradients and come back with Adam at
    `OWN_SAMPLE` decibels on average, `OWN_GAIN` above other samples with their labels: a victim that gives nothing
    away, or a search that does not follow it, is void.
    The protocol's own attack on the control images ends nearer to them in PSNR than it starts: labels are given, so
    that a search that stays where it is would find the class as well. And it reaches the judge's "label_agreement"
    above chance, which is right guesses with 1 / classes each: at most 1 % of guessers do as well. Without a judge
    this is not asked. The rest is as in `beats_blind_guess`.
    """
    judged = protocol.judge is not None
    score = ("psnr", "label_agreement") if judged else ("psnr",)
    protocol = replace(protocol.drawn(block.setting), score=score)
    data = images_of(protocol)
    scene = Scene(protocol, block, data, others(protocol, block, data))
    if (norm := scene.gradient_norm) == 0:
        return Control(False, "failed: a shared gradient is zero", {"gradient_norm": norm})
    psnr, start = scene.own_samples(OWN_STEPS)
    found, first = (scene.attacked("control start", **steps).values for steps in ({}, {"steps": 0}))
    real, unmoved = (float(values["psnr"] or 0.0) for values in (found, first))
    checks = {
        f"own samples {start:.1f} to {psnr:.1f} dB, at least {OWN_SAMPLE:g} and {OWN_GAIN:g} more asked": (
            psnr >= max(OWN_SAMPLE, start + OWN_GAIN)
        ),
        f"real images {unmoved:.2f} to {real:.2f} dB": real > unmoved,
    }
    values = {"own_psnr": psnr, "psnr": real, "start_psnr": unmoved, "gradient_norm": norm}
    if judged:
        agreement = float(found["label_agreement"] or 0.0)
        chance, count = 1 / data.num_classes, len(scene.chosen)
        guessed = float(binom.sf(round(agreement * count) - 1, count, chance))
        checks[f"label agreement {agreement:.2f} of {count}, chance {chance:g}"] = guessed <= 0.01
        values["label_agreement"] = agreement
    return _control(protocol, block, data, checks, values)


def shares_gradients(protocol: Protocol, block: Block) -> Control:
    """The control where gradients are compared and nothing is attacked, on other images of the same victim.

    The shared gradients are finite and not zero. Where the protocol has a `fit`, whatever its state, the trained victim
    must have reached the accuracy that it states.
    """
    protocol = protocol.drawn(block.setting)
    data = images_of(protocol)
    norm = Scene(protocol, block, data, others(protocol, block, data)).gradient_norm
    return _control(protocol, block, data, {f"gradient norm {norm:.3g}": norm > 0}, {"gradient_norm": norm})


def _control(
    protocol: Protocol, block: Block, data: Images, checks: dict[str, bool], values: dict[str, float]
) -> Control:
    """Passed where all checks are fine and a victim to be trained has learned."""
    if protocol.fit is not None:
        learned, least = fitted(protocol, protocol.fit, block, data).accuracy, protocol.fit.accuracy
        text = f"held-out accuracy {learned:.3f} of the trained victim, at least {least:g} asked"
        checks, values = {**checks, text: learned >= least}, {**values, "held_out_accuracy": learned}
    failed = [text for text, fine in checks.items() if not fine]
    reason = "failed: " + "; ".join(failed) if failed else "; ".join(checks)
    return Control(not failed, reason, values)
