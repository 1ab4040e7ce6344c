"""The decoder of CI-Net, an untrained convolutional network with more weights than its images have pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gia.models.initialization import initialize

__all__ = ["OverParameterized"]

#: Largest height and width of the first feature map in pixels; each stage doubles them.
_FIRST = 4


class OverParameterized(nn.Module):
    """Maps latents (N, 128) to images (N, C, H, W) in [0, 1]; it is sized for a batch of B images (Zhang et al., 2023).

    A linear layer makes the first feature map, of at most 4 x 4 pixels. Each stage normalizes the map by the statistics
    of the batch, doubles it by repeating pixels, and convolves it (3 x 3), until it covers the image. A Sigmoid
    follows, and the map is cut to the image size. All maps have `width` channels: 32, doubled until there are more than
    4 * B * H * W weights (arXiv 2503.11514, released settings). The choice of layers is this project's own.

    Args:
        image_shape: (C, H, W).
        batch_size: B.
        generator: source of the weights, by torch's default rules; the weights are on its device.

    Attributes:
        width: channels of each map.
        latent_shape: shape of one latent, (128,).

    >>> import torch, gia
    >>> g = torch.Generator().manual_seed(0)
    >>> decoder = gia.models.OverParameterized(image_shape=(3, 8, 6), batch_size=2, generator=g)
    >>> decoder(torch.randn(2, *decoder.latent_shape, generator=g)).shape, decoder.width
    (torch.Size([2, 3, 8, 6]), 32)
    """

    def __init__(self, *, image_shape: tuple[int, int, int], batch_size: int, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.latent_shape = (128,)
        self.image_size = (height, width)
        stages = max(1, math.ceil(math.log2(max(height, width) / _FIRST)))
        # At least 2 x 2 pixels: one image with one pixel has no batch statistics.
        first = [max(2, math.ceil(size / 2**stages)) for size in self.image_size]
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
        self.float().to_empty(device=generator.device)  # drawn in float32, whatever the default dtype is
        initialize(self, "torch", generator)

    def forward(self, latents: Tensor) -> Tensor:
        """z (N, 128) -> images (N, C, H, W) in [0, 1]."""
        images: Tensor = self.body(latents)
        return images[..., : self.image_size[0], : self.image_size[1]]


def _weights(width: int, first: Sequence[int], stages: int, channels: int) -> int:
    """Number of weights: linear layer, normalizations, inner convolutions, last convolution."""
    latent, kernel = 128, 3 * 3
    linear = (latent + 1) * width * first[0] * first[1]
    inner = (kernel * width + 1) * width
    return linear + 2 * width * stages + inner * (stages - 1) + (kernel * width + 1) * channels
