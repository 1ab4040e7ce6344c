"""Controls: whether the path from image to attack works at a level, seen on another victim and other images.

A control may look at the truth, which no attack may. A level that passes and leaks nothing is a finding; a level that
fails says nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gia import attacks, federated, metrics
from gia.attacks.analytics.tokens import misfit
from gia.experiment.exchange import Answer, Exchange
from gia.experiment.measurement import Control
from gia.experiment.protocol import Protocol
from gia.experiment.round import Block, Round
from gia.federated.server import classifier
from gia.federated.sharing import DivergedError

#: The smallest batch on which a search is controlled; larger levels need the other control images.
FEW = 2
#: A data term is zero at the truth where it is at most this share of the largest one at the noisy truth and the
#: placebos, or `ROUNDING` units of the dtype, to which 1 - cos is rounded. Updates, which are differences of weights,
#: are rounded more coarsely than gradients: 1e-6 of the largest in float32.
ZERO = {"float32": 1e-2, "float64": 1e-6}
ROUNDING = 4
#: Standard deviation of the noise that a data term must see.
NOISE = 0.1
#: Random starts that the search must beat.
STARTS = 8
#: Decibels above the class mean that a learned inverter must reach.
LEARNED = 1.0


def path_works(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The control of every attack, on control images and another victim, drawn from the same setting.

    - A search: (a) under the simulation that suits the attack (the client's order of images and its local training are
      known, and it has no defenses) the data term is zero at the truth, and larger at the truth plus noise and at every
      placebo; (b) what the attack finds has a lower data term, as the attacker sees it, than the best placebo and the
      best of `STARTS` random starts. (c) The values "found" and "truth" are data terms as the attacker sees them.
    - A learned inverter: its mean PSNR is at least `LEARNED` decibels above that of its training images' class means.
      Where these are of another domain (`Attacker.public`), the control's images are held out of them.
    - An analytic attack: in float64, with one image behind each gradient, every image comes back to 1e-3.
    - The closed form on patches: in float64, with one image behind each gradient and every parameter shared, the
      gradient's rows lie in the span of the truth's tokens, and neither in that of the truth plus noise nor in that of
      a placebo; what it finds explains them better than every placebo and than `STARTS` random images.

    Under `Attacker.placebo` the placebo takes the attack's place here too. Data terms are means over batches. Where the
    protocol has a `fit`, whatever its state, the trained victims of the block and of its control must both have reached
    the accuracy that it states. Other attacks without a search are controlled as one by the cosine of gradients. A
    block whose local training diverges, of the attacked clients or of the control's, is void.
    """
    round = Round(protocol, block, cache=cache)
    try:
        return _path_works(round)
    except DivergedError as error:
        return _control({str(error): False}, {}, {})


def _path_works(round: Round) -> Control:
    card = attacks.card_of(round.protocol.attacker.attack)
    if card is not None and card.leaf == "GEN-inverter":
        outside = round.protocol.attacker.public is not None  # the path is that from the attacker's domain to it
        controlled = round.controlled_on_public if outside else round.controlled
        exchange, of = Exchange(controlled, controlled.private), _learned
    elif card is not None and "patch_tokens" in card.needs:
        exchange, of = _singly(round), fitted
    elif card is not None and not card.iterative and card.leaf.startswith("ANA"):
        exchange, of = _singly(round), exact
    else:
        exchange, of = _few(round), searched
    if round.protocol.client.local is not None:
        attacked = Exchange(round, round.private)
        attacked.answers  # noqa: B018 - raises DivergedError, which no attack can be blamed for
        if of is _learned and attacked.placebo is None:
            attacked.equipment  # noqa: B018 - the same, of the batches that its inverter learns from
    checks, values = of(exchange)
    return _control(checks, values, {"": round, "control's ": exchange.round})


