"""The checks of weights and biases: finite, similar rows, ordered and outlying biases, zeroed rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gia.federated.calls import SHORTEST_IMAGE
from gia.federated.validation.layers import Layer
from gia.federated.validation.report import Results

#: Random directions in which long rows are compared.
_DIRECTIONS = 64
#: The most rows of which all pairs are compared; more are split, three times, into parts of at most this size.
_ALL_PAIRS, _SPLITS = 4096, 3


def check_weights(results: Results, layers: list[Layer], model: nn.Module) -> None:
    """Measure each layer, as it is applied if that is known, and each vector of the model."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        # The sum is not finite if a term is not. It may also overflow, so the entries are then counted.
        finite = not tensor.is_floating_point() or math.isfinite(float(tensor.sum()))
        if not finite and (wrong := int((~tensor.isfinite()).sum())):
            results.wrong("finite", name, wrong, 0)
    vectors = [(name, p.detach()) for name, p in model.named_parameters() if p.dim() == 1]
    known = {vector.data_ptr() for _, vector in vectors}
    for layer in layers:
        if layer.bias is not None and layer.bias.data_ptr() not in known and layer.bias.dim() == 1:
            vectors.append((layer.name, layer.bias))
        if layer.use is not None and layer.use.scale is not None and layer.use.shift is not None:
            start = 0 if layer.bias is None else layer.bias
            cuts = start + layer.use.shift / layer.use.scale
            vectors.append((layer.name, cuts[cuts.isfinite()]))
    for name, vector in vectors:
        if len(vector) >= 8:
            results.measured("ordered_biases", name, _ordered(vector))
    for layer in layers:
        rows = layer.rows
        if rows.shape[1] >= SHORTEST_IMAGE and len(rows) > 1:
            results.measured("similar_rows", layer.name, _similar(rows))
        if len(rows) > 2 and layer.selects:
            results.measured("zeroed_rows", layer.name, _largest_to_median(layer.scaled_rows))
        if (value := _outlier(layer)) is not None:
            results.measured("outlier_biases", layer.name, value)
    for name, rows in _few_rows(layers):
        results.measured("similar_rows", name, _similar(rows))


def _few_rows(layers: list[Layer]) -> Iterator[tuple[str, Tensor]]:
    """The rows of layers with one row, and the differences in those with two, together: three or more of one length.

    Otherwise rows that are alike could be spread over as many layers.
    """
    few: dict[int, list[Layer]] = {}
    for layer in layers:
        if layer.linear and len(layer.rows) <= 2 and layer.rows.shape[1] >= SHORTEST_IMAGE:
            few.setdefault(layer.rows.shape[1], []).append(layer)
    for alike in few.values():
        if len(alike) > 2:
            rows = [layer.rows[0] - layer.rows[1] if len(layer.rows) == 2 else layer.rows[0] for layer in alike]
            yield f"{alike[0].name} and {len(alike) - 1} layers of its kind", torch.stack(rows)


def _outlier(layer: Layer) -> float | None:
    """The largest bias per mean weight and unit of input, or None without biases."""
    rows, bias, use = layer.scaled_rows, layer.bias, layer.use
    # Weights for pixels from 0 to 255 are smaller, relative to the bias, than weights for pixels from 0 to 1.
    unit = float(rows.abs().mean()) * max(1.0, layer.spread)
    if use is None or use.scale is None or use.shift is None:
        if bias is None or not bool(bias.any()):
            return None
        size = float(bias.abs().max())
        away = float((bias - bias.median()).abs().max())
        # A classifier may start with the log of a prior in all its biases. Rows that are alike read one measure, which
        # a common bias cuts off, so that they are judged by the bias itself.
        size = away if away < size / 4 and not _alike(layer.rows) else size
        return size / unit if unit else math.inf if size else 0.0
    # As a normalization applies it: from zero, or from the mean of the batch, whichever is less.
    deviation, mean = torch.std_mean(use.signals, 0, correction=0)
    start = torch.zeros_like(mean) if bias is None else bias
    offset = torch.minimum(*((use.scale * at + use.shift).abs() for at in (start, mean)))
    unit = max(unit, use.unit, float((use.scale.abs() * deviation).median()))
    size = float(offset.max())
    return size / unit if unit else math.inf if size else 0.0


