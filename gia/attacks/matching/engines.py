"""Which engine evaluates a matching problem: `taps` where it is known to agree with `plain` and to be faster."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gia.attacks.matching.plain import matching_gradient
from gia.attacks.matching.tapped import Unknown
from gia.attacks.matching.taps import Taps
from gia.attacks.objectives import Objective
from gia.federated import LocalTraining
from gia.federated.client import Loss

#: Objective (R,), its gradient to the images, and to soft labels.
Found = tuple[Tensor, Tensor, Tensor | None]


class Engine:
    """The objective of chosen trials and its gradient, by the faster engine that can.

    `plain` takes soft labels, simulated local training, a single trial of a victim where it is faster, and every victim
    for which `taps` has no rule or another result. What makes it take a victim is said once, in the log "gia".

    Args:
        victim: in the client's mode; its shared parameters require a gradient.
        targets: observed gradients by name, one for each trial; restarts may share one.
        forced: "plain" or "taps" for tests, None to choose.
    """

    def __init__(
        self,
        victim: nn.Module,
        targets: Sequence[Mapping[str, Tensor]],
        *,
        objective: Objective,
        loss: Loss,
        local: LocalTraining | None,
        forced: Literal["plain", "taps"] | None = None,
    ) -> None:
        self._victim, self._targets = victim, targets
        self._objective, self._loss, self._local = objective, loss, local
        self._forced, self._tried = forced, forced == "taps"
        self._taps: Taps | None = None
        if local is None and forced != "plain":
            names = [name for name, _ in victim.named_parameters() if name in targets[0]]
            self._taps = Taps(victim, names, objective=objective, loss=loss)
            distinct = targets[:1] if all(target is targets[0] for target in targets) else targets
            self._stacked = [torch.stack([target[name] for target in distinct]) for name in names]

    def __call__(self, images: Tensor, labels: Tensor, trials: range) -> Found:
        """At images (R, B, C, H, W) and labels (R, B) int64 or (R, B, K) probabilities of the chosen trials."""
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            if not labels.is_floating_point() and (len(trials) > 1 or self._forced):
                if not self._tried:
                    self._try(images, labels, trials)
                if self._taps is not None:
                    return self._by_taps(self._taps, images, labels, trials)
            return self._by_plain(images, labels, trials)

    def _by_taps(self, taps: Taps, images: Tensor, labels: Tensor, trials: range) -> Found:
        chosen = slice(trials.start, trials.stop, trials.step)
        values, to_images = taps([one if len(one) == 1 else one[chosen] for one in self._stacked], images, labels)
        return values, to_images, None

    def _by_plain(self, images: Tensor, labels: Tensor, trials: range) -> Found:
        found = [
            matching_gradient(
                self._victim,
                self._targets[trial],
                images[i],
                labels[i],
                objective=self._objective,
                loss=self._loss,
                local=self._local,
            )
            for i, trial in enumerate(trials)
        ]
        values, to_images, to_labels = zip(*found, strict=True)
        soft = [gradient for gradient in to_labels if gradient is not None]
        return torch.stack(values), torch.stack(to_images), torch.stack(soft) if soft else None

    def _try(self, images: Tensor, labels: Tensor, trials: range) -> None:
        """Drop `taps` unless it agrees with `plain` on two trials.

        This finds what no rule can see, such as a victim that mixes the images of a batch, and so those of trials. The
        images are made up, since equal starts would hide that.
        """
        self._tried = True
        if self._taps is None:
            return
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((2, *images.shape[1:]), generator=generator).to(images)
        labels, trials = labels[:2], trials[:2]
        _, expected, _ = self._by_plain(images, labels, trials)
        try:
            _, found, _ = self._by_taps(self._taps, images, labels, trials)
        except (Unknown, RuntimeError, ValueError, TypeError, IndexError) as error:  # a victim may mind in many ways
            self._drop(f"{type(error).__name__}: {error}")
            return
        # float32 may honestly differ by 3e-3 at a kink of ReLU; trials that are mixed differ by about 1
        apart = (found - expected).norm() / expected.norm().clamp_min(torch.finfo(expected.dtype).tiny)
        if apart > 1e-6 ** (0.5 if expected.dtype == torch.float64 else 0.25):
            self._drop(f"{apart:.1e} apart on a made-up batch")

    def _drop(self, reason: str) -> None:
        self._taps = None
        _say(f"{type(self._victim).__name__}: trials are evaluated one by one, by double backward ({reason})")


@cache
def _say(message: str) -> None:
    logging.getLogger("gia").warning(message)
