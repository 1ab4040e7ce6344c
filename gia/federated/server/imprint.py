"""The imprint block of Robbing the Fed (Fowl et al., ICLR 2022), in front of any image model."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gia.federated.client import set_mode

#: What all bins measure: the mean brightness, or the DCT-II mode (u, v), u along the height; (0, 0) is the mean.
Probe = Literal["mean"] | tuple[int, int]

#: Shares of images that are darker, at which a pattern is judged.
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: Probabilities (m,) in (0, 1), float64 -> values of the probe that so large a share of images lies below.
Quantiles = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gaussian:
    """Quantiles of a normal distribution."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Tensor) -> Gaussian:
        """Fitted to probed values of images outside the private batch, (M,) with M >= 2."""
        return cls(float(values.mean()), float(values.std()))

    def __call__(self, probabilities: Tensor) -> Tensor:
        quantiles: Tensor = self.mean + self.std * torch.special.ndtri(probabilities)
        return quantiles


@dataclass(frozen=True)
class Laplace:
    """Quantiles of a Laplace distribution; `scale` is the mean distance from the median."""

    mean: float
    scale: float

    @classmethod
    def of(cls, values: Tensor) -> Laplace:
        """Fitted to probed values of images outside the private batch, (M,)."""
        centre = values.double().quantile(0.5)
        return cls(float(centre), float((values - centre).abs().mean()))

    def __call__(self, probabilities: Tensor) -> Tensor:
        away = probabilities - 0.5
        return self.mean - self.scale * away.sign() * torch.log1p(-2 * away.abs())


@dataclass(frozen=True, eq=False)
class Empirical:
    """Quantiles of probed values of images outside the private batch, (M,), linear between them."""

    values: Tensor

    def __call__(self, probabilities: Tensor) -> Tensor:
        return self.values.detach().to(probabilities).quantile(probabilities)


#: Brightness of natural images: the forty images of CIFAR-10 and CIFAR-100 that `gia.data` has (.48 and .12).
NATURAL = Gaussian(0.48, 0.12)


class Imprint(nn.Module):
    """Linear(d, k), ReLU (sparse: a Hardtanh from 0 to 1), Linear(k, d): 2kd + k + d parameters.

    Maps images (N, C, H, W) to images of the same shape.
    """

    def __init__(self, image_shape: tuple[int, int, int], bins: int, *, sparse: bool) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        inputs = math.prod(image_shape)
        with torch.device("meta"):  # no random numbers
            self.measure, self.spread = nn.Linear(inputs, bins), nn.Linear(bins, inputs)
        self.activation = nn.Hardtanh(0.0, 1.0) if sparse else nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        spread: Tensor = self.spread(self.activation(self.measure(images.flatten(1))))
        return spread.view(-1, *self.image_shape)