def shares_gradients(protocol: Protocol, block: Block, *, cache: Path | None = None) -> Control:
    """The control where gradients are compared and nothing is attacked, on other images of the same victim.

    The shared gradients are finite and not zero. Where the protocol has a `fit`, whatever its state, the trained victim
    must have reached the accuracy that it states.
    """
    round = Round(protocol, block, cache=cache)
    norm = Exchange(round, round.control).gradient_norm
    return _control({f"gradient norm {norm:.3g}": norm > 0}, {"gradient_norm": norm}, {"": round})


Checks = dict[str, bool]
Values = dict[str, float]


def _few(round: Round) -> Exchange:
    size, chosen = round.protocol.batch.size, round.control
    if round.protocol.victim.fish is None and len(chosen) >= size:
        chosen = chosen[: min(-(-FEW // size), len(chosen) // size) * size]
    return Exchange(round.controlled, chosen)


def _singly(round: Round) -> Exchange:
    """The control images of an analytic attack in batches of one, since each has its own gradient."""
    batch = round.protocol.batch
    changes = {"batch.size": 1, "batch.pattern_batch": batch.pattern_batch or batch.size}
    alone = Round(round.protocol.with_(changes), round.block, cache=round.cache)
    return Exchange(alone.controlled, alone.control)


def searched(exchange: Exchange) -> tuple[Checks, Values]:
    """The control of a search, as in `path_works`: text of each check -> whether it holds, and what was measured."""
    if (norm := exchange.gradient_norm) == 0:
        return {"a shared gradient is zero": False}, {"gradient_norm": norm}
    checks, values = _sees(exchange)
    if all(checks.values()):  # else there is nothing to search for
        more, seen = _follows(exchange)
        checks, values = {**checks, **more}, {**values, **seen}
    return checks, {**values, "gradient_norm": norm}


def _sees(exchange: Exchange) -> tuple[Checks, Values]:
    """(a) The objective sees the image."""
    terms: dict[str, list[float]] = {}
    for number, answer in enumerate(exchange.answers):
        ideal = _ideal(exchange, answer)
        if not _is_alive(ideal):
            return {"the ideal gradient is zero": False}, {}
        (truth, labels), noise = ideal.truth, exchange.round.block.generator("noise", number)
        noisy = (truth + NOISE * torch.randn(truth.shape, generator=noise, dtype=torch.float32).to(truth)).clamp(0, 1)
        at = {"truth": truth, "noisy truth": noisy, **_placebos(exchange, answer, number)}
        for kind, term in zip(at, _terms(exchange, ideal, list(at.values()), labels, mirrored=False), strict=True):
            terms.setdefault(kind, []).append(term)
    means = {kind: math.fsum(each) / len(each) for kind, each in terms.items()}
    at_truth = means.pop("truth")
    least = min(means, key=lambda kind: means[kind])
    dtype = exchange.protocol.dtype
    limit = max(ZERO[dtype] * max(means.values()), ROUNDING * torch.finfo(getattr(torch, dtype)).eps)
    checks = {
        f"ideal data term {at_truth:.2g} at the truth, at most {limit:.2g} asked": abs(at_truth) <= limit,
        f"ideal data term {means[least]:.2g} at the {least}, more than at the truth asked": means[least] > at_truth,
    }
    return checks, {"ideal_truth": at_truth, "ideal_noisy_truth": means["noisy truth"]}


def _follows(exchange: Exchange) -> tuple[Checks, Values]:
    """(b) The search works: what it finds is closer to what was observed than what it could return without it."""
    answers = exchange.answers
    results = exchange.reconstructions(answers, "control start")
    if not all(len(result.images) for result in results):
        return {"the attack found nothing": False}, {}
    found, truth, best = [], [], []
    for number, (answer, result) in enumerate(zip(answers, results, strict=True)):
        images, labels = answer.truth
        restored = labels if result.labels is None else result.labels
        found += _terms(exchange, answer, [result.images], restored)
        without = [*_placebos(exchange, answer, number).values(), *_starts(exchange, answer, number)]
        at_truth, *terms = _terms(exchange, answer, [images, *without], labels)
        truth.append(at_truth)
        best.append(min(filter(math.isfinite, terms), default=math.inf))  # what overflows is no better start
    values = {
        name: math.fsum(each) / len(each) for name, each in {"found": found, "truth": truth, "unsearched": best}.items()
    }
    text = f"data term {values['found']:.3g} found, {values['unsearched']:.3g} unsearched, {values['truth']:.3g} true"
    return {text: values["found"] < values["unsearched"]}, values


def _starts(exchange: Exchange, answer: Answer, number: int) -> list[Tensor]:
    """Random starts, and the attack's own, so that standing still does not pass by luck."""
    card = attacks.card_of(exchange.protocol.attacker.attack)
    own, block = exchange.block.generator("control start", number), exchange.block
    random = [block.generator("random start", start, number) for start in range(STARTS)]
    if not exchange.searches:  # without steps there is no start
        return [torch.rand(answer.reference.shape, generator=generator, dtype=torch.float32) for generator in random]
    if card is not None and card.leaf == "GEN-z":  # its search may begin at one fixed latent
        return exchange.unmoved(answer, [own]) + [exchange.placebos.samples(*answer.truth, each) for each in random]
    return exchange.unmoved(answer, [own, *random])


def _learned(exchange: Exchange) -> tuple[Checks, Values]:
    if (norm := exchange.gradient_norm) == 0:
        return {"a shared gradient is zero": False}, {"gradient_norm": norm}
    psnr = float(exchange.attack("control start", scores=("psnr",)).values["psnr"] or 0.0)
    means = torch.cat([guess.kinds["class mean"] for guess in exchange.guesses])
    mean = float(metrics.psnr(means, exchange.reference).mean())
    checks = {f"PSNR {psnr:.2f} dB, at least {LEARNED:g} above {mean:.2f} of the class mean": psnr >= mean + LEARNED}
    return checks, {"psnr": psnr, "class_mean_psnr": mean, "gradient_norm": norm}


def exact(exchange: Exchange) -> tuple[Checks, Values]:
    """The control of an analytic attack, as in `path_works`.

    One image after the other, since a malicious server's models and gradients are large.
    """
    doubles: dict[int, nn.Module] = {}
    errors = []
    for answer in exchange.answers:
        model = doubles.setdefault(id(answer.model), copy.deepcopy(answer.model).double())
        for index in range(len(answer.chosen)):
            one = slice(index, index + 1)
            alone = _alone(exchange, answer, model, one)
            (result,) = exchange.reconstructions([alone], "control start")
            images = result.images.detach().cpu().to(alone.reference)
            apart = (images - alone.reference).abs().flatten(1).amax(1)
            errors.append(float(apart.min()) if len(apart) else math.inf)
    recovered = sum(error <= 1e-3 for error in errors)
    text = f"{recovered} of {len(errors)} images exact, each alone and in float64"
    return {text: recovered == len(errors)}, {"recovered": recovered / len(errors)}


def fitted(exchange: Exchange) -> tuple[Checks, Values]:
    """The control of the closed form on patches, as in `path_works`."""
    terms: dict[str, list[float]] = {}
    for number, answer in enumerate(exchange.answers):
        model = copy.deepcopy(answer.model).double().requires_grad_(True)
        alone = _alone(exchange, answer, model, slice(None))
        (result,) = exchange.reconstructions([alone], "control start")
        truth, noise = alone.reference, exchange.round.block.generator("noise", number)
        noisy = (truth + NOISE * torch.randn(truth.shape, generator=noise, dtype=torch.float32).to(truth)).clamp(0, 1)
        images = {"truth": truth, "found": result.images, "noisy truth": noisy, **_placebos(exchange, answer, number)}
        for start in range(STARTS):
            generator = exchange.round.block.generator("random start", start, number)
            images[f"random image {start}"] = torch.rand(truth.shape, generator=generator, dtype=torch.float32)
        for kind, each in images.items():
            terms.setdefault(kind, []).append(misfit(model, alone.observation, each))
    means = {kind: math.fsum(each) / len(each) for kind, each in terms.items()}
    at_truth, found = means.pop("truth"), means.pop("found")
    least = min(means, key=lambda kind: means[kind])
    limit = ZERO["float64"] * max(means.values())
    checks = {
        f"misfit {at_truth:.2g} at the truth, at most {limit:.2g} asked": at_truth <= limit,
        f"misfit {means[least]:.2g} at the {least}, above that of the truth asked": at_truth < means[least],
        f"misfit {found:.2g} found, less than half of {means[least]:.2g} asked": found < means[least] / 2,
    }
    return checks, {"ideal_truth": at_truth, "found": found, "unsearched": means[least]}


def _ideal(exchange: Exchange, answer: Answer) -> Answer:
    """The answer under the simulation that suits the attack."""
    client, fished = exchange.protocol.client, answer.target is not None
    images, labels = answer.truth
    asked = federated.Client(
        images,
        labels,
        # A fished gradient is matched as that of one image, with running statistics and without local steps.
        local=None if fished else client.local,
        reveal={*client.reveal, "local"},
        loss=exchange.loss,
        training=client.training and not fished,
    )
    return replace(answer, observation=asked.answer(answer.model))


def _is_alive(answer: Answer) -> bool:
    """Whether the gradient is not zero; after fishing the classifier's does not count."""
    left_out = () if answer.target is None else (f"{classifier(answer.model)}.",)
    gradients = answer.observation.gradients
    return any(bool(g.any()) for name, g in gradients.items() if not name.startswith(left_out))


def _alone(exchange: Exchange, answer: Answer, model: nn.Module, one: slice) -> Answer:
    client, reference, labels = exchange.protocol.client, answer.reference[one].double(), answer.labels[one]
    asked = federated.Client(
        reference,
        labels,
        local=client.local,
        reveal={*client.reveal, "local"},
        loss=exchange.loss,
        training=client.training,
    )
    return replace(
        answer,
        model=model,
        observation=asked.answer(model),
        chosen=answer.chosen[one],
        reference=reference,
        labels=labels,
    )


def _placebos(exchange: Exchange, answer: Answer, number: int) -> Mapping[str, Tensor]:
    return exchange.placebos.kinds(*answer.truth, target=answer.target, number=number)


def _terms(
    exchange: Exchange, answer: Answer, images: Sequence[Tensor], labels: Tensor, *, mirrored: bool = True
) -> list[float]:
    attack: Any = exchange.protocol.attacker.attack
    settings = dict(exchange.protocol.attacker.settings)
    if not mirrored:
        settings.pop("mirror", None)
    if answer.target is not None:
        settings["target"] = answer.target
    if not exchange.searches:  # it has no data term
        attack, settings = "inverting_gradients", {}
    return attacks.data_terms(attack, answer.model, answer.observation, images, labels, **settings)


def _control(checks: Checks, values: Values, rounds: Mapping[str, Round]) -> Control:
    """Passed where all checks hold and victims that are to be trained have learned."""
    for whose, round in rounds.items():
        if (fit := round.protocol.fit) is not None:
            learned, least = round.fitted.accuracy, fit.accuracy
            text = f"held-out accuracy {learned:.3f} of the {whose}trained victim, at least {least:g} asked"
            checks = {**checks, text: learned >= least}
            values = {**values, f"{'control_' if whose else ''}held_out_accuracy": learned}
    values = {name: value for name, value in values.items() if math.isfinite(value)}  # the text has the others
    failed = [text for text, holds in checks.items() if not holds]
    reason = "failed: " + "; ".join(failed) if failed else "; ".join(checks)
    return Control(not failed, reason, values)
