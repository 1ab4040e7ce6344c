"""CI-Net's decoder: an untrained convolutional network with more weights than the images that it is fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gia.models.initialization import initialize

__all__ = ["OverParameterized"]

#: Side of the first feature map is at most this many pixels; each stage doubles it.
_SEED = 4


class OverParameterized(nn.Module):
    """Images (N, C, H, W) in [0, 1] from latents (N, 128), sized for a batch of B of them (Zhang et al., 2023, CI-Net).

    A linear layer makes the first map, of at most 4 x 4 pixels; each stage normalizes it over the batch itself, doubles
    it by repeating pixels and convolves it (3 x 3), until it covers the image; a Sigmoid ends it. Sides that are no
    power of two are cut. All maps have `width` channels: 32, doubled until the weights are more than 4 * B * H * W
    (arXiv 2503.11514, released settings). The layers are a choice made here: on a Sigmoid ResNet-10 in train mode they
    gave 19 dB after 200 steps where transposed convolutions gave 17 and bilinear doubling 15 (B=1, 4 CIFAR images).

    Args:
        image_shape: (C, H, W).
        batch_size: B.
        generator: source of the weights, by torch's default rules, on its device; the global random state is not
            touched.

    Attributes:
        width: of the maps.
        latent_shape: of one latent, (128,).
    """

    def __init__(self, *, image_shape: tuple[int, int, int], batch_size: int, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.latent_shape = (128,)
        self.sides = (height, width)
        stages = max(1, math.ceil(math.log2(max(height, width) / _SEED)))
        first = [max(2, math.ceil(side / 2**stages)) for side in self.sides]  # one place has no batch statistics
        self.width = 32
        while _weights(self.width, first, stages, channels) <= 4 * batch_size * height * width:
            self.width *= 2
        with torch.device("meta"):  # no random numbers
            layers: list[nn.Module] = [
                nn.Linear(self.latent_shape[0], self.width * first[0] * first[1]),
                nn.Unflatten(1, (self.width, *first)),
            ]
            for stage in range(stages):
                after = self.width if stage < stages - 1 else channels
                layers += [
                    nn.BatchNorm2d(self.width, track_running_stats=False),
                    nn.LeakyReLU(0.2),
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(self.width, after, 3, padding=1),
                ]
            self.body = nn.Sequential(*layers, nn.Sigmoid())
        self.float().to_empty(device=generator.device)  # drawn in float32, whatever the default is
        initialize(self, "torch", generator)

    def forward(self, latents: Tensor) -> Tensor:
        """z (N, 128) -> images (N, C, H, W) in [0, 1]."""
        images: Tensor = self.body(latents)
        return images[..., : self.sides[0], : self.sides[1]]


def _weights(width: int, first: Sequence[int], stages: int, channels: int) -> int:
    """Entries of all parameters: linear layer, normalizations, inner convolutions, last convolution."""
    latent, kernel = 128, 3 * 3
    linear = (latent + 1) * width * first[0] * first[1]
    inner = (kernel * width + 1) * width
    return linear + 2 * width * stages + inner * (stages - 1) + (kernel * width + 1) * channels
