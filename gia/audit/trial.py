"""One part of an audit: an attack type against a set-up, scored above what an attacker has without the gradient."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from gia import attacks
from gia.audit.kinds import KINDS
from gia.audit.setup import Setup, digest_of_tensors, one_line
from gia.data import Images
from gia.experiment import Attacker, Batch, Client, Exchange, Fishing, Protocol, Round, Scoring, Victim
from gia.experiment.controls import STARTS, exact, fitted, searched
from gia.experiment.exchange import SHOWN, Answer
from gia.federated.server import imprint, probed
from gia.federated.server.imprint import NATURAL, Gaussian
from gia.numerics import digest_of, generator_of

__all__ = ["ROOM", "Trial", "answer_of"]

#: What the audit's attacker knows beside the gradient: labels and local training, as in most publications.
REVEALED = ("labels", "local")
#: Images that are fished for.
TARGETS = 2
#: dB above the placebos from which an attack shows by itself that its path works, so that no control is asked.
ROOM = 1.0
#: Images on which the control of a closed form runs.
CONTROLLED = 4
#: A step is measured on at most `MEASURED` steps, and on no further one after this many seconds.
MEASURED, MEASURED_SECONDS = 8, 3.0


class Drawn:
    """The block of an audit: generators for each purpose from one seed."""

    setting: Mapping[str, object] = {}
    lane = "audit"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A generator for a purpose."""
        return generator_of("audit", self._seed, *purpose)


class Searched(Exchange):
    """An exchange whose attack runs once: what it found is scored, and then controlled."""

    def __init__(self, round: Round, chosen: Tensor) -> None:
        super().__init__(round, chosen)
        self._results: list[attacks.Reconstruction] | None = None

    def reconstructions(
        self, answers: Sequence[Answer], start: str, settings: Mapping[str, Any] | None = None
    ) -> list[attacks.Reconstruction]:
        """As in `Exchange`; for the exchange's own answers only the first call attacks."""
        if answers is not self.answers:
            return super().reconstructions(answers, start, settings)
        if self._results is None:
            self._results = super().reconstructions(answers, start, settings)
        return self._results


