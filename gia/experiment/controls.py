"""Controls: whether a block can say anything, seen on images that enter no statistic."""

from __future__ import annotations

import math
from pathlib import Path

from scipy.stats import binom

from gia import attacks, metrics
from gia.experiment.exchange import Exchange
from gia.experiment.measurement import Control
from gia.experiment.protocol import Protocol
from gia.experiment.round import Block, Round


def beats_blind_guess(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The control of pixel attacks, on other images of the same victim: the attack works.

    The shared gradients are finite and not zero, the attack's objective fell, and its mean PSNR is above that of the
    blind guess (for each image the better of its best constant colour and the mean image). Where the protocol has a
    `fit`, whatever its state, the trained victim must have reached the accuracy that it states.
    """
    exchange = _on_control_images(protocol, block, cache)
    if (norm := exchange.gradient_norm) == 0:
        return _no_gradient(norm)
    card = attacks.card_of(protocol.attacker.attack)
    iterative = card is not None and card.iterative
    best: list[float] = []  # before each step; infinite until the start is evaluated
    watch = {"callback": lambda progress: best.append(float(progress.best.mean()))}
    seen = exchange.attack("control start", settings=watch if iterative else {}, scores=("psnr",))
    psnr, blind = float(seen.values["psnr"] or 0.0), seen.details["blind"]["psnr"]
    checks = {f"PSNR {psnr:.2f} dB against {blind:.2f} dB blind": psnr > blind}
    if iterative:
        first, last = next(filter(math.isfinite, best), -math.inf), seen.details.get("objective", math.nan)
        checks[f"objective {first:.4g} to {last:.4g}"] = last < first
    return _control(exchange.round, checks, {"psnr": psnr, "blind_psnr": blind, "gradient_norm": norm})


def beats_auxiliary_mean(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The control of a learned inverter, on other images of the same victim: it has learned something from gradients.

    Its mean PSNR is above that of the mean of the attacker's own images, the best that it could return without looking.
    The rest is as in `beats_blind_guess`.
    """
    exchange = _on_control_images(protocol, block, cache)
    if (norm := exchange.gradient_norm) == 0:
        return _no_gradient(norm)
    psnr = float(exchange.attack("control start", scores=("psnr",)).values["psnr"] or 0.0)
    reference = exchange.reference
    mean_image = exchange.round.public.images.mean(0).to(reference)
    mean = float(metrics.psnr(mean_image.expand_as(reference), reference).mean())
    checks = {f"PSNR {psnr:.2f} dB against {mean:.2f} dB of the auxiliary mean image": psnr > mean}
    return _control(exchange.round, checks, {"psnr": psnr, "mean_psnr": mean, "gradient_norm": norm})


#: What the control of latent search asks of the decoder's own samples, in decibels: the PSNR, and how much of it the
#: search must add (samples of a class resemble each other); and the number of Adam's steps that it has for that.
OWN_SAMPLE, OWN_GAIN, OWN_STEPS = 20.0, 3.0, 80


def inverts_its_own_samples(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The control of latent search, on other images of the same victim: search, decoder and judge work.

    Samples of the decoder, with the labels of the control images, are shared as gradients and come back with Adam at
    `OWN_SAMPLE` decibels on average, `OWN_GAIN` above other samples with their labels: a victim that gives nothing
    away, or a search that does not follow it, is void.
    The protocol's own attack on the control images ends nearer to them in PSNR than it starts: labels are given, so a
    search that stays where it starts would find the class as well. The attack also reaches the judge's
    "label_agreement" above chance, which is right guesses with 1 / classes each: at most 1 % of guessers do as well.
    Without a judge this is not asked. The rest is as in `beats_blind_guess`.
    """
    judged = protocol.scoring.judge is not None
    scores = ("psnr", "label_agreement") if judged else ("psnr",)
    exchange = _on_control_images(protocol, block, cache)
    if (norm := exchange.gradient_norm) == 0:
        return _no_gradient(norm)
    psnr, start = exchange.own_samples(OWN_STEPS)
    end, first = (
        exchange.attack("control start", settings=steps, scores=scores).values for steps in ({}, {"steps": 0})
    )
    real, unmoved = (float(values["psnr"] or 0.0) for values in (end, first))
    checks = {
        f"own samples {start:.1f} to {psnr:.1f} dB, at least {OWN_SAMPLE:g} and {OWN_GAIN:g} more asked": (
            psnr >= max(OWN_SAMPLE, start + OWN_GAIN)
        ),
        f"real images {unmoved:.2f} to {real:.2f} dB": real > unmoved,
    }
    values = {"own_psnr": psnr, "psnr": real, "start_psnr": unmoved, "gradient_norm": norm}
    if judged:
        agreement = float(end["label_agreement"] or 0.0)
        chance, count = 1 / exchange.round.data.num_classes, len(exchange.chosen)
        guessed = float(binom.sf(round(agreement * count) - 1, count, chance))
        checks[f"label agreement {agreement:.2f} of {count}, chance {chance:g}"] = guessed <= 0.01
        values["label_agreement"] = agreement
    return _control(exchange.round, checks, values)


def shares_gradients(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The control where gradients are compared and nothing is attacked, on other images of the same victim.

    The shared gradients are finite and not zero. Where the protocol has a `fit`, whatever its state, the trained victim
    must have reached the accuracy that it states.
    """
    exchange = _on_control_images(protocol, block, cache)
    norm = exchange.gradient_norm
    return _control(exchange.round, {f"gradient norm {norm:.3g}": norm > 0}, {"gradient_norm": norm})


def _on_control_images(protocol: Protocol, block: Block, cache: Path | None) -> Exchange:
    round = Round(protocol, block, cache=cache)
    return Exchange(round, round.control)


def _no_gradient(norm: float) -> Control:
    return Control(False, "failed: a shared gradient is zero", {"gradient_norm": norm})


def _control(round: Round, checks: dict[str, bool], values: dict[str, float]) -> Control:
    """Passed where all checks hold and a victim that is to be trained has learned."""
    if (fit := round.protocol.fit) is not None:
        learned, least = round.fitted.accuracy, fit.accuracy
        text = f"held-out accuracy {learned:.3f} of the trained victim, at least {least:g} asked"
        checks, values = {**checks, text: learned >= least}, {**values, "held_out_accuracy": learned}
    failed = [text for text, holds in checks.items() if not holds]
    reason = "failed: " + "; ".join(failed) if failed else "; ".join(checks)
    return Control(not failed, reason, values)
