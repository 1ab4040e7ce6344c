"""The audit itself: which parts are run on which budget, and what is said about them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gia import attacks, defenses
from gia.audit.captured import observation_from
from gia.audit.kinds import KINDS, UNTRIED, chosen_kinds
from gia.audit.parts import Parts, sources
from gia.audit.pictures import images_for
from gia.audit.report import AuditReport, Leak, Validated, WhatIf
from gia.audit.setup import Setup, digest_of_tensors, one_line, shape_for, unwrapped
from gia.audit.trial import ROOM, Trial, answer_of
from gia.data import Images
from gia.errors import expected_one_of
from gia.experiment.exchange import Answer
from gia.federated import LocalTraining, Observation, share_gradient, validate_model
from gia.federated.layers import classifier
from gia.federated.losses import Loss, LossName, loss_of
from gia.federated.server import fish_class, imprint, trap_weights
from gia.numerics import digest_of, generator_of

__all__ = ["audit"]

Budget = Literal["quick", "full"]
#: (what runs, step, steps) of every step of a search, and (what runs, 0, 0) for a part without steps.
Watch = Callable[[str, int, int], None]

#: Seconds that the searches of a quick audit may take; the rest of its two minutes goes to everything else.
QUICK_SECONDS = 60.0
#: Seconds after which a quick audit begins no further what-if, whatever was planned: other work may slow it down.
LATE_SECONDS = 95.0
#: Numbers of steps that a quick audit chooses from: about what the seconds allow, so that small differences of speed
#: do not change the result.
LADDER = (20, 30, 45, 70, 100, 150, 220, 320, 480, 700, 1000)
#: Most steps of a search of a full audit; it ends before, once it has converged.
FULL_STEPS = 4800
CONVERGED = 0.01
#: Batches that are attacked: as many as make `images`, from `least` to `most`.
BATCHES = {"quick": (8, 1, 4), "full": (16, 4, 16)}


def audit(
    model: nn.Module,
    *,
    data: str | Path | Images | tuple[Tensor, Tensor] | None = None,
    image_size: int | Sequence[int] = 32,
    channels: int | None = None,
    classes: int | None = None,
    batch_size: int = 8,
    epochs: int = 1,
    lr: float | None = None,
    momentum: float = 0.0,
    local_batch_size: int | None = None,
    defenses: Sequence[Any] = (),
    against: str | Sequence[str] = "all",
    budget: Budget = "quick",
    steps: int | None = None,
    batches: int | None = None,
    what_if: bool = True,
    validate: bool = True,
    training: bool = True,
    loss: Loss | LossName = "cross_entropy",
    device: str | torch.device | None = None,
    gradient: str | Path | Observation | None = None,
    originals: str | Path | Images | tuple[Tensor, Tensor] | None = None,
    labels: Tensor | Sequence[int] | None = None,
    root: str | Path | None = None,
    seed: int = 0,
    parts: str | Path | None = None,
    progress: Watch | None = None,
) -> AuditReport:
    """Attack a set-up of federated learning as its server could, and say how much comes back.

    The attacker knows the model, the labels and the local training, but not the order of the images, and draws nothing
    from the private images. What it gets is scored above placebos: what it could return without the gradient.

    Args:
        model: any module of images whose output is (N, classes), a tuple that begins with it, or an object with
            `logits`; also in `DataParallel` or `torch.compile`. It is not changed. Only parameters with
            `requires_grad` are shared.
        data: images of the clients and of the attacker: a name of `gia.data.NAMES`, a folder (its sub-folders are the
            classes), `gia.data.Images`, or images (N, C, H, W) in [0, 1] with labels (N,). None takes samples.
        image_size: pixels, or (height, width).
        channels: 1 or 3; None tries what the model takes.
        classes: of the model; None takes the number of its outputs.
        batch_size: private images of a client.
        epochs, lr, momentum, local_batch_size: local SGD of a client, whose update is shared. Without `lr` the
            gradient of the whole batch is.
        defenses: what the client does to what it shares: texts as in `gia.defenses.parse`, or what
            `gia.federated.Client(defenses=...)` takes.
        against: "all", names of `gia.audit.KINDS` with commas, or a sequence of these.
        budget: "quick" takes about two minutes for a ResNet-18 at 32 pixels on two cores; "full" searches until it
            converges, which takes hours.
        steps: of each search, in place of those that the budget gives; a fixed number makes runs comparable.
        batches: clients that are attacked; None takes those of the budget.
        what_if: whether the types that leak are run again on changed set-ups.
        validate: whether `gia.validate_model` is asked about malicious servers.
        training: whether batch normalization uses the statistics of the batch, as in training.
        loss: "cross_entropy", "bce", "mse" or a function (outputs, labels) -> scalar, a mean over images.
        device: where the model and the attacks run; None leaves the model where it is.
        gradient: what one client shared, captured elsewhere: an `Observation` or a file that `observation_from` reads.
            No client is simulated then, there is no what-if, and leaks are known with `originals` only.
        originals: the images behind `gradient`, exactly `batch_size` of them, in the forms of `data`.
        labels: of the images behind `gradient`; None restores them from it.
        root: folder of the full data sets of `gia.data`.
        seed: of the choice of images and of everything that the attacks draw.
        parts: a folder for finished parts, which a later call with the same content does not run again.
        progress: called before each step with (what runs, step, steps).

    Returns:
        The report. What an attack type cannot take is in its `not_tried`.

    Raises:
        ValueError: an argument out of range, a model that does not take the images, or that cannot be trained on them.

    >>> import gia, torch
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=10, image_size=8, channels=1, generator=seed)
    >>> report = gia.audit.audit(model, data="digits", image_size=8, batch_size=1, against="ana_linear")
    >>> report.exact["ana_linear"]
    1.0
    """
    began = time.perf_counter()
    loss_of(loss)
    chosen = chosen_kinds(against)
    if budget not in BATCHES:
        raise ValueError(expected_one_of("budget", budget, list(BATCHES)))
    for name, value in (("batch_size", batch_size), ("batches", batches), ("steps", steps), ("epochs", epochs)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if lr is None and epochs > 1:
        raise ValueError(f"lr: expected the step size of {epochs} epochs of local training, got None")
    model = unwrapped(model)
    if device is not None:
        model = copy.deepcopy(model).to(device)  # a module moves in place, and the user's stays where it is
    shape, outputs = shape_for(model, image_size, channels, loss=loss, training=training, count=max(2, batch_size))
    if classes is not None and classes > outputs:
        raise ValueError(f"classes: expected at most the {outputs} outputs of the model, got {classes}")
    local = None
    if lr is not None:
        local = LocalTraining(epochs=epochs, batch_size=local_batch_size or batch_size, lr=lr, momentum=momentum)
    images = images_for(
        data, shape=shape, classes=classes or outputs, generator=generator_of("audit", seed, "images"), root=root
    )
    if gradient is not None and originals is not None:
        images = _behind(originals, images, shape, classes or outputs, batch_size)
    wanted, least, most = BATCHES[budget]
    count = 1 if gradient is not None else batches or min(max(least, wanted // batch_size), most)
    if batches is None:
        count = max(1, min(count, len(images) // (2 * batch_size)))
    if (needed := count * batch_size) > len(images):
        raise ValueError(f"data: expected at least the {needed} images that are attacked, got {len(images)}")
    setup = Setup(
        model=model,
        images=images,
        reserved=needed if gradient is not None else min(2 * needed, len(images)),
        batch_size=batch_size,
        batches=count,
        local=local,
        defenses=tuple(_defense(each) for each in defenses),
        training=training,
        loss=loss,
        seed=seed,
    )
    run = _Run(setup, chosen, budget, steps, Parts(parts), progress)
    if gradient is not None:
        report = run.captured(gradient, labels, scored=originals is not None, labelled=_has_labels(originals))
    else:
        _check_trainable(setup)
        report = run.simulated(what_if=what_if)
    if validate:
        run.watch("validation", 0, 0)
        report = replace(report, validation=tuple(_validated(setup)))
    return replace(report, seconds=time.perf_counter() - began)


class _Run:
    """One audit: its set-up, its budget, and the parts that are finished."""

    def __init__(
        self,
        setup: Setup,
        chosen: Sequence[str],
        budget: Budget,
        steps: int | None,
        parts: Parts,
        progress: Watch | None,
    ) -> None:
        self.setup, self.chosen, self.budget, self.parts = setup, chosen, budget, parts
        self.began = time.perf_counter()
        self.given, self.watch = steps, progress or (lambda what, step, steps: None)
        self.not_tried = {
            name: UNTRIED.get(name, "not asked for (--against)") for name in (*KINDS, *UNTRIED) if name not in chosen
        }

    @property
    def late(self) -> bool:
        """Whether the time of a quick audit is used up."""
        return self.budget == "quick" and not self.given and time.perf_counter() - self.began > LATE_SECONDS

    def simulated(self, *, what_if: bool) -> AuditReport:
        """Of a client that the audit simulates."""
        setup, results = self.setup, dict[str, Leak]()
        searches = [name for name in self.chosen if KINDS[name].searches]
        changes = list(self._changes()) if what_if else []
        for name in self.chosen:
            if name not in searches:
                self._try(name, results)
        steps, more = self._plan(searches, len(changes))
        for name in searches:
            if steps[name] or more[name]:
                self._try(name, results, steps=steps[name] or more[name])
            else:
                self.not_tried[name] = "its steps take too long for a quick audit; use --budget full"
        ran = [name for name in searches if name in results]
        if all(
            (results[name].leak or 0.0) < ROOM for name in ran
        ):  # what-ifs do not need the time, so the search gets it
            for name in ran:
                if more[name] > int(results[name].facts["steps"]) and not self.late:
                    self._try(name, results, steps=more[name])
        return AuditReport(
            setup=facts(setup),
            results={name: results[name] for name in self.chosen if name in results},
            not_tried=self.not_tried,
            what_if=tuple(self._what_if(changes, results, steps)),
            limits=tuple(self._limits(results)),
        )

    def captured(
        self,
        gradient: str | Path | Observation,
        labels: Tensor | Sequence[int] | None,
        *,
        scored: bool,
        labelled: bool,
    ) -> AuditReport:
        """Of a gradient that was captured elsewhere; `labelled` says whether the originals have labels."""
        setup = self.setup
        known = None if labels is None else torch.as_tensor(labels)
        if labelled and known is None:
            known = setup.images.labels[setup.private]
        if isinstance(gradient, Observation):
            observation = gradient
            observation.check(setup.model)
        else:
            observation = observation_from(
                gradient,
                setup.model,
                image_shape=setup.shape,
                batch_size=setup.batch_size,
                training=setup.training,
                local=setup.local,
                labels=known,
            )
        if (observation.batch_size, observation.image_shape) != (setup.batch_size, setup.shape):
            got = f"{observation.batch_size} of {observation.image_shape}"
            raise ValueError(f"gradient: expected {setup.batch_size} images of {setup.shape} behind it, got {got}")
        if observation.labels is None:
            rule: Literal["sign", "counts"] = "sign" if observation.batch_size == 1 else "counts"
            observation = attacks.labels.restore(setup.model, observation, rule=rule)
            if scored:  # pictures without labels: those that the gradient gives away
                assert observation.labels is not None
                setup.images.labels[setup.private] = observation.labels.cpu()
        results: dict[str, Leak] = {}
        for name in self.chosen:
            if KINDS[name].malicious:
                self.not_tried[name] = "it needs a server that changes the model before the gradient is made"
        honest = [name for name in self.chosen if not KINDS[name].malicious]
        answers = [answer_of(setup.model, observation, setup.images, setup.batch_size)]
        steps = self.given or (FULL_STEPS if self.budget == "full" else LADDER[6])
        for name in honest:
            self._try(name, results, trial=self._trial(name, setup, steps, answers), scored=scored)
        limits = [*self._limits(results)]
        if not scored:
            limits.insert(0, "Without the originals (--originals) it is not known how close a reconstruction is.")
        return AuditReport(
            setup={**facts(setup), "shared": f"captured: {observation}", "images": "captured"},
            results=results,
            not_tried=self.not_tried,
            limits=tuple(limits),
        )

    def _try(
        self,
        name: str,
        results: dict[str, Leak],
        *,
        steps: int = 0,
        trial: Trial | None = None,
        scored: bool = True,
    ) -> None:
        """Run an attack type and note its result, or in one line why there is none."""
        try:
            found = self._part(trial or self._trial(name, self.setup, steps), KINDS[name].title, scored)
        except Exception as error:  # the user's own module, or a layer that an attack cannot take
            self.not_tried[name] = one_line(error)
            results.pop(name, None)
        else:
            results[name] = found

    def _trial(self, name: str, setup: Setup, steps: int, answers: list[Answer] | None = None) -> Trial:
        converged = CONVERGED if self.budget == "full" and self.given is None else None
        return Trial(name, setup, steps=steps, converged=converged, answers=answers)

    def _part(self, trial: Trial, what: str, scored: bool = True) -> Leak:
        self.watch(what, 0, trial.steps)
        key = digest_of([sources(), trial.key, scored])
        if (kept := self.parts.get(key)) is None:
            watch = self.watch

            def callback(progress: Any) -> None:
                watch(what, progress.step, progress.steps)

            kept = trial.result(callback) if scored else trial.unscored(callback)
            self.parts.put(key, *kept)
        record, arrays = kept
        interval = record.pop("interval", None)
        leak = record.pop("leak", None)
        return Leak(trial.name, leak, None if interval is None else (interval[0], interval[1]), record, arrays)

    def _plan(self, searches: Sequence[str], changes: int) -> tuple[dict[str, int], dict[str, int]]:
        """Steps of each search: first, and where nothing leaks with these. None where even the least take too long."""
        if self.given is not None or self.budget == "full":
            steps = dict.fromkeys(searches, self.given or FULL_STEPS)
            return steps, steps
        if not searches:
            return {}, {}
        seconds = self._seconds_of_a_step(searches)
        # One type is run again for each change: a doubled batch and an epoch more take about twice as long.
        share = QUICK_SECONDS / (len(searches) + (changes + 2 if changes else 0))
        first = {name: _rung(share / seconds[name]) for name in searches}
        left = QUICK_SECONDS / len(searches) - share
        more = {name: _rung(left / seconds[name]) for name in searches}
        return first, {name: max(first[name], more[name]) for name in searches}

    def _seconds_of_a_step(self, searches: Sequence[str]) -> dict[str, float]:
        """Measured once for each search; a run that goes on takes the numbers of the one before it."""
        key = digest_of([sources(), "seconds", self.setup_key, list(searches)])
        if (kept := self.parts.get(key)) is None:
            self.watch("measuring a step", 0, 0)
            measured = {}
            for name in searches:
                try:
                    measured[name] = Trial(name, self.setup, steps=0).seconds_of_a_step()
                except Exception:  # the search itself will raise it again, and then it is noted
                    measured[name] = 0.0
            kept = {"seconds": measured}, {}
            self.parts.put(key, *kept)
        return {name: max(float(each), 1e-6) for name, each in kept[0]["seconds"].items()}

    @property
    def setup_key(self) -> str:
        """The content of the set-up."""
        state = [value for value in self.setup.model.state_dict().values() if isinstance(value, Tensor)]
        return digest_of(
            [digest_of_tensors(*state), digest_of_tensors(self.setup.images.images), str(facts(self.setup))]
        )

    def _changes(self) -> Iterator[tuple[str, Setup | None]]:
        """The what-ifs: words and set-up; no set-up where there are not enough images."""
        setup = self.setup
        yield f"batches of {2 * setup.batch_size}", setup.doubled()
        longer = setup.longer()
        assert longer.local is not None
        text = (
            "one more epoch" if setup.local else f"two local epochs at lr {longer.local.lr:g} instead of one gradient"
        )
        yield text, longer
        used = {type(each) for each in setup.defenses}
        for defense in (defenses.noise(std=self._typical_entry()), defenses.prune(keep=0.1)):
            if type(defense) not in used:
                yield f"with the defense {defense!r}", replace(setup, defenses=(*setup.defenses, defense))

    def _typical_entry(self) -> float:
        """The root mean square entry of what the first client shares, to two digits."""
        setup, first = self.setup, self.setup.private[: self.setup.batch_size]
        images = setup.images.images[first].to(next(setup.model.parameters()).dtype)
        shared = share_gradient(
            setup.model, images, setup.images.labels[first], loss=setup.loss, training=setup.training
        ).gradients.values()
        square = sum(float(each.double().square().sum()) for each in shared) / sum(each.numel() for each in shared)
        scale = setup.local.lr * setup.local.epochs if setup.local else 1.0
        return float(f"{max(math.sqrt(square) * scale, 1e-12):.1e}")

    def _what_if(
        self, changes: Sequence[tuple[str, Setup | None]], results: Mapping[str, Leak], first: Mapping[str, int]
    ) -> Iterator[WhatIf]:
        live = [name for name, each in results.items() if each.leak is not None and each.leak >= ROOM]
        if self.budget == "quick":  # fishing searches once for each image
            live = [name for name in live if name != "ana_param" or self.given is not None]
        if self.budget == "quick" and self.given is None:
            searches = sorted((n for n in live if KINDS[n].searches), key=lambda n: -(results[n].leak or 0.0))
            live = [name for name in live if name not in searches[1:]]
        for change, changed in changes:
            if changed is None:
                yield WhatIf(change, {}, "not enough images")
                continue
            leaks, reasons = {}, []
            for name in live:
                before = results[name]
                if self.late:
                    reasons.append(f"{name}: no time left in a quick audit")
                    continue
                if (done := int(before.facts["steps"])) > first.get(name, done):
                    reasons.append(f"{name} was searched longer than a quick audit can repeat")
                    continue
                try:
                    after = self._part(self._trial(name, changed, done), f"what if: {change} ({name})")
                except Exception as error:  # as in `_try`
                    reasons.append(f"{name}: {one_line(error)}")
                    continue
                leaks[name] = (before.leak or 0.0, after.leak or 0.0)
            if not live:
                silent = [name for name, each in results.items() if not each.known]
                but = f"; what {', '.join(silent)} would get is not known" if silent else ""
                reasons.append(f"nothing to lose: no type leaks {ROOM:g} dB{but}" if results else "no type was scored")
            yield WhatIf(change, leaks, "; ".join(reasons) or None)

    def _limits(self, results: Mapping[str, Leak]) -> Iterator[str]:
        searched = {name: each for name, each in results.items() if KINDS[name].searches}
        if searched and self.budget == "quick":
            most = max(int(each.facts["steps"]) for each in searched.values())
            yield (
                f"Searches took {most} steps; publications take up to 24,000. A leak that they found is real. A search "
                "that finds nothing does not show that nothing leaks: use --budget full."
            )
        if any(each.leak is not None for each in results.values()):
            yield (
                "Leak is measured in PSNR, which punishes wrong brightness and contrast: an image may be recognizable "
                "at 0 dB. Look at the pictures."
            )
        if any(each.interval is not None and each.facts["batches"] < 4 for each in results.values()):
            yield (
                "Fewer than 4 batches were attacked, so the intervals are over images. Images of one batch share a "
                "gradient, so other batches may differ by more than the intervals say."
            )
        yield (
            "The attacker knows labels and local training. It is not told of defenses and does not adapt to them: one "
            "that does may get more."
        )
        if searched:
            yield "Adam on 1 - cosine with total variation is one search of many; another may find more."


def _rung(steps: float) -> int:
    return max((rung for rung in LADDER if rung <= steps), default=0)


def _defense(each: Any) -> Any:
    return defenses.parse(each) if isinstance(each, str) else each


def _behind(
    originals: str | Path | Images | tuple[Tensor, Tensor],
    images: Images,
    shape: tuple[int, int, int],
    classes: int,
    batch_size: int,
) -> Images:
    """The originals in front of the attacker's images."""
    found = images_for(originals, shape=shape, classes=classes, generator=generator_of("originals"))
    if len(found) != batch_size:
        raise ValueError(
            f"originals: expected the batch_size={batch_size} images behind the gradient, got {len(found)}"
        )
    return replace(
        found,
        images=torch.cat([found.images, images.images]),
        labels=torch.cat([found.labels, images.labels]),
    )


