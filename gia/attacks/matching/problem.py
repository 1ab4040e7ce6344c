"""The matching problem of several trials: set up and checked once, evaluated at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gia.attacks.logits import logits_of
from gia.attacks.matching.backward import check_backward
from gia.attacks.matching.engines import Engine
from gia.attacks.matching.plain import unit_factor
from gia.attacks.objectives import Objective
from gia.attacks.reconstruction import NothingFound
from gia.federated import Observation
from gia.federated.losses import Loss, LossName, check_labels, loss_of, takes_targets
from gia.federated.victims import victim_of

#: A client's defense, which changes what it shares: Observation -> Observation.
Mirror = Callable[[Observation], Observation]


class Evaluation(NamedTuple):
    """One evaluation of R trials: the objective (R,), and its gradients with respect to images and soft labels."""

    values: Tensor
    images: Tensor
    labels: Tensor | None


class Matching:
    """D(g*, g(x, y)) for R trials on one victim, each with its own target g*, and the gradient with respect to x.

    Args:
        model: as sent to the clients. A copy is attacked; the model itself does not change.
        observations: one per trial, alike in form (`gia.attacks.trials.check_trials`).
        objective: how gradients are compared.
        loss: the client's training loss, a name or (outputs, targets) -> scalar (`gia.federated.losses`).
        memory: bytes that a step may hold at its peak; more trials than fit are evaluated in parts. None sets no limit.
        engine: "plain" or "taps", for tests only; None chooses (`gia.attacks.matching.engines`).

    Attributes:
        image_shape, batch_size, classes: of every trial.
        labels: (R, B) int64, or targets (R, B, ...) of a loss without class labels; None if the observations hold none.
        reference: a parameter, for dtype and device.
        evaluations: gradients of the victim's loss computed so far, per trial; a simulated local step counts as one.

    Raises ValueError for labels without a logit, images that the model does not take, and a model with an operation
    whose derivative autograd does not see (`gia.attacks.matching.backward`). Nothing can be matched to an observed
    gradient that is zero in every entry, or so small that its squares are: such a trial is lost, with an infinite
    objective, and `NothingFound` is raised where all are. An objective without a scale, such as `Cosine`, takes
    gradients of any size.

    >>> import torch, gia
    >>> from gia.attacks.objectives import Cosine
    >>> seed = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=5, image_size=4, width=8, generator=seed)
    >>> image, label = torch.rand(1, 3, 4, 4, generator=seed), torch.tensor([2])
    >>> observation = gia.share_gradient(model, image, label, reveal=("labels",))
    >>> problem = Matching(model, [observation], objective=Cosine(), loss=torch.nn.functional.cross_entropy)
    >>> at_the_image = problem(image[None], problem.labels)
    >>> at_the_image.values.abs().max().item() < 1e-5, problem.evaluations
    (True, [1])
    """

    def __init__(
        self,
        model: nn.Module,
        observations: Sequence[Observation],
        *,
        objective: Objective,
        loss: Loss | LossName,
        memory: int | None = None,
        engine: Literal["plain", "taps"] | None = None,
    ) -> None:
        loss = loss_of(loss)
        first = observations[0]
        targets, self._lost, scaled = _representable([each.gradients for each in observations], objective)
        victim = victim_of(model, first.training)
        for name, parameter in victim.named_parameters():
            parameter.requires_grad_(name in first.gradients)
            parameter.grad = None
        self.image_shape, self.batch_size = first.image_shape, first.batch_size
        self.reference = next(iter(first.gradients.values()))
        outputs = _probed(victim, self.batch_size, self.image_shape, self.reference, labelled=not takes_targets(loss))
        self.classes = outputs[0].numel()
        self.labels: Tensor | None = None
        if first.labels is not None:
            self.labels = torch.stack([o.labels for o in observations if o.labels is not None])
            floats = self.labels.is_floating_point()
            self.labels = self.labels.to(self.reference if floats else self.reference.device)
            for each in self.labels:
                check_labels(each, outputs, loss)
        elif takes_targets(loss):
            raise ValueError("labels: expected targets, which a loss without class labels needs, got None")
        self._victim, self._loss, self._checked = victim, loss, False
        self.evaluations = [0] * len(observations)
        self._observations = observations
        steps = math.ceil(first.batch_size / first.local.batch_size) if first.local else 1
        self._gradients_each = steps * first.local.epochs if first.local else 1
        self._engine = Engine(
            victim,
            targets,
            objective=objective,
            loss=loss,
            local=first.local,
            memory=memory,
            forced="plain" if scaled else engine,
            balanced=scaled,
        )

    def __len__(self) -> int:
        return len(self.evaluations)

    def __call__(self, images: Tensor, labels: Tensor, *, trials: slice = slice(None)) -> Evaluation:
        """Evaluate the chosen trials at images (R, B, C, H, W) and labels (R, B) int64 or (R, B, K) probabilities."""
        chosen = range(len(self))[trials]
        if not self._checked:  # only a search that follows the gradient needs it
            made = _made_up((min(self.batch_size, 2), *self.image_shape), self.reference)
            few = labels[0, : len(made)].detach()
            check_backward(self._victim, list(self._observations[0].gradients), made, few, loss=self._loss)
            self._checked = True
        evaluation = Evaluation(*self._engine(images, labels, chosen))
        for trial in chosen:
            self.evaluations[trial] += self._gradients_each
        if lost := [place for place, trial in enumerate(chosen) if self._lost[trial]]:
            values, to_images, to_labels = evaluation
            soft = None if to_labels is None else _filled(to_labels, lost, 0.0)
            return Evaluation(_filled(values, lost, math.inf), _filled(to_images, lost, 0.0), soft)
        return evaluation

    def halve(self) -> bool:
        """Evaluate a batch in parts of half as many images from now on; False where that cannot be.

        A gradient that is summed over parts of a batch takes twice as long, and differs by rounding only. It needs a
        victim that does not mix images, and a loss that is a mean over them: parts of a made-up batch show both.
        """
        return self._engine.halve()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: what was counted, and what was chosen."""
        return {"evaluations": self.evaluations, "engine": self._engine.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a stored state, with the same choices."""
        self.evaluations[:] = state["evaluations"]
        self._engine.load_state_dict(state["engine"])

    def values(
        self, images: Tensor, labels: Tensor, *, trials: slice = slice(None), mirror: Sequence[Mirror] = ()
    ) -> Tensor:
        """The objective (R,) alone, in half the time: no gradient with respect to the images is formed.

        A single trial may be evaluated at any number of points (P, B, C, H, W), with as many labels, which gives (P,).
        The simulated gradient passes through each function of `mirror`, in order, before the comparison.
        """
        chosen: Sequence[int] = range(len(self))[trials]
        if len(chosen) == 1:
            chosen = [*chosen] * len(images)

        def mirrored(trial: int, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            shared = replace(self._observations[trial], gradients=gradients)
            for change in mirror:
                shared = change(shared)
                if not isinstance(shared, Observation):
                    raise TypeError(
                        f"mirror: expected callables that return an Observation, got {type(shared).__name__}"
                    )
            return shared.gradients

        values = self._engine.values(images, labels, chosen, mirrored if mirror else None)
        for trial in chosen:
            self.evaluations[trial] += self._gradients_each
        lost = [place for place, trial in enumerate(chosen) if self._lost[trial]]
        return _filled(values, lost, math.inf) if lost else values


def class_labels(problem: Matching, attack: str) -> Tensor:
    """The known labels (R, B) of a problem, for an attack that needs class labels.

    Raises ValueError where there are none, or targets in their place.
    """
    if problem.labels is None:
        raise ValueError(f"labels: expected labels, which {attack} needs, got None; use reveal=('labels',) or set them")
    if problem.labels.is_floating_point():
        shape = tuple(problem.labels.shape[1:])
        raise ValueError(f"labels: expected class labels, which {attack} needs, got targets {shape}")
    return problem.labels


def _representable(
    targets: Sequence[Mapping[str, Tensor]], objective: Objective
) -> tuple[Sequence[Mapping[str, Tensor]], list[bool], bool]:
    """The targets, which of them are lost, and whether they are scaled.

    A target is lost if it is zero, or so small that its squares are and the objective has a scale: another one takes
    its place, and its values do not count. Where the objective has no scale and a sum of squares may leave the range of
    the dtype at either end, each target is multiplied by a power of two.
    """
    largest = [max(float(gradient.abs().max()) for gradient in target.values()) for target in targets]
    dtype, scale_free = next(iter(targets[0].values())).dtype, getattr(objective, "scale_free", False)
    smallest, greatest = torch.finfo(dtype).tiny ** 0.5, torch.finfo(dtype).max ** 0.5
    lost = [size == 0 if scale_free else size < smallest for size in largest]
    if all(lost):
        if not any(largest):
            raise NothingFound("gradients: expected an entry other than 0, got zeros")
        raise NothingFound(
            f"gradients: expected entries whose squares {dtype} can hold, got at most {max(largest):.3g}; use float64, "
            "or an objective without a scale such as Cosine"
        )
    spare = lost.index(False)
    kept = [spare if gone else trial for trial, gone in enumerate(lost)]
    targets, largest = [targets[trial] for trial in kept], [largest[trial] for trial in kept]
    if not scale_free or smallest * 2**13 <= min(largest) <= max(largest) <= greatest / 2**13:
        return targets, lost, False
    scaled: dict[int, Mapping[str, Tensor]] = {}  # restarts share a target
    for target, size in zip(targets, largest, strict=True):
        if id(target) not in scaled:
            scaled[id(target)] = {name: g * unit_factor(size, dtype) for name, g in target.items()}
    return [scaled[id(target)] for target in targets], lost, True


def _filled(values: Tensor, places: Sequence[int], value: float) -> Tensor:
    """A copy in which those of some trials are replaced."""
    return values.index_fill(0, torch.tensor(places, device=values.device), value)


def _made_up(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Random images, the same in every search."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(like)


def _probed(
    victim: nn.Module, batch_size: int, image_shape: tuple[int, int, int], like: Tensor, *, labelled: bool
) -> Tensor:
    """Outputs for made-up images, which shows that the model takes such images and draws no random numbers.

    Buffers are put back, since batch statistics move running ones.
    """
    buffers = [(buffer, buffer.clone()) for buffer in victim.buffers()]
    images = _made_up((batch_size, *image_shape), like)
    outputs = logits_of(victim, images, labelled=labelled)
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    return outputs
