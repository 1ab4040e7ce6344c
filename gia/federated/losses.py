"""Training losses by name, and the targets that each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from gia.errors import expected_one_of
from gia.federated.outputs import check_logits

__all__ = ["LOSSES", "Loss", "LossName", "check_labels", "class_loss", "loss_of", "takes_targets"]

#: (outputs, targets) -> scalar, a mean over images. Outputs are logits (N, K) where targets are class labels (N,).
Loss = Callable[[Tensor, Tensor], Tensor]
LossName = Literal["cross_entropy", "bce", "mse"]


def _bce(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits: one logit per image, or one per label of a multi-label classifier."""
    return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs).view_as(outputs))


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of a regression."""
    return F.mse_loss(outputs, targets.to(outputs).view_as(outputs))


#: Name -> loss. "cross_entropy" takes class labels (N,) int64; the others take targets with an entry per output.
LOSSES: Mapping[str, Loss] = {"cross_entropy": F.cross_entropy, "bce": _bce, "mse": _mse}


def loss_of(loss: Loss | LossName) -> Loss:
    """The function of a loss that is given by name or as a function.

    Args:
        loss: "cross_entropy", "bce" (binary cross-entropy of logits, for one logit or many labels), "mse", or a
            function (outputs, targets) -> scalar.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a function.

    >>> import torch
    >>> from gia.federated.losses import loss_of
    >>> loss_of("mse")(torch.zeros(2, 1), torch.tensor([1.0, 2.0]))
    tensor(2.5000)
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(expected_one_of("loss", loss, list(LOSSES)))
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"loss: expected a function or one of {list(LOSSES)}, got {type(loss).__name__}")
    return loss


def takes_targets(loss: Loss | LossName) -> bool:
    """Whether a loss compares each output with its own target, so that there are no class labels: "bce" and "mse".

    >>> from gia.federated.losses import takes_targets
    >>> takes_targets("bce"), takes_targets("cross_entropy")
    (True, False)
    """
    return loss_of(loss) in (_bce, _mse)


def class_loss(loss: Loss | LossName, attack: str) -> Loss:
    """The function of a loss over class labels, for an attack that needs these.

    Raises:
        ValueError: "bce" or "mse", which have no class labels.

    >>> from gia.federated.losses import class_loss
    >>> class_loss("mse", "idlg")
    Traceback (most recent call last):
    ValueError: loss: expected one over class labels, which idlg needs, got 'mse'
    """
    found = loss_of(loss)
    if takes_targets(found):
        name = next(name for name, one in LOSSES.items() if one is found)
        raise ValueError(f"loss: expected one over class labels, which {attack} needs, got {name!r}")
    return found


def check_labels(labels: Tensor, outputs: Tensor, loss: Loss = F.cross_entropy) -> None:
    """Raise ValueError for targets that do not fit the outputs of a model under a loss.

    Class labels, int64 (N,), need logits (N, classes) with one logit for each class. A function of the user with a
    single logit may take the labels 0 and 1. Other targets have one entry for each output; "bce" needs them in [0, 1].

    >>> import torch
    >>> from gia.federated.losses import check_labels
    >>> check_labels(torch.tensor([0, 3]), torch.zeros(2, 3))
    Traceback (most recent call last):
    ValueError: labels: expected 0 to 2 for 3 logits, got 0 to 3
    """
    if takes_targets(loss):
        if labels.numel() != outputs.numel() or len(labels) != len(outputs):
            raise ValueError(
                f"labels: expected one target for each output {tuple(outputs.shape)}, got {tuple(labels.shape)}"
            )
        if loss is _bce and not bool(((labels >= 0) & (labels <= 1)).all()):
            raise ValueError(
                f"labels: expected targets in [0, 1] for bce, got {float(labels.min()):g} to {float(labels.max()):g}"
            )
        return
    if labels.is_floating_point():
        if loss is F.cross_entropy:
            raise ValueError(f"labels: expected class labels (N,) of int64 for cross-entropy, got {labels.dtype}")
        return
    check_logits(outputs)
    logits = outputs.shape[1]
    classes = 2 if logits == 1 and loss is not F.cross_entropy else logits
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"labels: expected 0 to {classes - 1} for {logits} logits, got {int(labels.min())} to {int(labels.max())}"
        )
