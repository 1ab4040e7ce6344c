"""Questions about a model's layers that clients, servers and attacks share: modes, classifier, batch normalizations."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from gia.federated.outputs import output_of

__all__ = ["BatchStatistics", "batch_norm_layers", "classifier", "set_mode"]


def set_mode(model: nn.Module, training: bool) -> nn.Module:
    """Put `model` in training or evaluation mode, with dropout off and RReLU at its mean slope in both.

    Random masks and slopes would move the global random state, and no attacker could repeat them. Modules that draw
    random numbers without being `nn.Dropout` or `nn.RReLU`, such as attention with dropout, are found and put in
    evaluation mode when a client or an attack first runs its copy of the model.

    Args:
        model: changed in place.
        training: whether batch normalization uses the statistics of its batch (True) or its running ones.

    Returns:
        The same model.

    >>> from torch import nn
    >>> from gia.federated import set_mode
    >>> model = set_mode(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)), True)
    >>> [layer.training for layer in model]
    [True, False]
    """
    model.train(training)
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU)):
            module.eval()
    return model


def classifier(model: nn.Module, images: Tensor | None = None, *, bias: bool = True) -> str:
    """Name of the classifier: the linear layer whose output is what the model returns.

    Args:
        model: not changed.
        images: (N, C, H, W) on which a copy of the model is run to find that layer. None takes the last `nn.Linear`
            that the model lists, which is the classifier in every network of `gia.models`.
        bias: whether the classifier must have a bias.

    Raises:
        ValueError: the model has no such layer.

    >>> import torch
    >>> from torch import nn
    >>> from gia.federated.server import classifier
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> classifier(model), classifier(model, torch.zeros(1, 3, 2, 2))
    ('3', '3')
    """
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    name: str | None
    if images is None:
        name = linear[-1] if linear else None
    else:
        # A copy, since a forward pass in training mode moves running statistics.
        tried = copy.deepcopy(model)
        name = next((name for name in reversed(linear) if _is_output(tried, tried.get_submodule(name), images)), None)
    if name is None or (bias and model.get_submodule(name).bias is None):
        wanted = "a linear classifier with a bias" if bias else "a linear classifier"
        raise ValueError(f"model: expected {wanted} that yields the logits, got the linear layers {linear}")
    return name


@torch.no_grad()
def _is_output(model: nn.Module, layer: nn.Module, images: Tensor) -> bool:
    """Whether the model returns whatever this layer puts out; it must run once, on one vector per image."""
    replaced: list[Tensor] = []

    def replace(_: nn.Module, __: object, output: Tensor) -> Tensor:
        values = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device)
        replaced.append(values.view_as(output))
        return replaced[-1]

    hook = layer.register_forward_hook(replace)
    try:
        logits = output_of(model(images))
    finally:
        hook.remove()
    return len(replaced) == 1 and replaced[0].dim() == 2 and logits.equal(replaced[0])


def batch_norm_layers(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Name -> batch normalization layer, in the order of the model's modules.

    >>> from torch import nn
    >>> from gia.federated.layers import batch_norm_layers
    >>> list(batch_norm_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
    ['1']
    """
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }


class BatchStatistics:
    """Records the mean and the biased variance of what enters each batch normalization, within a `with` block.

    Args:
        model: the model that runs in the block.
        layers: names of the batch normalizations to record; None records all.
        trials: number R of batches that follow each other in the model's input; each gets its own statistics. None
            takes the input as one batch.
        detach: whether the statistics are cut off from the autograd graph of the forward pass.

    Attributes:
        seen: layer name -> (mean, variance) of its last input, each (C,), or (R, C) with `trials`, in the order in
            which the layers ran.

    >>> import torch
    >>> from torch import nn
    >>> from gia.federated.layers import BatchStatistics
    >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))
    >>> with BatchStatistics(model) as statistics:
    ...     _ = model(torch.tensor([[1.0], [3.0]]))
    >>> [value.tolist() for value in statistics.seen["0"]]
    [[2.0], [1.0]]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Collection[str] | None = None,
        trials: int | None = None,
        detach: bool = True,
    ) -> None:
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._trials, self._detach = trials, detach
        self._layers = {
            name: layer for name, layer in batch_norm_layers(model).items() if layers is None or name in layers
        }

    def __enter__(self) -> BatchStatistics:
        self._handles = [
            layer.register_forward_pre_hook(lambda _, inputs, name=name: self._record(name, inputs[0]))
            for name, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, name: str, inputs: Tensor) -> None:
        if self._detach:
            inputs = inputs.detach()
        images = 0  # the dimension that counts images
        if self._trials is not None:
            images, inputs = 1, inputs.reshape(self._trials, -1, *inputs.shape[1:])
        variance, mean = torch.var_mean(inputs, [images, *range(images + 2, inputs.dim())], correction=0)
        self.seen[name] = mean, variance
