"""The imprint module of Robbing the Fed (Fowl et al., ICLR 2022), in front of any image model."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gia.federated.layers import set_mode

__all__ = ["Empirical", "Gaussian", "Imprint", "Laplace", "Probe", "Quantiles", "imprint", "probed"]

#: The measurement that all bins share: the mean brightness, or the DCT-II mode (u, v), u along the height; (0, 0) is
#: the mean.
Probe = Literal["mean"] | tuple[int, int]

#: Shares of images that are darker than the brightnesses at which patterns are compared.
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: Patterns whose float32 ratios are within this factor of the largest are compared in float64. Float32 is right to four
#: digits for ratios above `_ROUNDED`.
_CLOSE, _ROUNDED = 0.9, 1e-3

#: Probabilities (m,) in (0, 1), float64 -> the quantiles of the measurement over images.
Quantiles = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gaussian:
    """Quantiles of a normal distribution.

    >>> import torch
    >>> from gia.federated.server import Gaussian
    >>> Gaussian(mean=0.5, std=0.1)(torch.tensor([0.5])).tolist()
    [0.5]
    """

    mean: float
    std: float

    @classmethod
    def of(cls, values: Tensor) -> Gaussian:
        """Fitted to `probed` values (M,), M >= 2, of images outside the private batch."""
        return cls(float(values.mean()), float(values.std()))

    def __call__(self, probabilities: Tensor) -> Tensor:
        quantiles: Tensor = self.mean + self.std * torch.special.ndtri(probabilities)
        return quantiles


@dataclass(frozen=True)
class Laplace:
    """Quantiles of a Laplace distribution; `scale` is the mean distance from the median.

    >>> import torch
    >>> from gia.federated.server import Laplace
    >>> Laplace.of(torch.tensor([0.25, 0.25, 0.75, 0.75]))
    Laplace(mean=0.5, scale=0.25)
    """

    mean: float
    scale: float

    @classmethod
    def of(cls, values: Tensor) -> Laplace:
        """Fitted to `probed` values (M,) of images outside the private batch."""
        centre = values.double().quantile(0.5)
        return cls(float(centre), float((values - centre).abs().mean()))

    def __call__(self, probabilities: Tensor) -> Tensor:
        away = probabilities - 0.5
        return self.mean - self.scale * away.sign() * torch.log1p(-2 * away.abs())


@dataclass(frozen=True, eq=False)
class Empirical:
    """Quantiles of `probed` values (M,) of images outside the private batch, linearly interpolated.

    >>> import torch
    >>> from gia.federated.server import Empirical
    >>> Empirical(torch.tensor([0.2, 0.6]))(torch.tensor([0.5]))
    tensor([0.4000])
    """

    values: Tensor

    def __call__(self, probabilities: Tensor) -> Tensor:
        return self.values.detach().to(probabilities).quantile(probabilities)


#: Mean brightness of natural images, from the forty CIFAR-10 and CIFAR-100 images of `gia.data` (.48 and .12).
NATURAL = Gaussian(0.48, 0.12)


class Imprint(nn.Module):
    """Linear(d, k), ReLU, Linear(k, d), which map images (N, C, H, W) to images: 2kd + k + d parameters.

    Args:
        image_shape: (C, H, W), d entries.
        bins: k.
        sparse: whether a Hardtanh from 0 to 1 takes the place of the ReLU.

    The weights have no values yet (they are on the "meta" device); `imprint` sets them.

    >>> from gia.federated.server import Imprint
    >>> sum(p.numel() for p in Imprint((3, 2, 2), 5, sparse=False).parameters())  # 2 * 5 * 12 + 5 + 12
    137
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
    """An imprint module in front of a copy of `model` (Fowl et al., ICLR 2022; arXiv 2503.11514, Sec. II-C).

    Each of the k rows of the first layer measures h(x) = <probe, x>. The biases are minus the cut-offs c_0 < ... <
    c_{k-1}: c_0 lies below every image in [0, 1], the others lie at the quantiles 1/k, ..., (k-1)/k. Row i is active
    for images above c_i. All columns of the second layer are one pattern, so every active row receives the same dL/dz.
    The gradients of rows i and i+1 then differ only by the images with c_i < h(x) <= c_{i+1}.

    Args:
        model: any model of images; it is not changed. The imprint module sees raw images, even if `model` standardizes.
        image_shape: (C, H, W).
        bins: k, the number of rows, at least 1.
        probe: the measurement, "mean" or a DCT-II mode (u, v). Its weights are the same for every channel, and their
            absolute values add up to 1.
        quantiles: of the measurement over images: `Gaussian`, `Laplace`, `Empirical`, or any function of probabilities.
            The default describes the mean brightness of natural images.
        sparse: whether rows are cut off at both ends: z_i = (h - c_i) / (c_{i+1} - c_i), clamped to [0, 1], where the
            last edge lies above every image. Only the images of a row's bin then move it, also over several local
            steps, as long as these move the row by much less than a bin. The biases, about (mean of h) / (width of a
            bin), are large compared with such an update: float32 rounds it away, float64 leaves about eight digits.
        strength: brightness of the input of `model` for an image in the middle of the highest bin, the largest one.
        draws: number of random patterns, at least 1, of which one is used. `model` sees the pattern, brighter or
            darker, in place of an image, so dL/dz depends on brightness and label only. The pattern with the largest
            min/max ratio of |dL/dz| over labels and brightnesses is used, since rounding loses least with it. This
            choice is a departure; in exact arithmetic any pattern works.
        generator: source of the patterns.

    Returns:
        Sequential(imprint=Imprint, model=copy), in the dtype, device and mode of `model`.

    Raises:
        ValueError: a number out of range, images that `model` does not take, a mode that they do not have, or cut-offs
            that do not rise strictly, which takes fewer bins or other quantiles.

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> model = gia.models.build("mlp", num_classes=3, image_size=4, width=5, generator=g)
    >>> sent = gia.federated.server.imprint(model, image_shape=(3, 4, 4), bins=4, generator=g)
    >>> [round(-bias, 2) for bias in sent.imprint.measure.bias.tolist()]  # the cut-offs
    [-0.01, 0.4, 0.48, 0.56]
    """
    for name, count in (("bins", bins), ("draws", draws)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    if not 0 < strength < math.inf:
        raise ValueError(f"strength: expected a positive finite number, got {strength}")
    like = next(model.parameters())
    row = _row(image_shape, probe)
    edges = _edges(row, bins, quantiles).to(like.dtype)
    if not bool(edges.isfinite().all()) or not bool((edges.diff() > 0).all()):
        cutoffs = [round(edge, 4) for edge in edges[1:-1].tolist()]
        got = f"{cutoffs[:3]} ..." if len(cutoffs) > 3 else cutoffs
        raise ValueError(f"quantiles: expected {bins - 1} that rise strictly in the range of {probe!r}, got {got}")
    widths = edges.diff() if sparse else torch.ones(bins, dtype=like.dtype)
    module = Imprint(image_shape, bins, sparse=sparse).to_empty(device="cpu").to(like.dtype)
    # Measurements at which patterns are compared; the last is the middle of the highest bin.
    values = quantiles(torch.tensor([*_SHARES, 1 - 0.5 / bins], dtype=torch.float64)).to(edges)
    with torch.no_grad():
        module.measure.weight.copy_(row.to(like.dtype) / widths[:, None])
        module.measure.bias.copy_(-edges[:-1] / widths)
        *levels, whole = module.activation((values[:, None] - edges[:-1]) / widths).sum(1)
        patterns = torch.rand(
            draws, *image_shape, generator=generator, device=generator.device, dtype=torch.float32
        ).to(like)
        pattern = _best(patterns, model, strength * torch.stack(levels).to(like) / whole.to(like))
        module.spread.weight.copy_((pattern.flatten() * strength / whole.to(like))[:, None].expand(-1, bins))
        module.spread.bias.zero_()
    module.to(like.device).train(model.training)
    return nn.Sequential(OrderedDict(imprint=module, model=copy.deepcopy(model)))


def probed(images: Tensor, *, probe: Probe = "mean") -> Tensor:
    """The measurement h(x) of images (N, C, H, W), float64 (N,). Quantiles are fitted to such values.

    Raises:
        ValueError: a mode that images of this size do not have.

    >>> import torch
    >>> from gia.federated.server import probed
    >>> probed(torch.full((2, 3, 4, 4), 0.5))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    _, channels, height, width = images.shape
    return images.flatten(1).double() @ _row((channels, height, width), probe).to(images.device)


def _row(image_shape: tuple[int, int, int], probe: Probe) -> Tensor:
    """The probe's weights, float64 (d,)."""
    channels, height, width = image_shape
    u, v = (0, 0) if probe == "mean" else probe
    if not (0 <= u < height and 0 <= v < width):
        raise ValueError(f"probe: expected 'mean' or a mode (u, v) below ({height}, {width}), got {probe!r}")
    along = [
        torch.cos(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) * mode / size)
        for size, mode in ((height, u), (width, v))
    ]
    row = torch.outer(*along).expand(channels, height, width).flatten()
    return row / row.abs().sum()


