"""The choice of an engine for a matching problem: `taps` where it agrees with `plain` and is faster, else `plain`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gia.attacks.matching.gradients import Target
from gia.attacks.matching.memory import peak_bytes
from gia.attacks.matching.plain import balanced, matching_gradient, simulated
from gia.attacks.matching.simulations import Simulations
from gia.attacks.matching.tapped import Unknown
from gia.attacks.matching.taps import Taps
from gia.attacks.objectives import Agreement, Objective
from gia.federated import LocalTraining
from gia.federated.losses import Loss

#: `plain` evaluates a single trial unless the victim's parameters have more entries than this on average, since
#: `taps` has a constant cost per layer.
_LARGE = 50_000

#: Trials that `Simulations` takes at once where no memory limit is given. Each holds the graphs of all local steps, and
#: more of them are hardly faster.
_SIMULATED = 8

#: Seeds of the made-up batches on which the engines are compared; no user draws private images from them by chance.
_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)

#: The largest difference, as a share, of the gradient of two images from the mean of theirs where they are not mixed.
#: Float32 may differ by 3e-3 at a kink of ReLU; batch statistics of a dark and a bright image change it by about 1.
_ADDS_UP = 1e-2

_MEMORY = logging.getLogger("gia.memory")

#: Objective (R,), and its gradients with respect to images and soft labels.
_Evaluated = tuple[Tensor, Tensor, Tensor | None]


class Engine:
    """The objective of chosen trials and its gradient, by the faster engine that supports them.

    `plain` evaluates given targets, a single trial of a small victim, with soft labels or with simulated local
    training, and every victim for which the fast engine has no rule or a different result. In the last case the logger
    "gia" states the reason once. The fast engine is `taps`, or `Simulations` for simulated local training.

    Args:
        victim: in the client's mode; its shared parameters require a gradient.
        targets: observed gradients by name, one per trial; restarts may share one.
        memory: bytes that a step of `taps` may hold at its peak (`peak_bytes`). A measured step of one and of two
            trials shows how many trials fit at once. None takes all of them. `plain` takes one at a time.
        forced: "plain" or "taps" for tests, None to choose.
        balanced: multiply each simulated gradient by a power of two that makes its largest entry about 1. It needs an
            objective without a scale, and `plain`.

    Raises ValueError where a single trial needs more than `memory`.
    """

    def __init__(
        self,
        victim: nn.Module,
        targets: Sequence[Mapping[str, Tensor]],
        *,
        objective: Objective,
        loss: Loss,
        local: LocalTraining | None,
        memory: int | None = None,
        forced: Literal["plain", "taps"] | None = None,
        balanced: bool = False,
    ) -> None:
        self._victim, self._targets = victim, targets
        self._objective, self._loss, self._local = objective, loss, local
        self._forced, self._tried = forced, forced == "taps"
        self._balanced = balanced
        self._memory, self._at_once = memory, 0  # 0: all
        self._images: int | None = None  # of a batch, that `plain` takes at once; None for all
        self._asked: tuple[torch.Size, Tensor] | None = None  # shape and labels (B, ...) of a batch
        self._large = sum(p.numel() for p in victim.parameters()) > _LARGE * sum(1 for _ in victim.parameters())
        self._taps: Taps | Simulations | None = None
        if forced != "plain":
            names = [name for name, _ in victim.named_parameters() if name in targets[0]]
            if local is None:
                self._taps = Taps(victim, names, objective=objective, loss=loss)
            else:
                self._taps = Simulations(victim, names, objective=objective, loss=loss, local=local)
                self._at_once = _SIMULATED if memory is None else 0
            distinct = targets[:1] if all(target is targets[0] for target in targets) else targets
            self._stacked = [torch.stack([target[name] for target in distinct]) for name in names]
            self._cut: dict[range, list[Target]] = {}

    def __call__(self, images: Tensor, labels: Tensor, trials: range) -> _Evaluated:
        """Evaluate the chosen trials at images (R, B, C, H, W) and labels (R, B) int64 or (R, B, K) probabilities.

        Probabilities that require a gradient are soft labels, which are searched; others are given targets.
        """
        self._asked = images[0].shape, labels[0].detach()
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            if (taps := self._fast(images, labels, trials)) is not None:
                return self._by_taps(taps, images, labels, trials)
            return self._by_plain(images, labels, trials)

    def values(
        self,
        images: Tensor,
        labels: Tensor,
        trials: Sequence[int],
        mirrored: Callable[[int, Mapping[str, Tensor]], Mapping[str, Tensor]] | None,
    ) -> Tensor:
        """The objective (R,) alone; `mirrored` changes each trial's simulated gradient before it is compared.

        The trials are neighbours, or a single one several times.
        """
        self._asked = images[0].shape, labels[0].detach()
        if mirrored is None and (taps := self._fast(images, labels, trials)) is not None:
            with sdpa_kernel(SDPBackend.MATH):  # the arithmetic in which the engines were compared
                return torch.cat(
                    [
                        taps.values(self._chosen(trials[part]), images[part], labels[part])
                        for part in self._parts(taps, images, labels, trials)
                    ]
                )
        values = []
        for i, trial in enumerate(trials):
            target = self._targets[trial]
            gradients: Mapping[str, Tensor] = simulated(
                self._victim, target, images[i], labels[i], loss=self._loss, local=self._local, at_once=self._images
            )
            if mirrored is not None:
                gradients = mirrored(trial, gradients)
            if self._balanced:
                gradients = balanced(gradients)
            pairs = [(gradients[name], target[name]) for name in gradients]
            values.append(self._objective(Agreement(list(gradients), *zip(*pairs, strict=True))))
        return torch.stack(values).detach()

    def halve(self) -> bool:
        """Take half as many images of a batch at once, by `plain`; False where their gradients do not add up."""
        if self._asked is None or self._local is not None:
            return False
        shape, labels = self._asked
        now = self._images or len(labels)
        if now == 1 or (self._images is None and not self._adds_up(shape, labels)):
            return False
        self._images = (now + 1) // 2
        _MEMORY.warning(
            f"out of memory: a batch of {len(labels)} images is evaluated {self._images} at a time from now on"
        )
        return True

    def state_dict(self) -> dict[str, Any]:
        """Which engine was chosen, since the engines round differently."""
        return {"tried": self._tried, "fast": self._taps is not None, "images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use the engine that was chosen."""
        self._tried, self._images = state["tried"], state["images"]
        if not state["fast"]:
            self._taps = None

    def _fast(self, images: Tensor, labels: Tensor, trials: Sequence[int]) -> Taps | Simulations | None:
        """The fast engine where it agrees with `plain` and is faster, else None."""
        soft = labels.is_floating_point()
        large = self._large and self._local is None and not soft
        given = soft and not labels.requires_grad
        if given or self._images is not None or not (len(trials) > 1 or large or self._forced):
            return None
        if not self._tried:
            with sdpa_kernel(SDPBackend.MATH):
                self._try(images, labels)
            self._tried = True
        return self._taps

    def _by_taps(self, taps: Taps | Simulations, images: Tensor, labels: Tensor, trials: range) -> _Evaluated:
        parts = self._parts(taps, images, labels, trials)
        triples = [taps(self._chosen(trials[part]), images[part], labels[part]) for part in parts]
        return triples[0] if len(triples) == 1 else _joined(triples)

    def _parts(self, taps: Taps | Simulations, images: Tensor, labels: Tensor, trials: Sequence[int]) -> list[slice]:
        """The trials in parts, each as large as the memory limit allows."""
        if self._memory is not None and not self._at_once:
            self._at_once = self._fitting(taps, images, labels, self._memory)
        size = self._at_once or len(trials)
        return [slice(first, first + size) for first in range(0, len(trials), size)]

    def _chosen(self, trials: Sequence[int]) -> list[Target]:
        """The targets of some trials, stored since a search asks for the same trials at every step."""
        shared = len(self._stacked[0]) == 1
        chosen = range(1) if shared else range(trials[0], trials[-1] + 1)
        if chosen not in self._cut:
            self._cut[chosen] = [Target(one[chosen.start : chosen.stop]) for one in self._stacked]
        return self._cut[chosen]

    def _fitting(self, taps: Taps | Simulations, images: Tensor, labels: Tensor, memory: int) -> int:
        """The number of trials that fit, given that each adds the same amount to the peak."""
        trials = range(min(2, len(self._targets)))
        images, labels = images[:1].expand(2, *images.shape[1:]), labels[:1].expand(2, *labels.shape[1:])

        def step(count: int) -> int:
            targets = self._chosen(trials[:count])
            return peak_bytes(lambda: taps(targets, images[:count], labels[:count]))

        one, two = step(1), step(len(trials))
        self._cut.clear()  # no search asks for these trials
        if one > memory:
            raise ValueError(f"memory: expected at least {one} bytes, which one trial needs, got {memory}")
        return 1 + (memory - one) // (two - one) if two > one else 0

    def _by_plain(self, images: Tensor, labels: Tensor, trials: range) -> _Evaluated:
        triples = [
            matching_gradient(
                self._victim,
                self._targets[trial],
                images[i],
                labels[i],
                objective=self._objective,
                loss=self._loss,
                local=self._local,
                balance=self._balanced,
                at_once=self._images,
            )
            for i, trial in enumerate(trials)
        ]
        values, to_images, to_labels = zip(*triples, strict=True)
        soft = [gradient for gradient in to_labels if gradient is not None]
        return torch.stack(values), torch.stack(to_images), torch.stack(soft) if soft else None

    def _try(self, like: Tensor, labels: Tensor) -> None:
        """Drop `taps` unless it agrees with `plain` on two trials.

        The comparison detects what no rule can see, such as a victim that mixes the images of a batch and therefore
        those of trials. It uses random images, since equal starts would hide such mixing. Images that happen to be
        the private ones have no gradient but rounding: the second batch gives the scale on which they agree.
        """
        trials = range(min(2, len(self._targets)))
        labels = labels[:1].expand(len(trials), *labels.shape[1:])
        apart = size = 0.0
        for seed in _SEEDS:
            if self._taps is None:
                return
            generator = torch.Generator().manual_seed(seed)
            images = torch.rand((len(trials), *like.shape[1:]), generator=generator, dtype=torch.float32).to(like)
            expected = _flat(self._by_plain(images, labels, trials))
            try:
                fast = _flat(self._taps(self._chosen(trials), images, labels))
            except (Unknown, RuntimeError, ValueError, TypeError, IndexError) as error:  # victims may fail in many ways
                self._drop(f"{type(error).__name__}: {error}")
                return
            self._cut.clear()  # no search asks for these trials
            apart, size = math.hypot(apart, float((fast - expected).norm())), math.hypot(size, float(expected.norm()))
            if apart <= 3e-2 * size:  # float32 may differ by 3e-3 at a kink of ReLU; mixed trials differ by about 1
                return
        self._drop(f"{apart / size if size else math.inf:.1e} apart on a random batch")

    def _adds_up(self, shape: torch.Size, labels: Tensor) -> bool:
        """Whether the gradient of two made-up images, a bright and a dark one, is the mean of those of each."""
        target = self._targets[0]
        generator = torch.Generator().manual_seed(_SEEDS[0])
        images = torch.rand((2, *shape[1:]), generator=generator, dtype=torch.float32).to(next(iter(target.values())))
        images[1] *= 0.25
        given: dict[str, Any] = {"loss": self._loss, "local": None}
        try:
            with sdpa_kernel(SDPBackend.MATH):
                whole, parts = (
                    _vector(simulated(self._victim, target, images, labels[:2], at_once=size, **given))
                    for size in (None, 1)
                )
        except (RuntimeError, ValueError):  # batch statistics of a single value, or no memory for two images
            return False
        return float((whole - parts).norm()) <= _ADDS_UP * float(whole.norm())

    def _drop(self, reason: str) -> None:
        self._taps = None
        _say(f"{type(self._victim).__name__}: trials are evaluated one by one, by double backward ({reason})")


def _joined(evaluated: Sequence[_Evaluated]) -> _Evaluated:
    """The trials of several evaluations in one."""
    values, to_images, to_labels = zip(*evaluated, strict=True)
    soft = [gradient for gradient in to_labels if gradient is not None]
    return torch.cat(values), torch.cat(to_images), torch.cat(soft) if soft else None


def _flat(evaluated: _Evaluated) -> Tensor:
    """The gradients of all trials as one vector."""
    return _vector({str(place): each for place, each in enumerate(evaluated[1:]) if each is not None})


def _vector(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


@cache
def _say(message: str) -> None:
    logging.getLogger("gia").warning(message)
