"""The dual-tree complex wavelet transform of images (Kingsbury 2001; Selesnick, Baraniuk and Kingsbury 2005).

Only the analysis is here, with the near-symmetric 13,19-tap filters ("near_sym_b") on the first level and the
quarter-shift 14-tap filters ("qshift_b") on the others. The transform is linear and separable: along one axis, each
level is a low-pass and a high-pass matrix, and the three real subbands of a level are products of the image with them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["analyze", "levels_for"]

# Filter coefficients as published with Kingsbury's DTCWT toolbox; symmetric ones from the outer tap to the middle.
_NEAR_SYM_LOW = (-0.0017578125, 0.0, 0.022265625, -0.046875, -0.0482421875, 0.296875, 0.55546875)
_NEAR_SYM_HIGH = (
    -7.062639508928571e-05, 0.0, 0.0013419015066964285, -0.0018833705357142855, -0.007156808035714285,
    0.023856026785714284, 0.05564313616071428, -0.05168805803571428, -0.29975760323660716, 0.5594308035714286,
)  # fmt: skip
_QSHIFT_LOW = (
    0.003253142763653182, -0.00388321199915849, 0.03466034684485349, -0.03887280126882779, -0.11720388769911527,
    0.27529538466888204, 0.7561456438925225, 0.5688104207121227, 0.011866092033797, -0.1067118046866654,
    0.023825384794920298, 0.01702522388155399, -0.005439475937274115, -0.004556895628475491,
)  # fmt: skip


def levels_for(height: int, width: int, *, limit: int = 5) -> int:
    """Number of levels that an image of this size supports: every subband of the last level comes from real pixels.

    Each level halves the image, so the number is floor(log2(min(height, width))), at most `limit`.

    Args:
        height, width: of the image, in pixels, at least 1.
        limit: largest number of levels.

    >>> from gia.metrics.wavelets import levels_for
    >>> [levels_for(size, size) for size in (8, 16, 32, 224)]
    [3, 4, 5, 5]
    """
    return min(limit, min(height, width).bit_length() - 1)


def analyze(images: Tensor, levels: int) -> list[tuple[Tensor, Tensor]]:
    """Complex subbands of images.

    Edges are extended by half-sample reflection. The six orientations come in two triples: 15, 75 and 45 degrees, then
    their mirror images 165, 105 and 135 degrees.

    Args:
        images: (..., H, W), float32 or float64, of any range.
        levels: number of levels, at least 1; see `levels_for`.

    Returns:
        For each level the real and the imaginary part, (..., 6, h, w); h is H / 2^level, rounded up to what the padding
        of odd sizes needs, and w likewise.

    >>> import torch, gia
    >>> from gia.metrics.wavelets import analyze
    >>> images = gia.data.load("digits").images[:2]
    >>> [tuple(real.shape) for real, imaginary in analyze(images, 3)]
    [(2, 1, 6, 4, 4), (2, 1, 6, 2, 2), (2, 1, 6, 1, 1)]
    """
    vertical, horizontal = (_filters(size, levels) for size in images.shape[-2:])
    subbands = []
    for (low_v, high_v), (low_h, high_h) in zip(vertical, horizontal, strict=True):
        low = low_v.to(images) @ images
        high = high_v.to(images) @ images
        low_t, high_t = low_h.to(images).T, high_h.to(images).T
        subbands.append(_complex(torch.stack((high @ low_t, low @ high_t, high @ high_t), dim=-3)))
    return subbands


def _complex(quads: Tensor) -> tuple[Tensor, Tensor]:
    """The two complex subbands in each real one: a 2 x 2 quad a b / c d holds (a - d, b + c) and (a + d, b - c)."""
    quads = quads / 2**0.5
    a, b = quads[..., 0::2, 0::2], quads[..., 0::2, 1::2]
    c, d = quads[..., 1::2, 0::2], quads[..., 1::2, 1::2]
    return torch.cat((a - d, a + d), dim=-3), torch.cat((b + c, b - c), dim=-3)


@lru_cache(maxsize=64)
def _filters(size: int, levels: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each level two matrices (n, size), float64: an axis times them gives its low-pass and high-pass samples."""
    signal = torch.eye(size, dtype=torch.float64)
    if size % 2:
        signal = torch.cat((signal, signal[-1:]))
    low = _first_level(signal, _NEAR_SYM_LOW)
    matrices = [(low, _first_level(signal, _NEAR_SYM_HIGH))]
    tree_a = torch.tensor(_QSHIFT_LOW, dtype=torch.float64)
    tree_b = tree_a.flip(0)
    alternating = torch.tensor((1.0, -1.0), dtype=torch.float64).repeat(len(tree_a) // 2)
    for _ in range(levels - 1):
        if len(low) % 4:
            low = torch.cat((low[:1], low, low[-1:]))
        high = _next_level(low, -tree_a * alternating, tree_b * alternating, odd_first=True)
        low = _next_level(low, tree_b, tree_a, odd_first=False)
        matrices.append((low, high))
    return tuple(matrices)


def _first_level(signal: Tensor, half: tuple[float, ...]) -> Tensor:
    """Filter the rows, without decimation, by the symmetric filter whose taps up to the middle are `half`."""
    taps = torch.tensor((*half, *half[-2::-1]), dtype=torch.float64)
    return _correlate(_extend(signal, len(half) - 1), taps, stride=1)


def _next_level(signal: Tensor, odd: Tensor, even: Tensor, *, odd_first: bool) -> Tensor:
    """Filter the odd and the even rows, which belong to the two trees, each to half as many rows; interleave them."""
    extended = _extend(signal, len(odd))
    trees = _correlate(extended[3::2], odd, stride=2), _correlate(extended[2::2], even, stride=2)
    return torch.stack(trees if odd_first else trees[::-1], dim=1).flatten(0, 1)


def _correlate(signal: Tensor, taps: Tensor, *, stride: int) -> Tensor:
    return torch.einsum("nkt,t->nk", signal.unfold(0, len(taps), stride), taps)


def _extend(signal: Tensor, reach: int) -> Tensor:
    """Add `reach` rows at both ends by reflection about the outer edges (repeatedly, if the axis is short)."""
    size = len(signal)
    position = torch.arange(-reach, size + reach) % (2 * size)
    return signal[torch.where(position < size, position, 2 * size - 1 - position)]