def _edges(row: Tensor, bins: int, quantiles: Quantiles) -> Tensor:
    """The k + 1 edges of k bins, float64; every image in [0, 1] lies between the outer ones."""
    low, high = float(row.clamp_max(0).sum()), float(row.clamp_min(0).sum())
    inner = quantiles(torch.arange(1, bins, dtype=torch.float64) / bins)
    beyond = 0.01 * (high - low)
    lowest, highest = min([low, *inner.tolist()]) - beyond, max([high, *inner.tolist()]) + beyond
    return torch.cat([inner.new_tensor([lowest]), inner, inner.new_tensor([highest])])


def _best(patterns: Tensor, model: nn.Module, levels: Tensor) -> Tensor:
    """The pattern, of (draws, C, H, W), with the largest min/max ratio of |dL/dz| over labels and brightnesses (L,).

    Float64 decides between the patterns that float32 cannot tell apart; it takes 15 times as long.
    """
    first = _contenders(patterns, model, levels)
    if len(first) == 1:
        return patterns[first[0]]
    victim = set_mode(copy.deepcopy(model), False).double()  # the slopes below are differences of close numbers
    levels, step = levels.double(), 1e-6 * levels.max()
    scales = torch.cat([levels - step, levels, levels + step]).view(-1, 1, 1, 1)
    ratios = []
    for pattern in patterns[first].double():
        try:
            low, here, high = victim(scales * pattern).chunk(3)
        except RuntimeError as error:
            raise ValueError(
                f"image_shape: expected a shape that the model takes, got {tuple(pattern.shape)}: {error}"
            ) from error
        ratios.append(_evenness(here, high - low))
    return patterns[first[int(torch.stack(ratios).nan_to_num(0).argmax())]]


