"""A decoder with classes: small enough to be trained in a second on digits, for attacks that search its latents."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.data.images import Images
from gia.models import keeping
from gia.models.initialization import initialize

__all__ = ["ClassDecoder", "train_decoder"]


class ClassDecoder(nn.Module):
    """(z, label) -> image: a perceptron with two hidden layers. `latent_shape` is the shape of one z, (latent,)."""

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
        """The same before the sigmoid, (N, C * H * W)."""
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
    generator: torch.Generator,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> ClassDecoder:
    """Train the decoder of a conditional variational autoencoder (Sohn et al., 2015, Eq. 4) on labelled images.

    The encoder, a perceptron with one hidden layer, is thrown away. The loss of an image is its binary cross-entropy
    per pixel plus `divergence` times KL(q(z | x, y), N(0, 1)); Adam's step size falls linearly to zero.

    Args:
        latent, width: entries of z; units of each hidden layer.
        divergence: smaller values follow single images more closely, larger ones make every N(0, 1) sample likely.
        generator: decides start, order and noise; one draw is taken from it, also when the cache answers.
        cache: folder of finished decoders, none by default, keyed as in `gia.federated.fit`.
        progress: called after each epoch with (epochs done, epochs, mean loss).

    Returns it in float32, on the CPU, in eval mode. It takes z of N(0, 1) in every entry.

    Measured with 1,397 of the digits at 8 pixels (1.2 s of one core), in four draws of them: of 1,000 samples, a
    perceptron trained on the same digits, which is right on 95 to 98 % of the other 400, sees the label that was asked
    for in 98.7 to 99.9 %.

    Raises ValueError for a setting out of range or a cache that cannot be read.
    """
    sizes = {"latent": latent, "width": width, "epochs": epochs, "batch_size": batch_size}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not lr > 0 or not divergence >= 0:
        raise ValueError(f"lr and divergence: expected lr > 0 and a weight >= 0, got {lr} and {divergence}")
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    source = torch.Generator().manual_seed(seed)
    _, channels, height, side = images.images.shape
    with torch.device("meta"):  # an initialization would draw from the global random state
        decoder = ClassDecoder(
            image_shape=(channels, height, side), num_classes=images.num_classes, latent=latent, width=width
        )
        encoder = nn.Sequential(
            nn.Linear(channels * height * side + images.num_classes, width), nn.ReLU(), nn.Linear(width, 2 * latent)
        )
    for net in (decoder, encoder):
        net.to_empty(device="cpu")
        initialize(net, "torch", source)
    if cache is None:
        return _trained(decoder, encoder, images, epochs, batch_size, lr, divergence, source, progress)
    settings: Mapping[str, float] = {**sizes, "lr": lr, "divergence": divergence, "seed": seed}
    data = {"images": images.images, "labels": images.labels}
    path = Path(cache) / f"decoder-{keeping.key(decoder, data, settings)}.safetensors"
    if path.exists():
        decoder.load_state_dict(keeping.read(path)[0])
        return decoder.eval()
    decoder = _trained(decoder, encoder, images, epochs, batch_size, lr, divergence, source, progress)
    keeping.write(path, decoder.state_dict(), {})
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
    pixels, classes = images.images.flatten(1), F.one_hot(images.labels, images.num_classes).float()
    known = torch.cat([pixels, classes], 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr)
    batches = -(-len(pixels) // batch_size)
    for epoch in range(epochs):
        total = 0.0
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - epoch / epochs)
        for batch in torch.tensor_split(torch.randperm(len(pixels), generator=source), batches):
            mean, log_variance = encoder(known[batch]).chunk(2, 1)
            noise = torch.randn(mean.shape, generator=source)
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
