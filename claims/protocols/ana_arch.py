"""ANA-GIA by a changed architecture: Robbing the Fed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from claims.protocols.cell import Cell
from claims.protocols.changes import CIFAR
from gia.federated.server import Gaussian, imprint
from gia.harness.controls import beats_blind_guess
from gia.harness.protocol import Protocol


@dataclass(frozen=True)
class Imprinted:
    """The server's edit: an imprint block with its cut-offs at the quantiles of a normal distribution.

    Args:
        image_shape, bins, sparse: of the block.
        mean, std: of the brightness of the data set's images: all that the server knows of the data.
    """

    image_shape: tuple[int, int, int]
    mean: float
    std: float
    bins: int = 1000
    sparse: bool = False

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> nn.Module:
        quantiles = Gaussian(self.mean, self.std)
        settings = {"bins": self.bins, "quantiles": quantiles, "sparse": self.sparse}
        return imprint(model, image_shape=self.image_shape, **settings, generator=generator)


PROTOCOLS = {
    # 64 pictures of faces stand in for 64 of CIFAR-10, of which only twenty are to be had.
    "reduced": Protocol(
        attack="robbing_the_fed",
        victim={"name": "convnet", "width": 16},
        data="faces",
        image_size=32,
        images=64,
        edit=Imprinted(image_shape=(1, 32, 32), mean=0.463, std=0.058),
        reveal=(),
        score=("exact_share", "psnr", "rmse"),
        control=beats_blind_guess,
        control_images=64,
        vary={"victim.width": (16, 20, 24, 28, 32), "victim.activation": ("relu", "leaky_relu", "tanh", "gelu")},
    ),
    "paper": Protocol(
        attack="robbing_the_fed",
        victim={"name": "resnet18", "stem": "3x3", "width": 64, "standardize": CIFAR},
        data="cifar10",
        image_size=32,
        images=64,
        edit=Imprinted(image_shape=(3, 32, 32), mean=0.473, std=0.122),
        reveal=(),
        score=("exact_share", "psnr", "rmse"),
        control=beats_blind_guess,
        control_images=64,
    ),
}

CELLS: dict[str, dict[str, Cell]] = {"reduced": {}, "paper": {}}
