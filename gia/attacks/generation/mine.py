"""A decoder between a search and the matching problem: latents in, images of the client's shape out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gia.federated import set_mode

#: Red, green and blue in gray (ITU-R BT.601), as image libraries convert.
_LUMA = (0.299, 0.587, 0.114)


class Decoding:
    """z (R, B, *latent_shape) -> images (R, B, C, H, W) in [0, 1].

    A decoder is a module with `.latent_shape`, called as decoder(z) or, where its `forward` takes two arguments,
    decoder(z, labels), with z (N, *latent_shape) and labels (N,) int64. A copy of it runs in evaluation mode, in the
    victim's dtype and on its device.

    Where it makes other images than the client's, these are fitted: colour becomes gray by luma, gray is repeated in
    three channels, and then the whole picture is resized with an antialiased bilinear filter, as `gia.data.load` does.

    Args:
        decoder: as above.
        image_shape: (C, H, W) of the client.
        labels: (R, B) int64 of every trial.
        like: a tensor with the victim's dtype and device.

    Raises TypeError for what is no such module, ValueError for one that does not take the latents or the labels, or
    whose images cannot be fitted or lie outside [0, 1].
    """

    def __init__(self, decoder: nn.Module, *, image_shape: tuple[int, int, int], labels: Tensor, like: Tensor) -> None:
        if not isinstance(decoder, nn.Module):
            raise TypeError(f"decoder: expected a torch.nn.Module, got {type(decoder).__name__}")
        shape = getattr(decoder, "latent_shape", None)
        if not isinstance(shape, Sequence):
            raise TypeError("decoder: expected a module with .latent_shape, the shape of one z such as (100,)")
        self.latent_shape = tuple(shape)
        self._decoder = set_mode(copy.deepcopy(decoder), False).to(like).requires_grad_(False)
        self._conditional = _takes_labels(decoder)
        self._labels, self._shape = labels, image_shape
        self._check(like)

    def __call__(self, latents: Tensor, trials: slice = slice(None)) -> Tensor:
        """Images of the chosen trials."""
        images = self._decode(latents.flatten(0, 1), self._labels[trials].flatten())
        channels, height, width = self._shape
        if images.shape[1] == 3 and channels == 1:
            images = (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        if images.shape[1] == 1 and channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[2:] != (height, width):
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        return images.view(*latents.shape[:2], *self._shape)

    def _decode(self, latents: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self._decoder(latents, labels) if self._conditional else self._decoder(latents)
        return images

    @torch.no_grad()
    def _check(self, like: Tensor) -> None:
        labels = self._labels[0]
        latents = like.new_zeros(len(labels), *self.latent_shape)
        try:
            images = self._decode(latents, self._labels.max().expand(len(labels)))
        except (RuntimeError, IndexError, ValueError) as error:
            wanted = f" with labels up to {int(self._labels.max())}" if self._conditional else ""
            raise ValueError(f"decoder: it does not take latents {tuple(latents.shape)}{wanted}: {error}") from error
        channels = self._shape[0]
        fits = images.dim() == 4 and (images.shape[1] == channels or {images.shape[1], channels} == {1, 3})
        if not fits or len(images) != len(labels):
            raise ValueError(
                f"decoder: expected images ({len(labels)}, {channels}, H, W), colour for gray or gray for colour, "
                f"got {tuple(images.shape)}"
            )
        if not bool(((images >= 0) & (images <= 1)).all()):  # also for NaN
            raise ValueError(
                f"decoder: expected images in [0, 1], got {float(images.min()):.3g} to {float(images.max()):.3g}"
            )


def _takes_labels(decoder: nn.Module) -> bool:
    try:
        inspect.signature(decoder.forward).bind(None, None)
    except TypeError:
        return False
    return True