def _has_labels(originals: object) -> bool:
    """Whether originals come with labels; a folder does where it has sub-folders, which are the classes."""
    if isinstance(originals, str | Path) and Path(originals).is_dir():
        return any(each.is_dir() for each in Path(originals).iterdir())
    return originals is not None


def _check_trainable(setup: Setup) -> None:
    """Raise ValueError with the model's own error where a client cannot train it."""
    first = setup.private[: setup.batch_size]
    like = next(setup.model.parameters())
    try:
        share_gradient(
            setup.model,
            setup.images.images[first].to(like.dtype),
            setup.images.labels[first],
            loss=setup.loss,
            training=setup.training,
        )
    except Exception as error:  # the user's own code
        hint = "; a batch of one needs --eval-mode where it has batch normalization" if setup.batch_size == 1 else ""
        raise ValueError(f"model: expected one that a client can train, got: {one_line(error)}{hint}") from error


def facts(setup: Setup) -> dict[str, Any]:
    """The set-up as plain JSON, with names as they are printed."""
    parameters = list(setup.model.parameters())
    shared = [p for p in parameters if p.requires_grad]
    channels, height, width = setup.shape
    return {
        "model": f"{type(setup.model).__name__}, {sum(p.numel() for p in parameters):,} parameters, "
        f"{sum(p.numel() for p in shared):,} of them shared",
        "images": f"{setup.images.source}, {height}x{width}, {'gray' if channels == 1 else f'{channels} channels'}",
        "attacked": f"{setup.batches} client{'s' if setup.batches > 1 else ''} with {setup.batch_size} "
        f"image{'s' if setup.batch_size > 1 else ''} each",
        "shared": "the gradient of the batch" if setup.local is None else f"the update of {setup.local}",
        "defenses": ", ".join(map(repr, setup.defenses)) or "none",
        "batch normalization": "statistics of the batch" if setup.training else "running statistics",
        "device": str(parameters[0].device),
        "versions": f"gia {_version()}, torch {torch.__version__}",
    }