def _contenders(patterns: Tensor, model: nn.Module, levels: Tensor) -> list[int]:
    """The patterns whose ratio is close to the largest one, by float32 and derivatives in place of differences.

    All of them where the model is not differentiable twice, or where all ratios are so small that rounding decides.
    """
    victim, scales = set_mode(copy.deepcopy(model), False).float(), levels.float().view(-1, 1, 1, 1)
    ratios = []
    for pattern in patterns.float():
        try:
            ratios.append(_evenness(*_along(victim, scales, pattern)))
        except RuntimeError:  # no second derivative, or images that the model does not take, which float64 says
            return list(range(len(patterns)))
    found = torch.stack(ratios).nan_to_num(0)
    if not bool(found.max() > _ROUNDED):
        return list(range(len(patterns)))
    return (found >= _CLOSE * found.max()).nonzero().flatten().tolist()


@torch.enable_grad()
def _along(model: nn.Module, scales: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (L, K) of a pattern times each scale (L, 1, 1, 1), and their derivatives by the scale.

    The map u -> u dlogits/dscale is linear, and is differentiated by u.
    """
    scales = scales.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        logits: Tensor = model(scales * pattern)
        weights = torch.zeros_like(logits, requires_grad=True)
        (to_scales,) = torch.autograd.grad(logits, scales, weights, create_graph=True)
        (slopes,) = torch.autograd.grad(to_scales.sum(), weights, allow_unused=True, materialize_grads=True)
    return logits.detach(), slopes


def _evenness(logits: Tensor, slopes: Tensor) -> Tensor:
    """The min/max ratio of |dL/dz| over labels and rows, for logits (L, K) and their derivatives along z."""
    signals = ((logits.softmax(1) * slopes).sum(1, keepdim=True) - slopes).abs()
    return signals.amin() / signals.amax()
