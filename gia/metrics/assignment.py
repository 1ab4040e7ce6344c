"""Which reconstruction belongs to which original, and what an original without a reconstruction is scored with."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gia.errors import expected_one_of
from gia.metrics._checks import image_batch, image_pair, reference_batch, same_kind
from gia.metrics.perceptual import SMALLEST, pairwise

__all__ = ["align", "blind_guess", "match"]


@torch.no_grad()
def match(reconstruction: Tensor, reference: Tensor, *, by: str = "pixels") -> Tensor:
    """For each original the index of its reconstruction: the assignment of least total cost (Hungarian method).

    A reconstruction is assigned to at most one original. Pass one attacked batch at a time: matching across batches
    would credit an attack with images that it did not attack.

    Args:
        reconstruction: images (N,C,H,W), float32 or float64, clamped to [0,1] for the comparison. N may differ from B,
            and may be 0.
        reference: the originals (B,C,H,W), in [0,1].
        by: the cost of a pair, "pixels" for the mean squared error or "lpips" for LPIPS with AlexNet.

    Returns:
        LongTensor (B,) of indices into `reconstruction`; -1 for an original without one, which happens if N < B.

    Raises:
        ValueError: `by` is another word, or the shapes differ beyond the first axis. Otherwise see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("digits").images[:3]
    >>> gia.metrics.match(reference[[2, 0]], reference)
    tensor([ 1, -1,  0])
    """
    if by not in ("pixels", "lpips"):
        raise ValueError(expected_one_of("by", by, ("pixels", "lpips")))
    reconstruction, reference = _batches(reconstruction, reference, smallest=SMALLEST if by == "lpips" else 1)
    chosen = torch.full((len(reference),), -1, dtype=torch.long, device="cpu")
    if len(reconstruction):
        x = reconstruction.clamp(0, 1)
        cost = _squared_errors(x, reference) if by == "pixels" else pairwise(2 * x - 1, 2 * reference - 1, net="alex")
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        chosen[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return chosen.to(reference.device)


@torch.no_grad()
def align(reconstruction: Tensor, reference: Tensor, *, blind: Tensor, by: str = "pixels") -> Tensor:
    """The reconstructions in the order of the originals, with `blind` for originals that `match` gives none.

    Args:
        reconstruction: images (N,C,H,W), float32 or float64; they are returned as they are, not clamped.
        reference: the originals (B,C,H,W), in [0,1].
        blind: images (B,C,H,W) that stand in for missing reconstructions, for example from `blind_guess`.
        by: the cost of a pair, "pixels" or "lpips", as in `match`.

    Returns:
        Tensor (B,C,H,W).

    Raises:
        ValueError: `blind` has another shape than `reference`. Otherwise as `match`.

    >>> import torch, gia
    >>> reference = gia.data.load("digits").images[:3]
    >>> aligned = gia.metrics.align(reference[[2, 0]], reference, blind=gia.metrics.blind_guess(reference))
    >>> gia.metrics.exact(aligned, reference)
    tensor([ True, False,  True])
    """
    chosen = match(reconstruction, reference, by=by)
    blind, reference = image_pair(blind, reference, name="blind")
    if len(reconstruction) == 0:
        return blind.clone()
    return torch.where((chosen < 0)[:, None, None, None], blind, reconstruction.detach()[chosen.clamp_min(0)])


@torch.no_grad()
def blind_guess(reference: Tensor, *, mean_image: Tensor | None = None) -> Tensor:
    """For each image the better of two guesses that need no gradient: what a failed attack is compared with.

    One guess is the image's own best constant color (its mean in each channel, a little more than an attacker knows),
    the other is `mean_image`; the better one has the lower mean squared error.

    Args:
        reference: the originals (B,C,H,W), in [0,1].
        mean_image: mean of the images that an attacker may have, (C,H,W) or (1,C,H,W), in [0,1]. None leaves the
            constant color only.

    Returns:
        Tensor (B,C,H,W), in [0,1].

    Raises:
        ValueError: `mean_image` has another shape. Otherwise see `gia.metrics`.

    >>> import torch, gia
    >>> faces = gia.data.load("faces", image_size=32).images
    >>> gia.metrics.psnr(gia.metrics.blind_guess(faces[:2]), faces[:2])
    tensor([14.3498, 17.2498])
    >>> gia.metrics.psnr(gia.metrics.blind_guess(faces[:2], mean_image=faces[10:].mean(0)), faces[:2])
    tensor([17.6656, 17.2498])
    """
    reference = reference_batch(reference, "reference")
    constant = reference.mean(dim=(2, 3), keepdim=True).expand_as(reference)
    if mean_image is None:
        return constant.clone()
    shape = tuple(reference.shape[1:])
    if not isinstance(mean_image, Tensor) or mean_image.shape not in (shape, (1, *shape)):
        got = tuple(mean_image.shape) if isinstance(mean_image, Tensor) else type(mean_image).__name__
        raise ValueError(f"mean_image: expected a Tensor {shape}, got {got}")
    mean = reference_batch(mean_image.reshape(1, *shape), "mean_image").to(reference).expand_as(reference)
    better = _error(mean, reference) < _error(constant, reference)
    return torch.where(better[:, None, None, None], mean, constant)


def _batches(reconstruction: Tensor, reference: Tensor, *, smallest: int) -> tuple[Tensor, Tensor]:
    reference = reference_batch(reference, "reference", smallest=smallest)
    reconstruction = image_batch(reconstruction, "reconstruction", smallest=smallest)
    if reconstruction.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"reconstruction: expected images of the shape of those in reference, {tuple(reference.shape[1:])}, "
            f"got {tuple(reconstruction.shape[1:])}"
        )
    same_kind(reconstruction, reference, "reconstruction")
    return reconstruction, reference


def _squared_errors(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared errors (N,B) of all pairs, in float64 because |x|^2 + |y|^2 - 2xy cancels where images agree."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T
    return squares / x.shape[1]


def _error(images: Tensor, reference: Tensor) -> Tensor:
    return (images - reference).square().mean(dim=(1, 2, 3))