def _version() -> str:
    try:
        return metadata.version("gia")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


def _validated(setup: Setup) -> Iterator[Validated]:
    """What a client that knows the model says to it, and to what malicious servers make of it."""
    model, first = setup.model, setup.private[: setup.batch_size]
    like = next(model.parameters())
    batch = setup.images.images[first].to(like), setup.images.labels[first].to(like.device)

    def drawn() -> torch.Generator:
        return generator_of("audit", setup.seed, "server")

    servers: dict[str, Callable[[], nn.Module]] = {
        "honest server": lambda: model,
        "imprint block in front (robbing the fed)": lambda: imprint(
            model, image_shape=setup.shape, bins=64, generator=drawn()
        ),
        "classifier that fishes for one class": lambda: fish_class(model, target=int(setup.images.labels[0])),
    }
    if any(isinstance(m, nn.Linear) for n, m in model.named_modules() if n != _classifier(model)):
        servers["trap weights in the first linear layer"] = lambda: trap_weights(model, generator=drawn())
    for server, make in servers.items():
        try:
            report = validate_model(make(), model, batch=batch, training=setup.training, loss=setup.loss)
        except Exception as error:  # as for attacks: one line in place of a traceback
            yield Validated(server, (), one_line(error))
        else:
            yield Validated(server, tuple(map(str, report.findings)))


def _classifier(model: nn.Module) -> str | None:
    try:
        return classifier(model)
    except ValueError:
        return None
