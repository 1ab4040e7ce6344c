"""A class-conditional decoder for attacks that search its latents; it is trained on digits in a second."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.data.images import Images
from gia.models import cached_net
from gia.models.initialization import initialize

__all__ = ["ClassDecoder", "train_decoder"]


class ClassDecoder(nn.Module):
    """A perceptron with two hidden layers that maps a latent z and a label to an image.

    Args:
        image_shape: (C, H, W).
        num_classes: number of labels.
        latent: entries of z.
        width: units of each hidden layer.

    Attributes:
        latent_shape: shape of one z, (latent,).

    >>> import torch
    >>> from gia.models.decoders import ClassDecoder
    >>> decoder = ClassDecoder(image_shape=(1, 8, 8), num_classes=10, latent=4, width=16)
    >>> decoder(torch.zeros(2, 4), torch.tensor([3, 9])).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, *, image_shape: tuple[int, int, int], num_classes: int, latent: int, width: int) -> None:
        super().__init__()
        self.latent_shape = (latent,)
        self.image_shape, self.num_classes = image_shape, num_classes
        self.layers = nn.Sequential(
            *(nn.Linear(latent + num_classes, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, math.prod(image_shape)),
        )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """z (N, latent) and labels (N,) int64 -> images (N, C, H, W) in [0, 1]."""
        return self.logits(latents, labels).sigmoid().view(-1, *self.image_shape)

    def logits(self, latents: Tensor, labels: Tensor) -> Tensor:
        """The images before the sigmoid, flat, (N, C * H * W)."""
        classes = F.one_hot(labels, self.num_classes).to(latents)
        logits: Tensor = self.layers(torch.cat([latents, classes], 1))
        return logits


def train_decoder(
    images: Images,
    *,
    latent: int = 16,
    width: int = 128,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 3e-3,
    divergence: float = 4e-3,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> ClassDecoder:
    """Train the decoder of a conditional variational autoencoder (Sohn et al., 2015, Eq. 4) on labelled images.

    The encoder, a perceptron with one hidden layer, is discarded. The loss of an image is its binary cross-entropy per
    pixel plus `divergence` times KL(q(z | x, y), N(0, 1)). Adam's step size falls linearly to zero.

    Args:
        images: labelled images in [0, 1].
        latent: entries of z, at least 1.
        width: units of each hidden layer, at least 1.
        epochs: passes over the images, at least 1.
        batch_size: images per step at most, at least 1.
        lr: Adam's first step size, positive.
        divergence: at least 0. Small values reproduce single images more closely, large ones make more samples from
            N(0, 1) look like an image.
        dtype: of the training and of the decoder. In float32 two processors round differently, and training magnifies
            that until their decoders differ visibly; in float64 they agree.
        generator: decides initial weights, order and noise. One number is drawn from it, also when the cache answers.
        cache: folder of finished decoders, none by default, with keys as in `gia.federated.fit`.
        progress: called after each epoch with (epochs done, epochs, mean loss).

    Returns:
        The decoder, on the CPU, in evaluation mode. Draw every entry of z from N(0, 1).

    Raises:
        ValueError: a setting out of range.

    >>> import torch, gia
    >>> digits = gia.data.load("digits").take(torch.arange(200))
    >>> decoder = gia.models.train_decoder(digits, width=16, epochs=1, generator=torch.Generator().manual_seed(0))
    >>> decoder(torch.zeros(1, *decoder.latent_shape), torch.tensor([7])).shape
    torch.Size([1, 1, 8, 8])
    """
    sizes = {"latent": latent, "width": width, "epochs": epochs, "batch_size": batch_size}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive step size, got {lr}")
    if not divergence >= 0:
        raise ValueError(f"divergence: expected a weight of at least 0, got {divergence}")
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    source = torch.Generator().manual_seed(seed)
    _, channels, height, columns = images.images.shape
    with torch.device("meta"):  # on another device torch would draw initial weights from the global random state
        decoder = ClassDecoder(
            image_shape=(channels, height, columns), num_classes=images.num_classes, latent=latent, width=width
        )
        encoder = nn.Sequential(
            nn.Linear(channels * height * columns + images.num_classes, width), nn.ReLU(), nn.Linear(width, 2 * latent)
        )
    for net in (decoder, encoder):
        net.float().to_empty(device="cpu")  # drawn in float32, whatever the default dtype is
        initialize(net, "torch", source)
        net.to(dtype)
    if cache is None:
        return _trained(decoder, encoder, images, epochs, batch_size, lr, divergence, source, progress)
    settings: Mapping[str, float] = {**sizes, "lr": lr, "divergence": divergence, "seed": seed}
    data = {"images": images.images, "labels": images.labels}
    path = Path(cache) / f"decoder-{cached_net.key(decoder, data, settings)}.safetensors"
    if (found := cached_net.find(path)) is not None:
        decoder.load_state_dict(found[0])
        return decoder.eval()
    decoder = _trained(decoder, encoder, images, epochs, batch_size, lr, divergence, source, progress)
    cached_net.keep(path, decoder.state_dict(), {})
    return decoder


@torch.enable_grad()
def _trained(
    decoder: ClassDecoder,
    encoder: nn.Module,
    images: Images,
    epochs: int,
    batch_size: int,
    lr: float,
    divergence: float,
    source: torch.Generator,
    progress: Callable[[int, int, float], None] | None,
) -> ClassDecoder:
    pixels = images.images.flatten(1).to(next(decoder.parameters()))
    known = torch.cat([pixels, F.one_hot(images.labels, images.num_classes).to(pixels)], 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr)
    batches = -(-len(pixels) // batch_size)
    for epoch in range(epochs):
        total = 0.0
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - epoch / epochs)
        for batch in torch.tensor_split(torch.randperm(len(pixels), generator=source), batches):
            mean, log_variance = encoder(known[batch]).chunk(2, 1)
            noise = torch.randn(mean.shape, generator=source, dtype=torch.float32).to(mean)
            logits = decoder.logits(mean + noise * (log_variance / 2).exp(), images.labels[batch])
            kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
            loss = F.binary_cross_entropy_with_logits(logits, pixels[batch]) + divergence * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        if progress is not None:
            progress(epoch + 1, epochs, total / len(pixels))
    return decoder.eval().requires_grad_(True)
