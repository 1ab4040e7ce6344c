"""Manipulations that try to leak images past a client's checks, and what leaks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gia.data import load_cached
from gia.federated import Observation, share_gradient, validate_model
from gia.federated.server import fish_class, trap_weights
from gia.models import build

SIZE, WIDTH, BATCH = 16, 256, 16

#: Setting of a manipulation -> the values that are tried, in the order in which they are drawn. Beside them a seed and
#: fishing's strength, from .5 to 3, are drawn.
SPACE: Mapping[str, Sequence[Any]] = {
    "kind": ["block", "rows", "thresholds", "traps", "fishing"],
    "bins": [4, 8, 16, 32, 63, 100, 150, 200, 256],
    "noise": [0.0, 0.1, 0.3, 1.0, 3.0],
    "shuffled": [False, True],
    "scaling": [0.0, 0.3, 1.0],
    "probe": [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)],
    "centred": [False, True],
    "spared": [0.0, 0.3, 0.6],
    "shared": [0.0, 0.5, 0.9, 1.0],
    "rate": [0.02, 0.05, 0.1, 0.2],
    "given": ["first round", "next round"],
}


@dataclass(frozen=True, kw_only=True)
class Manipulation:
    """How the server changes an honest perceptron.

    Args:
        kind: "block" puts a hidden layer of bins in front; "rows" makes bins of rows of the existing first layer;
            "thresholds" moves the biases of existing rows until each fires for a share `rate` of images;
            "traps" puts trap weights in their place; "fishing" is class fishing.
        seed: of the model, the images and what the server draws.
        bins: how many rows are manipulated.
        noise: on each bin's row, in sizes of the row.
        shuffled: whether the bins are in a random order.
        scaling: deviation of the log of factors on rows, taken back in the next layer.
        probe: (u, v) of the cosine that bins measure; (0, 0) is the brightness.
        centred: rows are made orthogonal to the mean face, so that cut-offs are as small as honest biases.
        spared: share of a block's rows that are honest ones.
        shared: how much of the next layer's columns is one pattern; 1 is all.
        rate: see kind; also the scale of trap weights is 1 - rate / 4.
        strength: log10 of fishing's bias; its other rows keep 10^-strength of their size.
        given: "first round", no model was agreed upon; "next round", the honest model was the last.
    """

    kind: str
    seed: int
    bins: int
    noise: float
    shuffled: bool
    scaling: float
    probe: tuple[int, int]
    centred: bool
    spared: float
    shared: float
    rate: float
    strength: float
    given: str


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one manipulation leaks, and what a client finds.

    Attributes:
        leaked: number of images that leak exactly.
        honest: number of those that the honest model leaks to the same inversion.
        findings: names of the checks that the model fails.
        private: the leaked images (N, C, H, W), `recovered` the same ones as recovered.
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


def attempt(how: Manipulation) -> Attempt:
    """Manipulate an honest perceptron for 16 faces, let a client check it, and invert what it would share."""
    g = torch.Generator().manual_seed(how.seed)
    data = load_cached("faces", image_size=SIZE)
    order = torch.randperm(len(data.labels), generator=g)
    images, labels = data.images[order[:BATCH]], data.labels[order[:BATCH]]
    others = data.images[order[BATCH:]].flatten(1)  # what the server knows of faces
    model = build("mlp", num_classes=40, image_size=SIZE, channels=1, width=WIDTH, generator=g).eval()
    with torch.no_grad():
        sent, scales = manipulated(how, model, others, int(labels[0]), g)
    report = validate_model(sent, model if how.given == "next round" else None, batch=(images, labels))
    exact = recovered(share_gradient(sent, images, labels), images, scales)
    before = recovered(share_gradient(model, images, labels), images, torch.ones(WIDTH))
    return Attempt(
        leaked=len(exact),
        honest=len(before),
        findings=tuple(finding.check for finding in report.findings),
        private=images[sorted(exact)],
        recovered=torch.stack([exact[i] for i in sorted(exact)]) if exact else images[:0],
    )


def manipulated(
    how: Manipulation, model: nn.Module, others: Tensor, target: int, g: torch.Generator
) -> tuple[nn.Module, Tensor]:
    """The model as sent, and the factors by which the rows of its first layer were scaled; gradients must be off.

    Args:
        how: its seed and `given` play no part.
        model: an honest perceptron with one hidden layer of `WIDTH`, for images of `SIZE`.
        others: (N, pixels), what the server knows of the data.
        target: the class that is fished for.
        g: what the server draws.
    """
    sent: nn.Module = copy.deepcopy(model)
    first, second = _linear(sent)
    chosen = torch.randperm(WIDTH, generator=g)[: how.bins]
    mean = torch.nn.functional.normalize(others.mean(0), dim=0)
    scales = torch.ones(WIDTH)
    if how.kind == "block":
        count = round(how.bins / (1 - how.spared))
        block = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, count), nn.ReLU(), nn.Linear(count, SIZE**2))
        for parameter in block.parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=g) * 2 - 1) / math.sqrt(parameter.shape[-1]))
        chosen, scales = torch.randperm(count, generator=g)[: how.bins], torch.ones(count)
        layers = sent.get_submodule("layers")
        assert isinstance(layers, nn.Sequential)
        sent = nn.Sequential(*block, *layers)
        first, second = _linear(block)
    if how.kind in ("block", "rows"):
        scales[chosen] = _put_bins(how, first, second, chosen, others, mean, g)
    elif how.kind == "thresholds":
        if how.centred:
            first.weight[chosen] -= first.weight[chosen] @ mean[:, None] * mean
        outputs = others @ first.weight[chosen].T
        first.bias[chosen] = -outputs.quantile(1 - how.rate, dim=0)
    elif how.kind == "traps":
        trapped, _ = _linear(trap_weights(model, scale=1 - how.rate / 4, generator=g))
        first.weight[chosen], first.bias[chosen] = trapped.weight[chosen], trapped.bias[chosen]
    else:
        sent = fish_class(model, target=target, bias=10**how.strength)
        rest = torch.arange(40) != target
        _linear(sent)[1].weight[rest] = 10**-how.strength * second.weight[rest]
    return sent, scales


def _put_bins(
    how: Manipulation,
    first: nn.Linear,
    second: nn.Linear,
    chosen: Tensor,
    others: Tensor,
    mean: Tensor,
    g: torch.Generator,
) -> Tensor:
    """Make bins of the chosen rows of the first layer, in place; returns the factors by which they are scaled."""
    along = [torch.cos(math.pi * (torch.arange(SIZE) + 0.5) * mode / SIZE) for mode in how.probe]
    row = torch.outer(*along).flatten()
    row *= math.sqrt(1 / 3) / row.norm()  # the size of an honest row
    rows = row + how.noise * row.norm() * torch.randn(how.bins, len(row), generator=g) / math.sqrt(len(row))
    if how.centred:
        rows -= rows @ mean[:, None] * mean
    rows *= row.norm() / rows.norm(dim=1, keepdim=True)
    levels = (torch.arange(how.bins) + 0.5) / how.bins
    cuts = torch.stack([(others @ r).quantile(q) for r, q in zip(rows, levels, strict=True)])
    if how.shuffled:
        mixed = torch.randperm(how.bins, generator=g)
        rows, cuts = rows[mixed], cuts[mixed]
    factors = torch.exp(how.scaling * torch.randn(how.bins, generator=g))
    first.weight[chosen], first.bias[chosen] = rows * factors[:, None], -cuts * factors
    columns = second.weight[:, chosen]
    pattern = columns[:, :1]
    second.weight[:, chosen] = (how.shared * pattern + (1 - how.shared) * columns) / factors
    return factors


def _linear(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear layers of a perceptron with one hidden layer, or of a block."""
    first, second = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    return first, second


