"""The fast engine: the matching loss and its image gradient, many trials at once, no double backward of a layer.

The gradient of a layer's parameters is a product of its input x and of d = dL/dz of its output. So the matching loss D
is a function of the pairs (x, d), and with V = dD/dg (`a*g + b*t`, from the derivatives of the objective's few sums)
its derivatives are dD/dd = V * x and dD/dx = V' * d. One step of R trials of B images is

    1. forward, with `Tapped` parameters;
    2. backward towards the layers, with a graph, which leaves (x, d) of each on the tape;
    3. per trial g from (x, d), the sums, the objective, and V;
    4. one backward pass through both graphs to the images, from the seeds V * x at d and V' * d at x.

In forward passes F: 1 + 1 + 1 + 2 + 2 = 7. A training step is 3, aten's double backward 8.1.

What each trick bought, in processor time on one AVX2 core, float32, images of 32 x 32 (ConvNet of width 32, ResNet-18):

    trials at once instead of one by one        ConvNet, B=1: R=16 costs 3.8 ms a trial, R=1 14.8 (`engines` knows)
    convolution and its transpose as a pair     8.1F -> 6.8F (ResNet-18, B=4)
    interleaved trials                          no copy of any image on the way to a grouped convolution
    to narrow inputs by columns (`layers`)      the ConvNet's images 1.3 -> 0.8 ms, twice in a step of 20 at R=16
    factored gradients (`gradients`)            the 512-channel layers of ResNet-18, B=1: 143 -> 31 ms at R=4
    their products by oneDNN                    148 -> 57 ms of a ResNet-18 step at B=4, R=2
    targets' own sums and transposes kept       0.5 ms of the ConvNet's step
    sums by rows, then float64                  a float64 cast of all gradients, a tenth of the ConvNet's step
    aten's convolution_backward, not torch.nn.grad    one copy of each input

What is left is oneDNN: 69 % of a ResNet-18 step are its convolutions and 16 % matrix products. `nox -s bench` finds the
core at 1.14 to 1.26 times seven forward passes there, and at 1.6 (B=4) to 1.9 times (B=1) for the ConvNet, whose
kernels per trial are reordered at each call and whose 400 operations a step each cost a call: R=32 is 1.15 times
cheaper a trial than R=16. On such a machine a training step of ResNet-18 at B=4 is 3.5F and the 9F closure 11.6F, so
that no engine of seven forward passes is below 2.0 training steps or beats the closure by more than 1.65.
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
from gia.federated.client import Loss


class Taps:
    """Matching gradients of trials on one victim.

    Args:
        victim: in the client's mode. It is left alone: a copy that shares its parameters' memory is run.
        names: of the matched parameters.
        objective, loss: as in `Matching`.
    """

    def __init__(self, victim: nn.Module, names: Sequence[str], *, objective: Objective, loss: Loss) -> None:
        self._names = names
        self._tape = Tape(next(victim.parameters()).device)
        self._victim = tapped(victim, names, self._tape)
        self._objective, self._loss = objective, loss

    def __call__(self, targets: Sequence[Target], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objective (R,) and its gradient to images (R, B, C, H, W).

        Args:
            targets: for each name, of each trial or of all.
            labels: (R, B) int64.

        Raises `Unknown` where a matched parameter is used in a way that has no rule.
        """
        trials, batch = labels.shape
        leaf = images.detach().transpose(0, 1).reshape(-1, *images.shape[2:]).requires_grad_()
        taps = self._record(leaf, labels)
        with torch.no_grad():
            gradients = self._gradients(taps, dict(zip(self._names, targets, strict=True)), trials)
        with torch.enable_grad():
            sums = Sums(gradients, targets, trials)
            values = self._objective(sums)
            slopes = sums.slopes(values)
        with torch.no_grad():
            outputs, seeds = _seeds(taps, gradients, *(one.to(leaf.dtype) for one in slopes))
        (found,) = torch.autograd.grad(outputs, [leaf], seeds)
        to_images = found.view(batch, trials, *images.shape[2:]).transpose(0, 1)
        return values.detach().to(leaf.dtype), to_images

    @torch.no_grad()
    def values(self, targets: Sequence[Target], images: Tensor, labels: Tensor) -> Tensor:
        """The objective (R,) alone: steps 1 and 2, without a graph, and the sums of step 3."""
        interleaved = images.detach().transpose(0, 1).reshape(-1, *images.shape[2:])
        taps = self._record(interleaved, labels, create_graph=False)
        gradients = self._gradients(taps, dict(zip(self._names, targets, strict=True)), len(labels))
        return self._objective(Sums(gradients, targets, len(labels))).detach().to(images.dtype)

    def _record(self, images: Tensor, labels: Tensor, *, create_graph: bool = True) -> list[Tap]:
        """Forward, and backward to the outputs of the layers."""
        trials, batch = labels.shape
        with torch.enable_grad(), self._tape.over(trials, batch) as tape:
            logits = self._victim(images)
            if self._loss is cross_entropy:  # one call instead of R small ones
                loss = cross_entropy(logits, labels.T.flatten(), reduction="sum") / batch
            else:
                apart = logits.view(batch, trials, *logits.shape[1:]).unbind(1)
                loss = torch.stack([self._loss(*pair) for pair in zip(apart, labels, strict=True)]).sum()
            return tape.listen(loss, create_graph=create_graph)

    def _gradients(self, taps: Sequence[Tap], targets: dict[str, Target], trials: int) -> dict[str, Gradient]:
        uses = Counter(name for tap in taps for name in tap.layer.names)
        found: dict[str, Gradient] = {}
        sums: dict[str, Tensor] = {}
        for tap in taps:
            layer, inputs, outputs = tap
            weight, bias = layer.names
            if weight and uses[weight] == 1 and (factors := layer.factors(inputs, outputs)):
                found[weight] = Factored(tap, factors, targets[weight])
                weight = None
            for name, value in zip(layer.names, layer.gradients(inputs, outputs, (weight, bias)), strict=True):
                if name is not None and value is not None:
                    sums[name] = sums[name] + value if name in sums else value
        for name in self._names:
            if name not in found:
                target = targets[name].value
                value = sums[name] if name in sums else target.new_zeros(trials, *target.shape[1:])
                found[name] = Full(value, targets[name])
        return {name: found[name] for name in self._names}


def _seeds(
    taps: Sequence[Tap], gradients: dict[str, Gradient], a: Tensor, b: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Where dD/dx and dD/dd enter the graph, and what enters there."""
    factors = dict(zip(gradients, zip(a.unbind(-1), b.unbind(-1), strict=True), strict=True))
    directions = {
        name: gradient.direction(*factors[name]) for name, gradient in gradients.items() if isinstance(gradient, Full)
    }
    found: list[tuple[Tensor, Tensor]] = []
    for layer, inputs, outputs in taps:
        weight, bias = layer.names
        pair = Pair(directions.get(weight or ""), directions.get(bias or ""))
        if pair.weight is not None or pair.bias is not None:
            found.append((outputs, layer.along(inputs, pair, outputs.shape)))
        if pair.weight is not None and inputs.requires_grad:
            found.append((inputs, layer.back_along(outputs, pair.weight, inputs.shape)))
        if weight and isinstance(gradient := gradients[weight], Factored):
            found += zip((outputs, inputs), gradient.seeds(*factors[weight]), strict=True)
    # Without a graph are an input that no image reaches, and d of a layer that the loss is linear in.
    found = [(at, seed) for at, seed in found if at.requires_grad]
    return [at for at, _ in found], [seed for _, seed in found]
