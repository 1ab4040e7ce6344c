"""The parts of one audit: which are run, on which budget, and what is said about them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gia import attacks, defenses
from gia.audit.captured import observation_from
from gia.audit.kinds import KINDS, UNTRIED
from gia.audit.parts import Parts, sources
from gia.audit.report import AuditReport, Leak, WhatIf
from gia.audit.setup import Setup, digest_of_tensors, facts, one_line
from gia.audit.trial import ROOM, Trial, answer_of
from gia.experiment.exchange import Answer
from gia.federated import Observation, share_gradient
from gia.numerics import digest_of

__all__ = ["BATCHES", "Budget", "Run", "Watch"]

Budget = Literal["quick", "full"]
#: (what runs, step, steps) of every step of a search, and (what runs, 0, 0) for a part without steps.
Watch = Callable[[str, int, int], None]

#: CPU seconds of one core for the searches of a quick audit, its what-ifs included. The plan is made of what a step
#: takes, and no clock is read after it: other work on the machine does not change what is run.
QUICK_SECONDS = 90.0
#: The first search is run with the least number of steps where these take up to this many times `QUICK_SECONDS`.
ALWAYS = 3
#: Steps that take as long as the control of a search: gradients at the truth, at placebos and at random starts.
CONTROL = 20
#: Numbers of steps that a quick audit chooses from. They are far apart, so that a step that is measured as a little
#: longer rarely changes the number. The least is always affordable to the first search.
LADDER = (20, 40, 80, 160, 320, 640, 1280)
#: Steps of a quick search of a gradient that was captured elsewhere.
CAPTURED_STEPS = 320
#: Most steps of a search of a full audit; it ends before, once it has converged.
FULL_STEPS = 4800
CONVERGED = 0.01
#: Batches that are attacked: as many as make `images`, from `least` to `most`.
BATCHES = {"quick": (8, 1, 4), "full": (16, 4, 16)}


class Run:
    """One audit: its set-up, its budget, and the parts that are finished."""

    def __init__(
        self,
        setup: Setup,
        chosen: Sequence[str],
        budget: Budget,
        steps: int | None,
        parts: Parts,
        progress: Watch | None,
        *,
        clients: int | None = None,
    ) -> None:
        self.setup, self.chosen, self.budget, self.parts = setup, chosen, budget, parts
        self.given, self.watch = steps, progress or (lambda what, step, steps: None)
        self._clients, self._wanted = clients, setup.batches
        self._seconds: Mapping[str, float] = {}  # of one step, where a plan was made
        self._spent = 0.0
        self.not_tried = {
            name: UNTRIED.get(name, "not asked for (--against)") for name in (*KINDS, *UNTRIED) if name not in chosen
        }

    def simulated(self, *, what_if: bool) -> AuditReport:
        """Of a client that the audit simulates."""
        results = dict[str, Leak]()
        searches = [name for name in self.chosen if KINDS[name].searches]
        changes = list(self._changes()) if what_if else []
        steps, more = self._plan(searches, len(changes))
        clients = self.setup.batches  # the plan may have left one
        changes = [(words, changed and replace(changed, batches=clients)) for words, changed in changes]
        self._tell_finished(steps)
        for name in self.chosen:
            if name not in searches or steps[name]:
                self._try(name, results, steps=steps.get(name, 0))
            else:
                seconds = f"{LADDER[0]} steps take about {self._cost(name, LADDER[0]):.0f} CPU seconds"
                self.not_tried[name] = f"{seconds}, too long for a quick audit; use --budget full or --steps N"
        ran = [name for name in searches if name in results]
        if all(
            (results[name].leak or 0.0) < ROOM for name in ran
        ):  # what-ifs do not need the time, so the search gets it
            for name in ran:
                if more[name] > steps[name] and self._affords(name, more[name]):
                    self._try(name, results, steps=more[name])
        return AuditReport(
            setup=facts(self.setup),
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
        steps = self.given or (FULL_STEPS if self.budget == "full" else CAPTURED_STEPS)
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
        self._spent += self._cost(name, steps)
        try:
            found = self._part(trial or self._trial(name, self.setup, steps), f"{name}: {KINDS[name].title}", scored)
        except Exception as error:  # the user's own module, or a layer that an attack cannot take
            begins, words = KINDS[name].absent or ("", "")
            self.not_tried[name] = words if words and str(error).startswith(begins) else one_line(error)
            results.pop(name, None)
        else:
            results[name] = found

    def _trial(self, name: str, setup: Setup, steps: int, answers: list[Answer] | None = None) -> Trial:
        converged = CONVERGED if self.budget == "full" and self.given is None else None
        return Trial(name, setup, steps=steps, converged=converged, answers=answers)

    def _part(self, trial: Trial, what: str, scored: bool = True, *, longer: bool = False) -> Leak:
        if (kept := self.parts.get(key := self._key(trial, scored))) is None:
            watch = self.watch
            what += f", {trial.steps} steps" if trial.steps else ""
            if seconds := self._cost(trial.name, trial.steps) * (2 if longer else 1):
                what += f", about {max(seconds, 1):.0f} CPU seconds"
            watch(what, 0, trial.steps)

            def callback(progress: Any) -> None:
                watch(what, progress.step, progress.steps)

            kept = trial.result(callback) if scored else trial.unscored(callback)
            self.parts.put(key, *kept)
        record, arrays = kept
        interval = record.pop("interval", None)
        leak = record.pop("leak", None)
        return Leak(trial.name, leak, None if interval is None else (interval[0], interval[1]), record, arrays)

    def _key(self, trial: Trial, scored: bool = True) -> str:
        return digest_of([sources(), trial.key, scored])

    def _tell_finished(self, steps: Mapping[str, int]) -> None:
        """Say how many of the attack types were finished by a run that was stopped."""
        if not self.parts:
            return
        tried, finished = [name for name in self.chosen if steps.get(name, 1)], 0
        for name in tried:
            with contextlib.suppress(Exception):  # raised again, and noted, where it is tried
                finished += self.parts.get(self._key(self._trial(name, self.setup, steps.get(name, 0)))) is not None
        if finished:
            self.watch(f"goes on: {finished} of {len(tried)} attack types were finished", 0, 0)

    def _plan(self, searches: Sequence[str], changes: int) -> tuple[dict[str, int], dict[str, int]]:
        """Steps of each search: first, and where nothing leaks with these. 0 where even the least take too long.

        The first search, which is "op" if it was asked for, has the least number of steps or more, if need be on one
        client and with `ALWAYS` times the plan. Beyond that, as with long local training, it is left out too.
        """
        if self.given is not None or self.budget == "full":
            steps = dict.fromkeys(searches, self.given or FULL_STEPS)
            return steps, steps
        if not searches:
            return {}, {}
        main, *others = searches
        seconds = self._seconds_of_a_step(searches)
        # One type is run again for each change: a doubled batch and an epoch more take about twice as long.
        share = QUICK_SECONDS / (len(searches) + (changes + 2 if changes else 0))
        if self._clients is None and self.setup.batches > 1 and (LADDER[0] + CONTROL) * seconds[main] > share:
            fewer = {name: each / self.setup.batches for name, each in seconds.items() if not KINDS[name].malicious}
            seconds, self.setup = {**seconds, **fewer}, replace(self.setup, batches=1)
        self._seconds = seconds
        first = {name: _rung(share / seconds[name] - CONTROL) for name in searches}
        for name in searches:
            if not first[name] and self._cost(name, LADDER[0]) <= QUICK_SECONDS * (ALWAYS if name == main else 1):
                first[name] = LADDER[0]
        left = QUICK_SECONDS - share * len(searches)
        parts = {main: left / 2 if others else left, **{name: left / 2 / len(others) for name in others}}
        return first, {name: max(first[name], _rung(parts[name] / seconds[name] - CONTROL)) for name in searches}

    def _cost(self, name: str, steps: int) -> float:
        """CPU seconds of a search and its control as planned; 0 where there is no plan."""
        return self._seconds.get(name, 0.0) * (steps + CONTROL)

    def _affords(self, name: str, steps: int) -> bool:
        """Whether a further search fits into the plan of a quick audit; always where there is none."""
        return not (cost := self._cost(name, steps)) or self._spent + cost <= QUICK_SECONDS

    def _seconds_of_a_step(self, searches: Sequence[str]) -> dict[str, float]:
        """Measured once for each search; a run that goes on takes the numbers of the one before it."""
        key = digest_of([sources(), "seconds", self.setup_key, list(searches)])
        if (kept := self.parts.get(key)) is None:
            measured = {}
            for name in searches:
                self.watch(f"{name}: how long a step takes", 0, 0)
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
                done = int(before.facts["steps"])
                longer = (changed.batch_size > self.setup.batch_size) or changed.local != self.setup.local
                if not self._affords(name, done * (2 if longer else 1)):
                    reasons.append("no time left in a quick audit")
                    continue
                if done > first.get(name, done):
                    reasons.append(f"{name} was searched longer than a quick audit can repeat")
                    continue
                self._spent += self._cost(name, done * (2 if longer else 1))
                try:
                    after = self._part(self._trial(name, changed, done), f"what if {change} ({name})", longer=longer)
                except Exception as error:  # as in `_try`
                    reasons.append(f"{name}: {one_line(error)}")
                    continue
                leaks[name] = (before.leak or 0.0, after.leak or 0.0)
            if not live:
                silent = [name for name, each in results.items() if not each.known]
                but = f"; what {', '.join(silent)} would get is not known" if silent else ""
                reasons.append(f"no type is known to leak {ROOM:g} dB{but}" if results else "no type was scored")
            yield WhatIf(change, leaks, "; ".join(reasons) or None)

    def _limits(self, results: Mapping[str, Leak]) -> Iterator[str]:
        searched = {name: each for name, each in results.items() if KINDS[name].searches}
        if searched and self.budget == "quick":
            took = ", ".join(f"{each.facts['steps']} ({name})" for name, each in searched.items())
            yield (
                f"Searches took {took} steps; publications take up to 24,000. A leak that they found is real. A search "
                "that finds nothing does not show that nothing leaks: use --budget full."
            )
            if self._seconds:
                yield from self._afforded(searched)
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

    def _afforded(self, searched: Iterable[str]) -> Iterator[str]:
        """What a quick audit could pay for."""
        setup, each = self.setup, ", ".join(f"{self._seconds[name]:.2g} ({name})" for name in searched)
        yield (
            f"A quick audit plans {QUICK_SECONDS:g} CPU seconds of one core for its searches. A step takes {each} CPU "
            f"seconds on {setup.batches * setup.batch_size} images, and the number of steps is what that allows."
        )
        if setup.batches < self._wanted:
            yield f"One client was attacked in place of {self._wanted}, since steps take long here."
        long = [name for name in searched if self._cost(name, LADDER[0]) > QUICK_SECONDS]
        if long:
            name = long[0]
            yield (
                f"{LADDER[0]} steps, the least that are run, take about {self._cost(name, LADDER[0]):.0f} CPU seconds "
                f"of {name}: more than a quick audit plans for."
            )


def _rung(steps: float) -> int:
    return max((rung for rung in LADDER if rung <= steps), default=0)
