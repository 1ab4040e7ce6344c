"""Decoders in attacks: a frozen copy, run over trials, whose images are converted to the client's shape."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, vmap
from torch.nn import functional as F

from gia.attacks.matching import Found, Matching, Point
from gia.attacks.optimization.pixels import penalty, result_of
from gia.attacks.priors import Prior
from gia.attacks.reconstruction import Reconstruction
from gia.models import pretrained

#: Brightness of red, green and blue (ITU-R BT.601, as in Pillow's "L").
_LUMA = (0.299, 0.587, 0.114)


def decoder_for(decoder: nn.Module | None, reference: Tensor) -> nn.Module:
    """A frozen copy of the decoder on the device and in the dtype of `reference`; None takes the real face decoder.

    The copy has the decoder's mode, so put a trained decoder into evaluation mode. Raises TypeError for anything but a
    module, ValueError for one without `latent_shape`, FileNotFoundError where the face decoder is not installed.
    """
    decoder = pretrained("face-decoder") if decoder is None else decoder
    if not isinstance(decoder, nn.Module):
        raise TypeError(f"decoder: expected a torch.nn.Module, got {type(decoder).__name__}")
    shape = getattr(decoder, "latent_shape", None)
    if not isinstance(shape, tuple | torch.Size) or not all(isinstance(length, int) and length > 0 for length in shape):
        raise ValueError(f"decoder: expected a module whose latent_shape is the shape of one latent, got {shape!r}")
    copied = copy.deepcopy(decoder).requires_grad_(False)
    return copied.to(device=reference.device, dtype=reference.dtype)


def as_images(pictures: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """A decoder's pictures (N, c, h, w) in [0, 1] converted to images (N, C, H, W) in [0, 1] of the client's shape.

    Height and width are resized by antialiased bilinear interpolation, as `gia.data` resizes photos. Color becomes gray
    by brightness, gray becomes color by three equal channels. The conversion is differentiable.

    Args:
        pictures: (N, c, h, w).
        image_shape: (C, H, W) of the client.

    Raises ValueError for pictures of another form or with other numbers of channels.

    >>> import torch
    >>> as_images(torch.ones(2, 3, 8, 8), (1, 4, 4)).shape
    torch.Size([2, 1, 4, 4])
    """
    if pictures.dim() != 4:
        raise ValueError(f"decoder: expected images (N, C, H, W), got {tuple(pictures.shape)}")
    channels, *size = image_shape
    if pictures.shape[1] == 3 and channels == 1:
        pictures = (pictures * pictures.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    elif pictures.shape[1] == 1 and channels == 3:
        pictures = pictures.expand(-1, 3, -1, -1)
    elif pictures.shape[1] != channels:
        raise ValueError(f"decoder: expected images with 1, 3 or {channels} channels, got {pictures.shape[1]}")
    if list(pictures.shape[2:]) != size:
        pictures = F.interpolate(pictures, size=tuple(size), mode="bilinear", antialias=True)
    return pictures


class Decoders:
    """One decoder with separate weights in each trial, run for all trials at once.

    Args:
        decoders: one per trial, equal except for their weights (`decoder_for`); or the same decoder several times.
        image_shape: (C, H, W) of the client.

    Attributes:
        weights: each parameter, (R, *its shape).

    Batch normalization in training mode uses the statistics of each trial's batch and does not store them.
    """

    def __init__(self, decoders: Sequence[nn.Module], image_shape: tuple[int, int, int]) -> None:
        self._decoder, self._image_shape = decoders[0], image_shape
        self._ranged = False
        self._labelled = takes_labels(self._decoder)
        self._names = [name for name, _ in self._decoder.named_parameters()]
        each = [dict(decoder.named_parameters()) for decoder in decoders]
        self.weights = [torch.stack([weights[name].detach() for weights in each]) for name in self._names]
        for module in list(self._decoder.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                replace_all_batch_norm_modules_(module)

    def __call__(self, weights: Sequence[Tensor], latents: Tensor, labels: Tensor) -> Tensor:
        """Weights (R, ...), latents (R, B, *latent_shape) and labels (R, B) -> images (R, B, C, H, W).

        Raises ValueError for a decoder that cannot run over trials, such as one that draws random numbers, and where
        the first pictures are not in [0, 1].
        """

        def pictures(weights: list[Tensor], latents: Tensor, labels: Tensor) -> Tensor:
            inputs = (latents, labels) if self._labelled else (latents,)
            made: Tensor = functional_call(self._decoder, dict(zip(self._names, weights, strict=True)), inputs)
            return made

        try:
            made = vmap(pictures)(list(weights), latents, labels)
        except RuntimeError as error:
            raise ValueError(f"decoder: expected one that torch.func.vmap can run, got an error: {error}") from error
        if not self._ranged and not bool((made >= 0).all() and (made <= 1).all()):
            low, high = float(made.detach().min()), float(made.detach().max())
            raise ValueError(f"decoder: expected images in [0, 1], got values from {low:.3g} to {high:.3g}")
        self._ranged = True  # checked once, since the check waits for an accelerator
        images = as_images(made.flatten(0, 1), self._image_shape)
        return images.view(*made.shape[:2], *self._image_shape)


def takes_labels(decoder: nn.Module) -> bool:
    """Whether the decoder is called as decoder(z, labels) and not as decoder(z)."""
    try:
        inspect.signature(decoder.forward).bind(None, None)
    except TypeError:
        return False
    return True


def draw_latents(decoder: nn.Module, batch_size: int, generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """(R, B, *latent_shape) from N(0, 1), one generator per trial."""
    shape = (batch_size, *decoder.latent_shape)  # type: ignore[misc]
    # Drawn in float32 on the generator's device, then moved: the same start for every device and dtype.
    drawn = [torch.randn(shape, generator=g, device=g.device, dtype=torch.float32) for g in generators]
    return torch.stack(drawn).to(like)


def matched(
    problem: Matching,
    decode: Callable[[Sequence[Tensor]], Tensor],
    variables: Sequence[Tensor],
    labels: Tensor,
    trials: slice,
    priors: Sequence[Prior] = (),
) -> Point:
    """The objective of the decoded images, priors on them included, and its gradient with respect to the variables.

    The matching engine differentiates the victim with respect to the images. One backward pass through the decoders
    leads from the images to the variables.
    """
    leaves = [variable.detach().requires_grad_() for variable in variables]
    decoded = decode(leaves)
    images = decoded.detach()
    data, to_images, _ = problem(images, labels, trials=trials)
    values = data
    if priors:
        extra, along = penalty(priors, images)
        values, to_images = values + extra, to_images + along
    return Point(values, torch.autograd.grad(decoded, leaves, to_images), data)


def reconstructions(images: Tensor, found: Found, problem: Matching) -> list[Reconstruction]:
    """One reconstruction per trial, from its best images (R, B, C, H, W) and the search that found them."""
    return [
        result_of(images.detach(), problem.labels, found, problem, trial, range(trial, trial + 1))
        for trial in range(len(problem))
    ]
