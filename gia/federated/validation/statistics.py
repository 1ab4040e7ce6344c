"""The check of running statistics: where they put the thresholds of channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gia.federated.calls import Normalization
from gia.federated.recorder import Recorder
from gia.federated.validation.report import Results
from gia.federated.victims import in_mode

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
    """Where running statistics put the thresholds of channels, against the agreed ones and those of the batch.

    The batch has statistics in the received model in evaluation mode, and in both models as in training.
    """
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
    trained = [_in_training(model, record, training=training) for model in (received, expected)]
    for i, (normalization, *others) in enumerate(zip(record.normalizations, *trained, strict=True)):
        used = normalization.mean, normalization.variance
        # Statistics that are no buffer are compared with those that a normalization starts from.
        old = [before.get(t.data_ptr(), torch.full_like(t, start)).to(t) for start, t in enumerate(used)]
        name = names.get(used[0].data_ptr(), f"normalization {i}")
        results.measured("statistics", name, _away(normalization, (old[0], old[1]), *map(_noted, others)))


def _in_training(model: nn.Module, record: Recorder, *, training: bool) -> list[Normalization]:
    """The recorded normalizations, with the inputs that they have in `model` where each one uses those of the batch.

    Running statistics are means of what training notes, on the way from the agreed model to the received one. In
    evaluation mode a normalization has other inputs, the more so the more layers with running statistics are before it.
    """
    images = record.images.to(next(model.parameters()))
    with in_mode(model, training), Recorder(images, own_statistics=True) as again:
        model(images)
    shapes = [[n.inputs.shape for n in one.normalizations] for one in (record, again)]
    # A forward pass that depends on values may call others.
    normalizations: list[Normalization] = (again if shapes[0] == shapes[1] else record).normalizations
    return normalizations


def _noted(normalization: Normalization) -> tuple[Tensor, Tensor]:
    """The mean and variance that a normalization notes of its inputs in training."""
    images = _by_image(normalization.inputs)
    if normalization.instance:
        variance, mean = torch.var_mean(images, 1, correction=0)
        return mean.mean(0), variance.mean(0)
    variance, mean = torch.var_mean(images.flatten(0, 1), 0, correction=0)
    return mean, variance


def _by_image(inputs: Tensor) -> Tensor:
    """(N, channels, ...) as (N, places, channels)."""
    return inputs.movedim(1, -1).flatten(1, -2) if inputs.dim() > 2 else inputs[:, None]


def _away(n: Normalization, *explained: tuple[Tensor, Tensor]) -> float:
    """The distance of thresholds that one channel in twenty exceeds, in deviations of what is normalized.

    A channel is cut off at g mean - b sqrt(variance), up to its factor. It is compared with the smallest and largest
    value between the statistics of the batch and the `explained` means and variances: those that were agreed upon, and
    those that training notes. Two standard errors of the batch are taken off. Channels that are constant over the
    batch are left out.
    """
    g = torch.ones_like(n.mean) if n.weight is None else n.weight
    b = torch.zeros_like(n.mean) if n.bias is None else n.bias
    images = _by_image(n.inputs)
    each = images.mean(1)
    size = images.flatten(0, 1).std(0, correction=0)
    error = each.std(0) / math.sqrt(len(each))
    means, variances = zip(_noted(n), *explained, strict=True)
    corners = torch.stack([g * m.to(g) - b * (v.to(g) + n.eps).sqrt() for m in means for v in variances])
    at = g * n.mean - b * (n.variance + n.eps).sqrt()
    beyond = torch.maximum(corners.amin(0) - at, at - corners.amax(0)) - 2 * g.abs() * error
    away = torch.where(beyond > 0, beyond / (g.abs() * size), 0.0)
    away = away[g * size != 0]
    if not len(away):
        return 0.0
    return float(away.kthvalue(max(1, math.ceil((1 - _CHANNELS) * len(away)))).values)
