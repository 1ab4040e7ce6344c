"""Local SGD of a client in federated averaging: the one loop behind the client's update and each simulation of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gia.federated.observation import LocalTraining

__all__ = ["local_sgd"]

#: (weights, epoch, places of the step's images in the epoch's order) -> gradient of each weight.
Gradient = Callable[[Mapping[str, Tensor], int, slice], Mapping[str, Tensor]]


def local_sgd(
    start: Mapping[str, Tensor], gradient: Gradient, *, images: int, local: LocalTraining, fused: bool
) -> dict[str, Tensor]:
    """The weights before minus the weights after local SGD with momentum (McMahan et al., 2017, FedAvg).

    Each step is v = momentum * v + g, w = w - lr * v, with v = 0 at the start (heavy ball, as in `torch.optim.SGD`). An
    epoch takes the images in batches of `local.batch_size`, the last of which may be smaller. The loop works out of
    place and leaves the gradient to its caller, so that it also runs inside an autograd graph and under
    `torch.func.vmap`: the client differentiates its module, an attack keeps the graph, and an inverter trains on many
    batches at once.

    Args:
        start: name -> weight; not changed.
        gradient: called once per step, in order; it picks the step's images and returns a gradient for each name.
        images: how many images the client has.
        local: epochs, batch size, step size and momentum.
        fused: whether w - lr * v is rounded once, as `torch.optim.SGD` does, or after the product and after the
            difference. The last bits differ: clients round once, simulations twice.

    Returns:
        Name -> weight before minus weight after, undivided.

    >>> import torch
    >>> from gia import LocalTraining
    >>> from gia.federated.local_sgd import local_sgd
    >>> two_steps = LocalTraining(epochs=1, batch_size=2, lr=0.5)
    >>> local_sgd({"w": torch.ones(1)}, lambda weights, *_: weights, images=4, local=two_steps, fused=False)
    {'w': tensor([0.7500])}
    """
    weights, velocity = dict(start), {name: torch.zeros_like(weight) for name, weight in start.items()}
    for epoch in range(local.epochs):
        for first in range(0, images, local.batch_size):
            slopes = gradient(weights, epoch, slice(first, first + local.batch_size))
            for name, weight in list(weights.items()):
                velocity[name] = local.momentum * velocity[name] + slopes[name]
                if fused:
                    weights[name] = torch.add(weight, velocity[name], alpha=-local.lr)
                else:
                    weights[name] = weight - local.lr * velocity[name]
    return {name: start[name] - weight for name, weight in weights.items()}
