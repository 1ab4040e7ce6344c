"""The fast engine: the matching loss and its image gradient for many trials at once, without double backward of layers.

The gradient of a layer's parameters is a product of its input x and of d = dL/dz of its output. So the matching loss D
is a function of the pairs (x, d), and with V = dD/dg (`a*g + b*t`, from the derivatives of the objective's few sums)
its derivatives are dD/dd = V * x and dD/dx = V' * d. One step of R trials of B images is

    1. forward, with `Tapped` parameters;
    2. backward towards the layers, with a graph; the tape records (x, d) of each layer;
    3. per trial g from (x, d), the sums, the objective, and V;
    4. one backward pass through both graphs to the images, from the seeds V * x at d and V' * d at x.

The cost in forward passes F is 1 + 1 + 1 + 2 + 2 = 7. A training step costs 3, aten's double backward 8.1.

`nox -s bench` measures a step against this count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gia.attacks.matching.gradients import Factored, Full, Gradient, Sums, Target
from gia.attacks.matching.layers import Pair
from gia.attacks.matching.tapped import Tap, Tape, tapped
from gia.attacks.objectives import Objective
from gia.federated.losses import Loss


class Taps:
    """Matching gradients of many trials on one victim.

    Args:
        victim: in the client's mode. It does not change: a copy runs, which shares the memory of its parameters.
        names: of the matched parameters.
        objective, loss: as in `Matching`.
    """

    def __init__(self, victim: nn.Module, names: Sequence[str], *, objective: Objective, loss: Loss) -> None:
        self._names = names
        self._tape = Tape(next(victim.parameters()).device)
        self._victim = tapped(victim, names, self._tape)
        self._objective, self._loss = objective, loss

    def __call__(
        self, targets: Sequence[Target], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The objective (R,) and its gradients to images (R, B, C, H, W) and to soft labels.

        Args:
            targets: one per name, for each trial or for all.
            labels: (R, B) int64, or (R, B, K) class probabilities.

        Raises `Unknown` where a matched parameter is used in a way that has no rule.
        """
        trials, batch = labels.shape[:2]
        leaf = images.detach().transpose(0, 1).reshape(-1, *images.shape[2:]).requires_grad_()
        labels = labels.detach().requires_grad_(labels.is_floating_point())
        taps = self._record(leaf, labels)
        with torch.no_grad():
            gradients = self._gradients(taps, dict(zip(self._names, targets, strict=True)), trials)
        with torch.enable_grad():
            sums = Sums(gradients, targets, trials)
            values = self._objective(sums)
            slopes = sums.slopes(values)
        with torch.no_grad():
            outputs, seeds = _seeds(taps, gradients, *(one.to(leaf.dtype) for one in slopes))
        # Soft labels enter through d alone, in the graph of step 2.
        wanted = [leaf, labels] if labels.requires_grad else [leaf]
        interleaved, *to_labels = torch.autograd.grad(outputs, wanted, seeds)
        to_images = interleaved.view(batch, trials, *images.shape[2:]).transpose(0, 1)
        return values.detach().to(leaf.dtype), to_images, to_labels[0] if to_labels else None

    @torch.no_grad()
    def values(self, targets: Sequence[Target], images: Tensor, labels: Tensor) -> Tensor:
        """The objective (R,) alone: steps 1 and 2 without a graph, and the sums of step 3."""
        interleaved = images.detach().transpose(0, 1).reshape(-1, *images.shape[2:])
        taps = self._record(interleaved, labels, create_graph=False)
        gradients = self._gradients(taps, dict(zip(self._names, targets, strict=True)), len(labels))
        return self._objective(Sums(gradients, targets, len(labels))).detach().to(images.dtype)

    def _record(self, images: Tensor, labels: Tensor, *, create_graph: bool = True) -> list[Tap]:
        """Run forward, and backward to the outputs of the layers."""
        trials, batch = labels.shape[:2]
        with torch.enable_grad(), self._tape.over(trials, batch) as tape:
            logits = self._victim(images)
            if self._loss is cross_entropy:  # one call in place of R small ones
                loss = cross_entropy(logits, labels.transpose(0, 1).flatten(0, 1), reduction="sum") / batch
            else:
                apart = logits.view(batch, trials, *logits.shape[1:]).unbind(1)
                loss = torch.stack([self._loss(*pair) for pair in zip(apart, labels, strict=True)]).sum()
            return tape.listen(loss, create_graph=create_graph)

    def _gradients(self, taps: Sequence[Tap], targets: dict[str, Target], trials: int) -> dict[str, Gradient]:
        uses = Counter(name for tap in taps for name in tap.layer.names)
        gradients: dict[str, Gradient] = {}
        sums: dict[str, Tensor] = {}
        for tap in taps:
            layer, inputs, outputs = tap
            weight, bias = layer.names
            if weight and uses[weight] == 1 and (factors := layer.factors(inputs, outputs)):
                gradients[weight] = Factored(tap, factors, targets[weight])
                weight = None
            for name, value in zip(layer.names, layer.gradients(inputs, outputs, (weight, bias)), strict=True):
                if name is not None and value is not None:
                    sums[name] = sums[name] + value if name in sums else value
        for name in self._names:
            if name not in gradients:
                target = targets[name].value
                value = sums[name] if name in sums else target.new_zeros(trials, *target.shape[1:])
                gradients[name] = Full(value, targets[name])
        return {name: gradients[name] for name in self._names}


def _seeds(
    taps: Sequence[Tap], gradients: dict[str, Gradient], a: Tensor, b: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of the graph at which dD/dx and dD/dd enter, and these derivatives."""
    factors = dict(zip(gradients, zip(a.unbind(-1), b.unbind(-1), strict=True), strict=True))
    directions = {
        name: gradient.direction(*factors[name]) for name, gradient in gradients.items() if isinstance(gradient, Full)
    }
    entries: list[tuple[Tensor, Tensor]] = []
    for layer, inputs, outputs in taps:
        weight, bias = layer.names
        pair = Pair(directions.get(weight or ""), directions.get(bias or ""))
        if pair.weight is not None or pair.bias is not None:
            entries.append((outputs, layer.along(inputs, pair, outputs.shape)))
        if pair.weight is not None and inputs.requires_grad:
            entries.append((inputs, layer.back_along(outputs, pair.weight, inputs.shape)))
        if weight and isinstance(gradient := gradients[weight], Factored):
            entries += zip((outputs, inputs), gradient.seeds(*factors[weight]), strict=True)
    # An input that does not depend on the images, and d of a layer in which the loss is linear, have no graph.
    entries = [(at, seed) for at, seed in entries if at.requires_grad]
    return [at for at, _ in entries], [seed for _, seed in entries]