def _alike(rows: Tensor) -> bool:
    """Whether at least three rows have more than half of their size in common."""
    return len(rows) > 2 and bool(2 * rows.mean(0).norm() > rows.norm(dim=1).mean())


def _similar(rows: Tensor) -> float:
    """Over rows, the fourth largest |cosine| with the nearest other row; the smallest if there are fewer rows.

    Two rows are similar if they point the same way; opposite ones are what every trained classifier of two classes has.
    Long rows are compared in 64 random directions, which keep a cosine near 1 near 1 (Johnson and Lindenstrauss, 1984).
    The directions are seeded by the weights, so that nobody can choose weights that suit known directions. Many rows
    are compared within the parts of random projection trees (Dasgupta and Freund, 2008), at a cost linear in the rows.
    """
    g = torch.Generator().manual_seed(hash(float(rows.sum())) % 2**63)
    if rows.shape[1] > 4 * _DIRECTIONS:
        rows = rows @ torch.randn(rows.shape[1], _DIRECTIONS, generator=g, dtype=torch.float32).to(rows)
    sizes = rows.norm(dim=1, keepdim=True)
    rows = (rows / sizes.clamp_min(torch.finfo(rows.dtype).tiny))[sizes[:, 0] > 0]
    if len(rows) < 2:
        return 0.0
    if len(rows) <= _ALL_PAIRS:
        nearest = _nearest(rows)
    else:
        nearest = rows.new_zeros(len(rows))
        for _ in range(_SPLITS):
            for part in _parts(rows, torch.arange(len(rows), device=rows.device), g):
                nearest[part] = torch.maximum(nearest[part], _nearest(rows[part]))
    return float(nearest.topk(min(4, len(rows))).values[-1])


def _nearest(rows: Tensor) -> Tensor:
    """For each of these rows of norm 1, the |cosine| with the nearest other one."""
    nearest = []
    for first in range(0, len(rows), 1024):  # all pairs at once may not fit into memory
        cosines = rows[first : first + 1024] @ rows.mT
        cosines = cosines.abs() if len(rows) > 2 else cosines.clamp_min(0)
        cosines.diagonal(first).zero_()
        nearest.append(cosines.amax(1))
    return torch.cat(nearest)


def _parts(rows: Tensor, chosen: Tensor, g: torch.Generator) -> Iterator[Tensor]:
    """Halve by the median of a random projection until parts are small; a row and its negative stay together."""
    if len(chosen) <= _ALL_PAIRS:
        yield chosen
        return
    side, along = (rows[chosen] @ torch.randn(rows.shape[1], 2, generator=g, dtype=torch.float32).to(rows)).unbind(1)
    order = chosen[(along * side.sign()).argsort()]
    for half in order.chunk(2):
        yield from _parts(rows, half, g)


def _ordered(vector: Tensor) -> float:
    """|rank correlation| r of entries and index as atanh(r) sqrt(k - 3) (Fisher), which is about normal at random."""
    ranks = torch.unique(vector, return_inverse=True)[1].double()  # equal entries have equal ranks
    ranks -= ranks.mean()
    if not bool(ranks.any()):
        return 0.0
    index = torch.arange(len(vector), dtype=torch.float64, device=vector.device) - (len(vector) - 1) / 2
    r = min(abs(float(ranks @ index / (ranks.norm() * index.norm()))), 1 - 1e-12)
    return math.atanh(r) * math.sqrt(len(vector) - 3)


def _largest_to_median(weight: Tensor) -> float:
    """Largest / median norm of rows, after subtracting the mean of all rows but the farthest from the mean.

    A part that all rows of a classifier share changes no probability and no gradient before the classifier.
    """
    centre = weight.mean(0)
    top = weight[int((weight - centre).norm(dim=1).argmax())]
    sizes = (weight - (centre * len(weight) - top) / (len(weight) - 1)).norm(dim=1)
    largest, middle = float(sizes.max()), float(sizes.median())
    return (largest / middle if middle else math.inf) if largest else 0.0
