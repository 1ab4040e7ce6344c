"""The check of running statistics: where they put the thresholds of channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gia.federated.calls import Normalization
from gia.federated.recorder import Recorder
from gia.federated.validation.report import Results

#: The share of channels of a batch normalization whose statistics may lie anywhere.
_CHANNELS = 0.05


def check_statistics(
    results: Results,
    received: nn.Module,
    expected: nn.Module | None,
    record: Recorder | None,
    *,
    training: bool,
) -> None:
    """Where running statistics put the thresholds of channels, against the batch and the agreed model."""
    kept = any(isinstance(module, _NormBase) and module.running_mean is not None for module in received.modules())
    if (record is not None and not record.normalizations) or (record is None and (training or not kept)):
        return
    shapes = [[b.shape for b in model.buffers()] for model in (received, expected) if model is not None]
    if expected is None or shapes[0] != shapes[1]:
        results.skipped["statistics"] = "no model was agreed upon" if expected is None else "the agreed one has others"
        return
    pairs = list(zip(received.buffers(), expected.buffers(), strict=True))
    if all(torch.equal(new, old.to(new)) for new, old in pairs):
        results.measured("statistics", "the model", 0.0)
        return
    if record is None or any(len(normalization.inputs) < 2 for normalization in record.normalizations):
        results.skipped["statistics"] = "no batch was given" if record is None else "a single image has no spread"
        return
    before = {new.data_ptr(): old for new, old in pairs}
    names = {buffer.data_ptr(): key.rpartition(".")[0] for key, buffer in received.named_buffers()}
    for i, normalization in enumerate(record.normalizations):
        used = normalization.mean, normalization.variance
        # Statistics that are no buffer are compared with those that a normalization starts from.
        old = [before.get(t.data_ptr(), torch.full_like(t, start)).to(t) for start, t in enumerate(used)]
        name = names.get(used[0].data_ptr(), f"normalization {i}")
        results.measured("statistics", name, _away(normalization, old[0], old[1]))


def _away(normalization: Normalization, old_mean: Tensor, old_variance: Tensor) -> float:
    """The distance of thresholds that one channel in twenty exceeds, in deviations of what is normalized.

    A channel is cut off at g mean - b sqrt(variance), up to its factor. It is compared with the smallest and largest
    value between the agreed statistics and those of the batch, and two standard errors of the batch are taken off.
    Channels that are constant over the batch are left out.
    """
    n, g, b = normalization, normalization.weight, normalization.bias
    g = torch.ones_like(n.mean) if g is None else g
    b = torch.zeros_like(n.mean) if b is None else b
    images = (
        n.inputs.movedim(1, -1).flatten(1, -2) if n.inputs.dim() > 2 else n.inputs[:, None]
    )  # (N, places, channels)
    each = images.mean(1)
    variance, mean = torch.var_mean(images.flatten(0, 1), 0, correction=0)
    size = variance.sqrt()
    error = each.std(0) / math.sqrt(len(each))
    corners = torch.stack([g * m - b * (v + n.eps).sqrt() for m in (old_mean, mean) for v in (old_variance, variance)])
    at = g * n.mean - b * (n.variance + n.eps).sqrt()
    beyond = torch.maximum(corners.amin(0) - at, at - corners.amax(0)) - 2 * g.abs() * error
    away = torch.where(beyond > 0, beyond / (g.abs() * size), 0.0)
    away = away[g * size != 0]
    if not len(away):
        return 0.0
    return float(away.kthvalue(max(1, math.ceil((1 - _CHANNELS) * len(away)))).values)