def imprint(
    model: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    bins: int,
    probe: Probe = "mean",
    quantiles: Quantiles = NATURAL,
    sparse: bool = False,
    strength: float = 1.0,
    draws: int = 8,
    generator: torch.Generator,
) -> nn.Sequential:
    """An imprint block in front of a copy of `model` (Fowl et al., ICLR 2022; arXiv 2503.11514, Sec. II-C).

    Each of the k rows measures h(x) = <probe, x>; their biases are minus the cut-offs c_0 < ... < c_{k-1}, of which c_0
    lies below every image in [0, 1] and the others at the quantiles 1/k, ..., (k-1)/k. Row i is active for images above
    c_i. All columns of the second layer are one pattern, so each active row receives the same dL/dz. The rows i and
    i+1 then differ by the images with c_i < h(x) <= c_{i+1} alone.

    Args:
        model: any model of images; it is not changed. The block sees raw images, also where `model` standardizes.
        image_shape: (C, H, W).
        bins: k, the rows.
        probe: what is measured; its weights are the same for each channel and their sizes add up to 1.
        quantiles: of the probe over images: `Gaussian`, `Laplace`, `Empirical`, or any function of probabilities. The
            default is that of the mean brightness of natural images.
        sparse: cut off on both sides, z_i = (h - c_i) / (c_{i+1} - c_i) between 0 and 1, the last edge above every
            image. A row then sees its own bin alone, and several local steps move it by these images alone, as long as
            they move it little beside a bin. Such an update is small beside the biases, about (mean of h) / (width of
            a bin): in float32 it drowns in their rounding, in float64 about eight digits are left.
        strength: largest brightness of what `model` sees, for an image in the middle of the highest bin.
        draws: how many patterns are drawn. `model` sees the pattern, brighter or darker, in place of an image, so dL/dz
            depends on brightness and label only. Kept is the pattern whose smallest |dL/dz| over labels is the largest
            part of the largest, from dark images to bright ones: rounding loses least there. The choice is a
            departure; any pattern does in exact arithmetic.
        generator: for the patterns.

    Returns Sequential(imprint=Imprint, model=copy), in the dtype, device and mode of `model`.
    Raises ValueError for a number out of range, images that `model` does not take, a mode that they do not have, or
    cut-offs that do not rise strictly: fewer bins or other quantiles are needed.
    """
    if bins < 1 or draws < 1:
        raise ValueError(f"bins and draws: expected at least 1, got {bins} and {draws}")
    if not 0 < strength < math.inf:
        raise ValueError(f"strength: expected a positive number, got {strength}")
    like = next(model.parameters())
    row = _row(image_shape, probe)
    edges = _edges(row, bins, quantiles).to(like.dtype)
    if not bool(edges.isfinite().all()) or not bool((edges.diff() > 0).all()):
        raise ValueError(f"quantiles: expected {bins - 1} that rise strictly inside the range of {probe!r} of images")
    widths = edges.diff() if sparse else torch.ones(bins, dtype=like.dtype)
    block = Imprint(image_shape, bins, sparse=sparse).to_empty(device="cpu").to(like.dtype)
    # Where images fall, as brightnesses of what `model` sees; the last is the middle of the highest bin.
    places = quantiles(torch.tensor([*_SHARES, 1 - 0.5 / bins], dtype=torch.float64)).to(edges)
    with torch.no_grad():
        block.measure.weight.copy_(row.to(like.dtype) / widths[:, None])
        block.measure.bias.copy_(-edges[:-1] / widths)
        *levels, whole = block.activation((places[:, None] - edges[:-1]) / widths).sum(1)
        patterns = torch.rand(draws, *image_shape, generator=generator, device=generator.device).to(like)
        pattern = _best(patterns, model, strength * torch.stack(levels).to(like) / whole.to(like))
        block.spread.weight.copy_((pattern.flatten() * strength / whole.to(like))[:, None].expand(-1, bins))
        block.spread.bias.zero_()
    block.to(like.device).train(model.training)
    return nn.Sequential(OrderedDict(imprint=block, model=copy.deepcopy(model)))


def probed(images: Tensor, *, probe: Probe = "mean") -> Tensor:
    """h(x) of images (N, C, H, W), float64 (N,): what quantiles are fitted to."""
    _, channels, height, width = images.shape
    return images.flatten(1).double() @ _row((channels, height, width), probe).to(images.device)


def _row(image_shape: tuple[int, int, int], probe: Probe) -> Tensor:
    """The probe's weights, float64 (d,)."""
    channels, height, width = image_shape
    u, v = (0, 0) if probe == "mean" else probe
    if not (0 <= u < height and 0 <= v < width):
        raise ValueError(f"probe: expected 'mean' or a mode (u, v) below ({height}, {width}), got {probe!r}")
    along = [
        torch.cos(math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) * mode / side)
        for side, mode in ((height, u), (width, v))
    ]
    row = torch.outer(*along).expand(channels, height, width).flatten()
    return row / row.abs().sum()


def _edges(row: Tensor, bins: int, quantiles: Quantiles) -> Tensor:
    """k + 1 edges of k bins, float64: the outer ones beyond every image in [0, 1]."""
    low, high = float(row.clamp_max(0).sum()), float(row.clamp_min(0).sum())
    inner = quantiles(torch.arange(1, bins, dtype=torch.float64) / bins)
    beyond = 0.01 * (high - low)
    lowest, highest = min([low, *inner.tolist()]) - beyond, max([high, *inner.tolist()]) + beyond
    return torch.cat([inner.new_tensor([lowest]), inner, inner.new_tensor([highest])])


def _best(patterns: Tensor, model: nn.Module, levels: Tensor) -> Tensor:
    """Of patterns (draws, C, H, W), the one on which the labels' signals differ least in size, at brightnesses (L,)."""
    victim = set_mode(copy.deepcopy(model), False).double()  # slopes are differences
    levels, step = levels.double(), 1e-6 * levels.max()
    places = torch.cat([levels - step, levels, levels + step]).view(-1, 1, 1, 1)
    evenness = []
    for pattern in patterns.double():
        try:
            low, here, high = victim(places * pattern).chunk(3)
        except RuntimeError as error:
            raise ValueError(f"image_shape: the model does not take {tuple(pattern.shape)}: {error}") from error
        slope = high - low
        signals = ((here.softmax(1) * slope).sum(1, keepdim=True) - slope).abs()
        evenness.append(signals.amin() / signals.amax())
    return patterns[int(torch.stack(evenness).nan_to_num(0).argmax())]
