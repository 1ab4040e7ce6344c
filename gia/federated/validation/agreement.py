"""The checks against the agreed model, or the last accepted one: structure and drift."""

from __future__ import annotations

import math
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from gia.federated.recorder import Recorder, operations
from gia.federated.validation.report import Results


def check_agreement(
    results: Results,
    received: nn.Module,
    expected: nn.Module,
    batch: tuple[Tensor, Tensor] | None,
    record: Recorder | None,
    *,
    training: bool,
) -> None:
    """Find what `received` has in another way than `expected`, and how far each layer moved."""
    ours, theirs = ([p.numel() for p in model.parameters()] for model in (expected, received))
    if sum(ours) != sum(theirs):
        results.wrong("structure", f"it has {sum(theirs)} parameters, not {sum(ours)}", sum(theirs), sum(ours))
        return
    for kind in ("parameters", "buffers"):
        shapes = [
            [(tuple(t.shape), t.dtype, t.requires_grad) for t in getattr(m, kind)()] for m in (expected, received)
        ]
        if shapes[0] != shapes[1]:
            results.wrong(
                "structure", f"its {kind} have other shapes, dtypes or requires_grad", len(shapes[1]), len(shapes[0])
            )
            return
    if batch is not None:
        images = batch[0][:2].to(next(received.parameters()))  # two, for a batch normalization in training mode
        calls = [operations(model, images, training=training) for model in (expected, received)]
        if calls[0] != calls[1]:
            pairs = zip_longest(*calls, fillvalue="nothing")
            line = next(f"{new}, not {old}" for old, new in pairs if new != old)
            results.wrong("structure", f"its forward pass calls {line}", len(calls[1]), len(calls[0]))
    _compare_buffers(results, received, expected, record, training=training)
    for (name, new), (_, old) in zip(_owners(received), _owners(expected), strict=True):
        size = math.sqrt(sum(float(p.norm()) ** 2 for p in old))
        moved = math.sqrt(sum(float((p - q.to(p)).norm()) ** 2 for p, q in zip(new, old, strict=True)))
        # For a layer whose weights start at zero: half of what torch's initialization gives as many rows, or less.
        floor = 0.25 * math.sqrt(sum(len(p) for p in old if p.dim() > 1) or sum(p.numel() for p in old))
        results.measured("drift", name, moved / max(size, floor))


def _compare_buffers(
    results: Results,
    received: nn.Module,
    expected: nn.Module,
    record: Recorder | None,
    *,
    training: bool,
) -> None:
    """Buffers do not change in training, but for running statistics and what spectral norms iterate.

    Running statistics that the forward pass applies are judged by `check_statistics`, the weights of a spectral norm
    as they are applied.
    """
    judged = {t.data_ptr() for n in (record.normalizations if record else []) for t in (n.mean, n.variance)}
    free = {
        id(buffer)
        for module in received.modules()
        for key, buffer in module.named_buffers(recurse=False)
        if isinstance(module, _NormBase | _SpectralNorm)
        or any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
        if key == "num_batches_tracked" or not isinstance(module, _NormBase) or record is None or training
    }
    for (name, new), (_, old) in zip(received.named_buffers(), expected.named_buffers(), strict=True):
        if not torch.equal(new, old.to(new)) and new.data_ptr() not in judged and id(new) not in free:
            results.wrong("structure", f"its buffer {name} holds other values", 1, 0)


def _owners(model: nn.Module) -> list[tuple[str, list[Tensor]]]:
    """Modules that own parameters directly, in order."""
    owners = [(name, [p.detach() for p in m.parameters(recurse=False)]) for name, m in model.named_modules()]
    return [(name, parameters) for name, parameters in owners if parameters]
