"""What a model must be and return: initialized parameters, and one tensor of outputs with a row for each image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["check_initialized", "check_logits", "output_of"]


def check_initialized(model: nn.Module) -> None:
    """Raise TypeError for a value that is no module, and ValueError for a script or lazy parameters without values.

    >>> from torch import nn
    >>> from gia.federated.outputs import check_initialized
    >>> check_initialized(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)))
    Traceback (most recent call last):
    ValueError: model: expected initialized parameters, got the lazy '1.weight'; call the model once on an image
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"model: expected a module of Python, got a {type(model).__name__}, which takes no hooks")
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            raise ValueError(
                f"model: expected initialized parameters, got the lazy {name!r}; call the model once on an image"
            )


def output_of(returned: object, count: int | None = None) -> Tensor:
    """The tensor of outputs in what a model returned, with one row for each image.

    Args:
        returned: a tensor, an object or mapping with `logits`, or a tuple or list whose first entry is the tensor.
            Trailing dimensions of size 1, as in (N, K, 1, 1), are dropped.
        count: number of images, which the first dimension must have; None does not check it.

    Raises:
        ValueError: the model returned anything else; the message says what.

    >>> import torch
    >>> from gia.federated.outputs import output_of
    >>> output_of({"logits": torch.zeros(2, 3, 1, 1)}, 2).shape
    torch.Size([2, 3])
    >>> output_of("cat")
    Traceback (most recent call last):
    ValueError: model: expected logits (N, classes), got str
    """
    found = returned
    if not isinstance(found, Tensor):
        if isinstance(found, Mapping):
            found = found.get("logits")
        elif hasattr(found, "logits"):
            found = found.logits
        elif isinstance(found, tuple | list) and found:
            found = found[0]
    if not isinstance(found, Tensor):
        raise ValueError(f"model: expected logits (N, classes), got {_described(returned)}")
    while found.dim() > 2 and found.shape[-1] == 1:
        found = found.squeeze(-1)
    if found.dim() == 0 or (count is not None and len(found) != count):
        raise ValueError(
            f"model: expected logits (N, classes){f' for {count} images' if count else ''}, got {tuple(found.shape)}"
        )
    return found


def check_logits(output: Tensor) -> None:
    """Raise ValueError unless an output is one vector of logits per image.

    >>> import torch
    >>> from gia.federated.outputs import check_logits
    >>> check_logits(torch.zeros(2, 4, 10, 10))
    Traceback (most recent call last):
    ValueError: model: expected logits (N, classes), got (2, 4, 10, 10)
    """
    if output.dim() != 2:
        raise ValueError(f"model: expected logits (N, classes), got {tuple(output.shape)}")


def _described(returned: object) -> str:
    if isinstance(returned, Mapping):
        return f"{type(returned).__name__} with the keys {list(returned)[:5]}"
    if isinstance(returned, tuple | list):
        return f"{type(returned).__name__} of {[type(one).__name__ for one in returned][:5]}"
    return type(returned).__name__
