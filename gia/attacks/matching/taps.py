"""The fast engine: the matching loss and its image gradient for many trials at once, without double backward of a layer.

The gradient of a layer's parameters is a product of its input x and of d = dL/dz of its output. So the matching loss D is a
function of the pairs (x, d), and with V = dD/dg (`a*g + b*t`, from the derivatives of the objective's few sums) its
derivatives are dD/dd = V * x and dD/dx = V' * d. One step of R trials of B images is

    1. forward, the layers interposed by `Tapped` parameters;
    2. backward to the layers' outputs with a graph, which leaves (x, d) on the tape;
    3. per trial g from (x, d), the sums, the objective, and V;
    4. one backward pass through both graphs from the seeds V * x at d and V' * d at x to the images.

In forward passes F: 1 + 1 + 1 + 2 + 2 = 7, which is the floor (a training step is 3, double backward by aten 8.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching.tapped import Tap, Tape, tapped
from gia.attacks.objectives import Agreement, Objective
from gia.federated.client import Loss


class Taps:
    """Matching gradients of trials on one victim.

    Args:
        victim: in the client's mode. It is left alone: a copy that shares its parameters' memory is run.
        names: of the matched parameters.
        objective, loss: as in `Matching`.
    """

    def __init__(self, victim: nn.Module, names: Sequence[str], *, objective: Objective, loss: Loss) -> None:
        parameters = dict(victim.named_parameters())
        self._shapes = {name: parameters[name] for name in names}
        self._tape = Tape(next(iter(parameters.values())).device)
        self._victim = tapped(victim, names, self._tape)
        self._objective, self._loss = objective, loss

    def __call__(self, targets: Sequence[Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objective (R,) and its gradient to images (R, B, C, H, W).

        Args:
            targets: (R, *shape) for each name, or (1, *shape) where all trials share them.
            labels: (R, B) int64.

        Raises `Unknown` where a matched parameter is used in a way that has no rule.
        """
        trials, batch = labels.shape
        leaf = images.detach().transpose(0, 1).reshape(-1, *images.shape[2:]).requires_grad_()
        taps = self._record(leaf, labels)
        with torch.no_grad():
            gradients = self._gradients(taps, trials)
        values, directions = self._directions(gradients, targets)
        outputs, seeds = [], []
        with torch.no_grad():
            for layer, inputs, derivative in taps:
                pair = tuple(None if name is None else directions[name] for name in layer.names)
                if derivative.requires_grad:
                    outputs.append(derivative)
                    seeds.append(layer.along(inputs, pair, derivative.shape))
                if inputs.requires_grad and pair[0] is not None:
                    outputs.append(inputs)
                    seeds.append(layer.back_along(derivative, pair[0], inputs.shape))
        (found,) = torch.autograd.grad(outputs, [leaf], seeds)
        self._tape.start(1, 1)
        return values, found.view(batch, trials, *images.shape[2:]).transpose(0, 1)

    def _record(self, images: Tensor, labels: Tensor) -> list[Tap]:
        tape, (trials, batch) = self._tape, labels.shape
        tape.start(trials, batch)
        with torch.enable_grad():
            logits = self._victim(images)
            if self._loss is cross_entropy:  # one call instead of R small ones
                loss = cross_entropy(logits, labels.T.flatten(), reduction="sum") / batch
            else:
                apart = logits.view(batch, trials, *logits.shape[1:]).unbind(1)
                loss = torch.stack([self._loss(*pair) for pair in zip(apart, labels, strict=True)]).sum()
            tape.listening = True
            torch.autograd.grad(loss, tape.anchor, create_graph=True, allow_unused=True)
            tape.listening = False
        return [tap for tap in tape.taps if any(tap.layer.names)]

    def _gradients(self, taps: Sequence[Tap], trials: int) -> dict[str, Tensor]:
        """g (R, *shape) of each parameter; one that was used twice has the sum."""
        found: dict[str, Tensor] = {}
        for layer, inputs, outputs in taps:
            for name, gradient in zip(layer.names, layer.gradients(inputs, outputs), strict=True):
                if name is not None and gradient is not None:
                    found[name] = found[name].add_(gradient) if name in found else gradient
        return {name: found[name] if name in found else like.new_zeros(trials, *like.shape) for name, like in self._shapes.items()}

    def _directions(self, gradients: dict[str, Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective and V = a*g + b*t, which overwrites g."""
        sums = _Sums(list(gradients), list(gradients.values()), targets)
        with torch.enable_grad():
            values = self._objective(sums)
            slopes = sums.slopes(values)
        with torch.no_grad():
            for (a, b), gradient, target in zip(slopes, gradients.values(), targets, strict=True):
                shape = (-1, *[1] * (gradient.dim() - 1))
                gradient.mul_(a.view(shape)).addcmul_(target, b.view(shape))
        return values.detach().to(targets[0].dtype), gradients


class _Sums(Agreement):
    """The sums per trial (R, P), accumulated in float64, and what the objective makes of a change of each."""

    @cached_property
    def inner(self) -> Tensor:
        return self._leaf([_dot(g, t) for g, t in zip(self._gradients, self._targets, strict=True)])

    @cached_property
    def squared(self) -> Tensor:
        return self._leaf([_dot(g, g) for g in self._gradients])

    @cached_property
    def target_squared(self) -> Tensor:
        return torch.stack([_dot(t, t) for t in self._targets], -1)

    @cached_property
    def difference(self) -> Tensor:
        apart = (g - t for g, t in zip(self._gradients, self._targets, strict=True))
        return self._leaf([_dot(one, one) for one in apart])

    def _leaf(self, sums: Sequence[Tensor]) -> Tensor:
        return torch.stack(sums, -1).requires_grad_()

    def slopes(self, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(a, b), each (R,), of each parameter: dD/dg = a*g + b*t."""
        names = [name for name in ("inner", "squared", "difference") if name in self.__dict__]
        leaves = [self.__dict__[name] for name in names]
        found = torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True)
        by = dict(zip(names, found, strict=True))
        zero = torch.zeros_like(leaves[0])
        inner, squared, difference = (by.get(name, zero) for name in ("inner", "squared", "difference"))
        dtype = self._gradients[0].dtype
        a, b = (2 * (squared + difference)).to(dtype), (inner - 2 * difference).to(dtype)
        return list(zip(a.unbind(-1), b.unbind(-1), strict=True))


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """(R,) or (1,): sum of products of each trial."""
    return (left * right).flatten(1).sum(1, dtype=torch.float64)
