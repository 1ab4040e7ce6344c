"""What a model must be and return before a gradient of it means anything: initialized parameters, logits (N, K)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["check_initialized", "logits_of"]


def check_initialized(model: nn.Module) -> None:
    """Refuse lazy parameters and buffers, which get their values from the global random state at the first call.

    Args:
        model: not changed.

    Raises:
        ValueError: a parameter or buffer is not initialized.

    >>> from torch import nn
    >>> from gia.federated.model_output import check_initialized
    >>> check_initialized(nn.LazyLinear(10))
    Traceback (most recent call last):
    ValueError: model: expected initialized parameters, got lazy ones; parameters are not initialized; call it once
    """
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError(
            "model: expected initialized parameters, got lazy ones; parameters are not initialized; call it once"
        )


def logits_of(output: Any, count: int) -> Tensor:
    """What a model returned for `count` images, if it is a tensor of logits (N, classes).

    Args:
        output: what the model returned.
        count: N, the number of images.

    Returns:
        The same tensor.

    Raises:
        ValueError: anything else.

    >>> import torch
    >>> from gia.federated.model_output import logits_of
    >>> logits_of(torch.zeros(2, 10, 1, 1), 2)
    Traceback (most recent call last):
    ValueError: model: expected logits (N, classes), got a tensor of shape (2, 10, 1, 1) for 2 images
    """
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == count:
        return output
    got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ValueError(f"model: expected logits (N, classes), got {got} for {count} images")