class Trial:
    """An attack type against a set-up.

    Args:
        name: of the type in `KINDS`.
        setup: whose clients are attacked.
        steps: of a search.
        converged: as in `gia.attacks.inverting_gradients`: how a search ends before its last step.
        answers: what was captured, in place of what the set-up's clients share.
    """

    def __init__(
        self,
        name: str,
        setup: Setup,
        *,
        steps: int,
        converged: float | None = None,
        answers: list[Answer] | None = None,
    ) -> None:
        self.name, self.kind, self.setup = name, KINDS[name], setup
        self.steps = steps if self.kind.searches else 0
        self._converged, self._captured = converged, answers

    @property
    def key(self) -> str:
        """Everything that the result depends on: model, what is shared, known and assumed; not the source of gia."""
        exchange, setup = self._exchange, self.setup
        shared = [tensor for each in exchange.observations for tensor in each.gradients.values()]
        state = [value for value in exchange.answers[0].model.state_dict().values() if isinstance(value, Tensor)]
        known = *state, setup.images.images, setup.images.labels
        facts = [self.name, self.steps, self._converged, setup.seed, setup.reserved, setup.batch_size, setup.training]
        known_settings = [repr(setup.local), str(self.kind.settings)]
        return digest_of([*facts, *known_settings, digest_of_tensors(*shared), digest_of_tensors(*known)])

    def result(self, callback: Callable[[Any], None] | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Attack and score: the facts as plain JSON, and originals, placebos and reconstructions as uint8 arrays.

        Args:
            callback: called before each step of a search, as attacks call theirs.
        """
        exchange = self._exchange
        settings = {"callback": callback} if self.kind.searches and callback else None
        measured = exchange.attack("start", settings=settings)
        per_image, values = measured.details["per_image"], measured.values
        leaks: list[float] = per_image["leak"]
        size = 1 if self._fished else self.setup.batch_size
        low, high = _interval(leaks, size)
        worst = int(np.argmax(leaks))
        record = {
            "leak": float(values["leak"] or 0.0),
            "interval": None if low is None or high is None else [low, high],
            "exact_share": float(values["exact_share"] or 0.0),
            "psnr": float(values["psnr"] or 0.0),
            "ssim": values["ssim"],
            "placebo_psnr": measured.details["placebo"]["psnr"],
            "images": len(leaks),
            "batches": len(exchange.answers),
            "per_image": {name: per_image[name] for name in ("leak", "psnr", "ssim") if name in per_image},
            "worst": {"image": worst, "leak": leaks[worst], "psnr": per_image["psnr"][worst]},
            "steps": self.steps,
            "seconds": round(measured.details["seconds"], 2),
            "path": None if (values["leak"] or 0.0) >= ROOM else self._controlled(exchange),
        }
        return record, dict(measured.arrays)

    def unscored(self, callback: Callable[[Any], None] | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """As `result` where the originals are not known: what was found, and whether it fits better than guesses."""
        exchange = self._exchange
        settings = {"callback": callback} if self.kind.searches and callback else None
        (answer,) = exchange.answers
        (found,) = exchange.attacked([answer], "start", settings)
        record: dict[str, Any] = {"steps": self.steps, "images": len(found.images)}
        if self.kind.searches:
            drawn = [exchange.block.generator("random start", number) for number in range(STARTS)]
            starts = exchange.unmoved(answer, drawn)
            given = {key: value for key, value in self._settings.items() if key != "callback"}

            def term(images: Tensor) -> float:
                images = images.to(answer.observation.gradients[next(iter(answer.observation.gradients))])
                return attacks.data_term(self.kind.attack, answer.model, answer.observation, images, **given)

            best, least = term(found.images), min(map(term, starts))
            text = f"data term {best:.3g} found, {least:.3g} at the best of {STARTS} random starts"
            record["path"] = {"works": best < least, "seen": text}
        elif found.exact is not None:
            record["believed_exact"] = int(found.exact.sum())
        shown = found.images[:SHOWN].detach().cpu().clamp(0, 1)
        return record, {"reconstructions": (shown * 255).round().to(torch.uint8).numpy()}

    def seconds_of_a_step(self) -> float:
        """CPU seconds of one step of the search on one core; seconds of the clock where the model is on no CPU.

        Other processes hardly change it: it is the median of a few steps, on one thread, since threads that wait for
        each other use CPU time.
        """
        exchange, marks = self._exchange, list[float]()
        answers = exchange.answers[:1] if self._fished else exchange.answers  # fished ones are searched in turn
        clock = time.thread_time if exchange.protocol.device == "cpu" else time.perf_counter

        def note(_: Any) -> None:
            marks.append(clock())
            if len(marks) > MEASURED or marks[-1] - marks[0] > MEASURED_SECONDS:
                raise _MeasuredError

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            exchange.attacked(answers, "start", {"steps": MEASURED + 1, "callback": note})
        except _MeasuredError:
            pass
        finally:
            torch.set_num_threads(threads)
        middle = median(after - before for before, after in itertools.pairwise(marks))
        return middle * len(exchange.answers) / len(answers)

    @property
    def _settings(self) -> dict[str, Any]:
        search = {"steps": self.steps, "converged": self._converged} if self.kind.searches else {}
        return {**self.kind.settings, **search, "loss": self.setup.loss}

    @property
    def _fished(self) -> bool:
        return self.kind.attack == "fishing"

    @cached_property
    def _exchange(self) -> Searched:
        return self._exchange_of(self.setup.private)

    def _exchange_of(self, chosen: Tensor) -> Searched:
        setup, kind = self.setup, self.kind
        model = setup.model if not kind.malicious or self._fished else _imprinted(setup)
        size = min(setup.batch_size, len(chosen))
        protocol = Protocol(
            victim=Victim(
                name="audited",
                fish=Fishing(kind="class", targets=min(TARGETS, len(chosen))) if self._fished else None,
                dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            ),
            batch=Batch(data="audited", image_size=max(setup.shape[1:]), images=len(chosen), size=size),
            attacker=Attacker(attack=kind.attack, settings=self._settings),
            client=Client(reveal=REVEALED, training=setup.training, local=setup.local, defenses=tuple(setup.defenses)),
            scoring=Scoring(metrics=("psnr", "ssim", "exact_share")),
            device=str(next(model.parameters()).device),
        )
        round = Round(protocol, Drawn(setup.seed))
        others = torch.arange(setup.reserved)
        others = others[~torch.isin(others, chosen)]
        # A round builds its victim and loads its data by name; here they are the user's own.
        round.__dict__.update(data=setup.images, private=chosen, control=others, victim=model)
        exchange = Searched(round, chosen)
        exchange.loss = setup.loss
        if self._captured is not None:
            exchange.__dict__["answers"] = self._captured
        return exchange

    def _controlled(self, exchange: Searched) -> dict[str, Any]:
        """Whether a low leak says anything: what `gia.experiment.controls` checks, on the images that are attacked."""
        try:
            if self.kind.searches:
                checks, _ = searched(exchange)
            else:
                control = fitted if "patch_tokens" in attacks.CARDS[self.kind.attack].needs else exact
                checks, _ = control(self._exchange_of(self.setup.private[:CONTROLLED]))
        except Exception as error:  # such as double backward that a layer does not have
            return {"works": False, "seen": f"the check raised: {one_line(error)}"}
        failed = [text for text, holds in checks.items() if not holds]
        return {"works": not failed, "seen": "; ".join(failed or checks)}


class _MeasuredError(Exception):
    """Ends a search once its step is measured."""


def _imprinted(setup: Setup) -> nn.Module:
    """The model behind an imprint block of a server that holds the attacker's images."""
    public = setup.images.images[setup.reserved :]
    brightness = Gaussian.of(probed(public)) if len(public) > 1 else NATURAL
    several = setup.local is not None and (setup.local.epochs > 1 or setup.local.batch_size < setup.batch_size)
    return imprint(
        setup.model,
        image_shape=setup.shape,
        bins=max(64, 4 * setup.batch_size),
        quantiles=brightness,
        sparse=several,
        generator=generator_of("audit", setup.seed, "imprint"),
    )


def _interval(values: Sequence[float], size: int) -> tuple[float | None, float | None]:
    """A 95 % t interval of the mean, floored at 0: over batches where there are four, else over images."""
    groups = np.asarray(values).reshape(-1, size).mean(1) if len(values) >= 4 * size else np.asarray(values)
    if len(groups) < 3:  # an interval over two is as wide as the scale
        return None, None
    spread = float(groups.std(ddof=1)) / math.sqrt(len(groups))
    half = float(stats.t.ppf(0.975, len(groups) - 1)) * spread
    return max(float(groups.mean()) - half, 0.0), max(float(groups.mean()) + half, 0.0)


def answer_of(model: nn.Module, observation: Any, images: Images, batch_size: int) -> Answer:
    """The one answer that was captured, to be scored against the first images."""
    chosen = torch.arange(batch_size)
    dtype = next(iter(observation.gradients.values())).dtype
    return Answer(model, observation, chosen, images.images[chosen].to(dtype), images.labels[chosen])
