"""Manipulations that try to leak images past a client's checks, and what leaks."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from gia.data import load
from gia.federated import share_gradient, validate_model
from gia.federated.server import fish_class, trap_weights
from gia.models import build

SIZE, WIDTH, BATCH = 16, 256, 16
images_of = lru_cache(load)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One manipulation: how many images it leaks exactly, of them those the honest model leaks, and what is found.

    `recovered` (N, C, H, W) are the leaked images as recovered, `private` the same ones.
    """

    leaked: int
    honest: int
    findings: tuple[str, ...]
    private: Tensor
    recovered: Tensor

    @property
    def gained(self) -> int:
        """Images that leak because of the manipulation."""
        return self.leaked - self.honest


def attempt(
    kind, seed, bins, noise, shuffled, scaling, probe, centred, spared, shared, rate, strength, given
) -> Attempt:
    """Manipulate an honest perceptron for 16 faces, let a client check it, and invert what it would share.

    Args:
        kind: "block" puts a hidden layer of bins in front; "rows" makes bins of rows of the existing first layer;
            "thresholds" moves the biases of existing rows until each fires for a share `rate` of images;
            "traps" puts trap weights in their place; "fishing" is class fishing.
        bins: how many rows are manipulated.
        noise: of each bin's row, in sizes of the probe.
        shuffled: the order of the bins.
        scaling: deviation of the log of factors on rows, taken back in the next layer.
        probe: (u, v) of the cosine that bins measure; (0, 0) is the brightness.
        centred: rows are made orthogonal to the mean face, so that cut-offs are as small as honest biases.
        spared: share of a block's rows that are honest ones.
        shared: how much of the next layer's columns is one pattern; 1 is all.
        rate: see kind; also the scale of trap weights is 1 - rate / 4.
        strength: log10 of fishing's bias; its other rows keep 10^-strength of their size.
        given: "first round", no model was agreed upon; "next round", the honest model was the last.
    """
    g = torch.Generator().manual_seed(seed)
    data = images_of("faces", image_size=SIZE)
    order = torch.randperm(len(data.labels), generator=g)
    images, labels = data.images[order[:BATCH]], data.labels[order[:BATCH]]
    others = data.images[order[BATCH:]].flatten(1)  # what the server knows of faces
    model = build("mlp", num_classes=40, image_size=SIZE, channels=1, width=WIDTH, generator=g).eval()
    sent = copy.deepcopy(model)
    first, second = (layer for layer in sent.layers if isinstance(layer, nn.Linear))
    chosen = torch.randperm(WIDTH, generator=g)[:bins]
    mean = torch.nn.functional.normalize(others.mean(0), dim=0)
    scales = torch.ones(WIDTH)
    with torch.no_grad():
        if kind == "block":
            count = round(bins / (1 - spared))
            block = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, count), nn.ReLU(), nn.Linear(count, SIZE**2))
            for parameter in block.parameters():
                parameter.copy_((torch.rand(parameter.shape, generator=g) * 2 - 1) / math.sqrt(parameter.shape[-1]))
            chosen, scales = torch.randperm(count, generator=g)[:bins], torch.ones(count)
            sent = nn.Sequential(*block, *sent.layers)
            first, second = block[1], block[3]
        if kind in ("block", "rows"):
            along = [torch.cos(math.pi * (torch.arange(SIZE) + 0.5) * mode / SIZE) for mode in probe]
            row = torch.outer(*along).flatten()
            row *= math.sqrt(1 / 3) / row.norm()  # the size of an honest row
            rows = row + noise * row.norm() * torch.randn(bins, len(row), generator=g) / math.sqrt(len(row))
            if centred:
                rows -= rows @ mean[:, None] * mean
            rows *= row.norm() / rows.norm(dim=1, keepdim=True)
            levels = (torch.arange(bins) + 0.5) / bins
            cuts = torch.stack([(others @ r).quantile(q) for r, q in zip(rows, levels, strict=True)])
            if shuffled:
                mixed = torch.randperm(bins, generator=g)
                rows, cuts = rows[mixed], cuts[mixed]
            factors = torch.exp(scaling * torch.randn(bins, generator=g))
            scales[chosen] = factors
            first.weight[chosen], first.bias[chosen] = rows * factors[:, None], -cuts * factors
            columns = second.weight[:, chosen]
            pattern = columns[:, :1]
            second.weight[:, chosen] = (shared * pattern + (1 - shared) * columns) / factors
        elif kind == "thresholds":
            if centred:
                first.weight[chosen] -= first.weight[chosen] @ mean[:, None] * mean
            outputs = others @ first.weight[chosen].T
            first.bias[chosen] = -outputs.quantile(1 - rate, dim=0)
        elif kind == "traps":
            trapped = trap_weights(model, scale=1 - rate / 4, generator=g).layers[0]
            first.weight[chosen], first.bias[chosen] = trapped.weight[chosen], trapped.bias[chosen]
        else:
            sent = fish_class(model, target=int(labels[0]), bias=10**strength)
            rest = torch.arange(40) != labels[0]
            sent.layers[-1].weight[rest] = 10**-strength * second.weight[rest]
    report = validate_model(sent, model if given == "next round" else None, batch=(images, labels))
    known = _exact(sent, images, labels, scales)
    before = _exact(model, images, labels, torch.ones(WIDTH))
    return Attempt(
        leaked=len(known),
        honest=len(before),
        findings=tuple(finding.check for finding in report.findings),
        private=images[sorted(known)],
        recovered=torch.stack([known[i] for i in sorted(known)]) if known else images[:0],
    )


def _exact(model: nn.Module, images: Tensor, labels: Tensor, scales: Tensor) -> dict[int, Tensor]:
    """Index -> image, of those that a quotient of the first layer's rows, or of differences of two, hits to 1e-3.

    The attacker knows how the rows were scaled, and tries every two rows; which quotient is an image, images show.
    """
    gradients = list(share_gradient(model, images, labels).gradients.values())
    to_weight, to_bias = gradients[0] * scales[:, None], gradients[1] * scales
    active = (to_bias != 0).nonzero().flatten()
    to_weight, to_bias = to_weight[active], to_bias[active]
    pairs = torch.combinations(torch.arange(len(active)), 2)
    # Two rows differ by one image if what differs has the direction of an image; compare in one go by least squares.
    found: dict[int, Tensor] = {}
    flat = images.flatten(1)
    for rows, signal in ((to_weight, to_bias), (None, to_bias[pairs[:, 0]] - to_bias[pairs[:, 1]])):
        usable = (signal.abs() > 1e-6 * to_bias.abs().max()).nonzero().flatten() if len(signal) else signal.long()
        for part in usable.split(4096):
            some = rows[part] if rows is not None else to_weight[pairs[part, 0]] - to_weight[pairs[part, 1]]
            quotients = some / signal[part, None]
            # A few pixels tell most candidates from every image.
            near = (quotients[:, None, ::37] - flat[None, :, ::37]).abs().amax(2) <= 1e-3
            for candidate, image in near.nonzero().tolist():
                if image not in found and bool((quotients[candidate] - flat[image]).abs().max() <= 1e-3):
                    found[image] = quotients[candidate].view(images.shape[1:])
    return found
