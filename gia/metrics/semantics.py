"""Agreement of a classifier's top-k labels: whether the content can be recognised, independent of single pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gia.metrics._checks import image_pair

__all__ = ["jaccard"]


@torch.no_grad()
def jaccard(reconstruction: Tensor, reference: Tensor, *, classifier: Callable[[Tensor], Tensor], k: int = 5) -> Tensor:
    """Jaccard index of the k most likely labels of each image and of its original, as a classifier sees them.

    |A and B| / |A or B| for two sets of k labels, which is m / (2k - m) for m labels in common; k = 1 gives 0 or 1.

    Args:
        reconstruction: aligned images (B,C,H,W), float32 or float64; values outside [0,1] are clamped.
        reference: the originals (B,C,H,W), in [0,1].
        classifier: maps images (B,C,H,W) in [0,1] to logits (B,classes); a module must be in eval mode.
        k: number of labels, from 1 to the number of classes.

    Returns:
        Tensor (B,), in [0,1], one of the k + 1 values m / (2k - m).

    Raises:
        ValueError: the classifier is in training mode (batch statistics would mix the images and change it), its
            logits have another shape or are not finite, or there are fewer than k classes. Otherwise see `gia.metrics`.

    >>> import torch, gia
    >>> reference = gia.data.load("digits").images[:3]
    >>> by_rows = lambda images: images.mean((1, 3))  # eight "classes", one per row of pixels
    >>> gia.metrics.jaccard(reference.flip(3), reference, classifier=by_rows, k=2)
    tensor([1., 1., 1.])
    >>> gia.metrics.jaccard(reference.flip(2), reference, classifier=by_rows, k=2)
    tensor([1., 0., 1.])
    """
    reconstruction, reference = image_pair(reconstruction, reference)
    if isinstance(classifier, nn.Module) and any(module.training for module in classifier.modules()):
        raise ValueError("classifier: expected all modules in eval mode, got training mode; call classifier.eval()")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k: expected a positive int, got {k!r}")
    mine = _top_labels(classifier(reconstruction.clamp(0, 1)), len(reference), k)
    theirs = _top_labels(classifier(reference), len(reference), k)
    common = (mine[:, :, None] == theirs[:, None, :]).sum(dim=(1, 2)).to(reference.dtype)
    return common / (2 * k - common)


def _top_labels(logits: Tensor, count: int, k: int) -> Tensor:
    if logits.dim() != 2 or len(logits) != count:
        raise ValueError(f"classifier: expected logits of shape ({count}, classes), got {tuple(logits.shape)}")
    if logits.shape[1] < k:
        raise ValueError(f"k: expected at most the number of classes, {logits.shape[1]}, got {k}")
    if not bool(logits.isfinite().all()):
        raise ValueError("classifier: expected finite logits, got NaN or infinity")
    return logits.topk(k, dim=1).indices