def recovered(shared: Observation, images: Tensor, scales: Tensor) -> dict[int, Tensor]:
    """Index -> image, of those that a quotient of the first layer's rows, or of differences of two, hits to 1e-3.

    The attacker knows how the rows were scaled, and tries every two rows; which quotient is an image, images show.
    """
    gradients = list(shared.gradients.values())
    to_weight, to_bias = gradients[0] * scales[:, None], gradients[1] * scales
    active = (to_bias != 0).nonzero().flatten()
    to_weight, to_bias = to_weight[active], to_bias[active]
    pairs = torch.combinations(torch.arange(len(active)), 2)
    # If one image separates two rows, their difference has the direction of that image: compare quotients in one go.
    found: dict[int, Tensor] = {}
    flat = images.flatten(1)
    for rows, signal in ((to_weight, to_bias), (None, to_bias[pairs[:, 0]] - to_bias[pairs[:, 1]])):
        usable = (signal.abs() > 1e-6 * to_bias.abs().max()).nonzero().flatten() if len(signal) else signal.long()
        for part in torch.split(usable, 4096):
            some = rows[part] if rows is not None else to_weight[pairs[part, 0]] - to_weight[pairs[part, 1]]
            quotients = some / signal[part, None]
            # A few pixels distinguish most candidates from every image.
            near = (quotients[:, None, ::37] - flat[None, :, ::37]).abs().amax(2) <= 1e-3
            for candidate, image in near.nonzero().tolist():
                if image not in found and bool((quotients[candidate] - flat[image]).abs().max() <= 1e-3):
                    found[image] = quotients[candidate].view(images.shape[1:])
    return found
